"""The asks of one socket held against what its token and the rates allow, and the filters that the token brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raiden.access.rates import Rates
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.delivery.table import Subscription
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.page import Read
from raiden.sessions import costs
from raiden.sessions.asks import Ask, Command
from raiden.sessions.decisions import judge_taken, needs_of_taken
from raiden.sessions.kept import Taken
from raiden.sessions.needs import needs


class Allowed:
    """What the client of a connection is allowed, now: its permit may change, and the rates. A connection without a
    permit may do all."""

    __slots__ = ("_connection", "_rates", "asked", "watched")

    def __init__(self, connection: Connection, rates: Rates) -> None:
        self._connection = connection
        self._rates = rates
        self.asked: dict[str, Filters] = {}
        """The filters that the client asked for, by the names of subscriptions that have others by its token."""
        self.watched: Sequence[str] = ()
        """The channels whose members the client watches."""

    @property
    def guest(self) -> Any:
        """The client's permit, where a delegate decides what that leaves open; else None."""
        permit = self._connection.permit
        return permit if permit is not None and permit.is_personal else None

    def check(self, ask: Ask | Command) -> None:
        """Raise a refusal unless the client may do what it asks for, or a delegate decides that; then it is counted."""
        permit = self._connection.permit
        if permit is not None and not permit.is_personal:
            for need in needs(ask):
                permit.check(*need)
        if self._rates.on:
            costs.count(self._rates, client.account(self._connection), ask)

    def check_taken(self, taken: Taken) -> None:
        """Raise a refusal unless the client may have the subscriptions of a session; these are counted. May wait for a
        delegate."""
        permit, decision = self._connection.permit, None
        if permit is not None and permit.is_personal:
            decision = judge_taken(permit, taken)
        elif permit is not None:
            for need in needs_of_taken(taken):
                permit.check(*need)
        if self._rates.on:
            self._rates.subscribe(client.account(self._connection), len(taken.rows))
        if decision is not None:
            decision.wait()
            decision.keep()

    def narrowed(self, filters: Filters, name: str, *, past: bool) -> Filters:
        """The filters of a new subscription, for which the client asks for ``filters`` (`Permit.narrowed`)."""
        permit = self._connection.permit
        if permit is None:
            return filters
        found: Filters = permit.narrowed(filters, name, past=past)
        if found != filters:
            self.asked[name] = filters
        return found

    def forget(self, name: str) -> None:
        """Forget a subscription that has ended."""
        self.asked.pop(name, None)
        if name in self.watched:
            self.watched = [each for each in self.watched if each != name]

    def may_stay(self, subscription: Subscription) -> bool:
        """Whether a subscription is allowed as it is, by a permit that is newer than it."""
        name, permit = subscription.name, self._connection.permit
        own: Filters = subscription.filters or NO_FILTERS
        if permit is None:
            return True
        if name in self.watched and not permit.allows("presence", name):
            return False
        return permit.filters("subscribe", name) is not None and own == permit.narrowed(
            self.asked.get(name, own), name, past=False
        )

    def of_history(self, ask: Read) -> Filters:
        """The filters of a page: those that the client asks for, with those of its permit."""
        permit = self._connection.permit
        filters = None if permit is None else permit.filters("history", ask.channel)
        return ask.filters if filters is None else filters.both(ask.filters)
