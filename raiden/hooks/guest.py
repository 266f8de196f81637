"""Guests: clients about which a delegate is asked, and what it has granted them on their connection."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

import gevent

from raiden.access.permit import Permit
from raiden.hooks.delegate import Delegate, DelegateAway
from raiden.hooks.question import Asker, Question
from raiden.hooks.verdict import Verdict
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.refusals import Fault, Refusal

# Seconds between two questions about a subscription whose time is over, at least; and the bounds of those after which
# one is repeated that was not answered. The number is drawn anew each time, so that questions don't come together.
LEAST: Final = 1.0
AGAIN: Final = (3.0, 6.0)
# The event by which a delegate decides an action.
_EVENTS = {"subscribe": "subscribe", "history": "subscribe", "publish": "publish"}


class Ended(Protocol):
    """The connection's session, as far as the end of a grant concerns it."""

    def withdraw(self, name: str, durable: str, refusal: Refusal | None) -> None:
        """End a subscription: the client may come back (None), or is refused."""


class _Grant(NamedTuple):
    question: Question
    verdict: Verdict
    timer: Any


class Guest(Permit):
    """The permit of one connection where there is a delegate: what the client's token does not settle, the delegate is
    asked. Granted subscriptions whose answer holds for a time are asked about again when that is over; until there is
    an answer they stay. ``id`` is the connection's, and ``max_message`` bounds the bytes of a message that the
    delegate has changed."""

    __slots__ = ("_delegate", "_granted", "_session", "asker", "deciding", "greeted", "max_message")

    is_personal = True

    def __init__(
        self, id: str, permit: Permit, delegate: Delegate, address: str, fields: Mapping[str, str], max_message: int
    ) -> None:  # fmt: skip
        super().__init__(permit.client, permit.permits)
        self.max_message = max_message
        self._delegate = delegate
        headers = {name: fields[name] for name in delegate.way.headers if name in fields}
        client = permit.client
        self.asker = Asker(id, client.subject, client.info, address, headers)
        # Granted subscriptions, by name and durable ("": none); the way to the session of the connection.
        self._granted: dict[tuple[str, str], _Grant] = {}
        self._session: Callable[[], Ended | None] | None = None
        self.deciding: Mapping[str, Filters] = {}
        """The filters of what is being done now, by the names that the delegate has allowed."""
        # Whether the delegate has let the connection in.
        self.greeted = False

    def leaves_open(self, action: str, name: str, filtered: bool = False) -> bool:
        """Whether the delegate decides an action on a channel or pattern; False: it is allowed. Raises Unauthorized or
        Forbidden where it is refused already. ``filtered`` is as in `check`."""
        policy = self.permits.policy
        if policy.filters(self.client, action, name) is None:
            event = _EVENTS.get(action, "")
            if self._delegate.handles(event) and policy.leaves_open(self.client, action, name):
                return True
        self.check(action, name, filtered)
        return False

    def filters(self, action: str, name: str) -> Filters | None:
        found = super().filters(action, name)
        return self._allowed(name) if found is None and _EVENTS.get(action) == "subscribe" else found

    def narrowed(self, filters: Filters, name: str, *, past: bool) -> Filters:
        return super().narrowed(filters, name, past=past).both(self._allowed(name) or NO_FILTERS)

    def _allowed(self, name: str) -> Filters | None:
        """The filters with which the delegate has allowed a channel or pattern; None: it has not."""
        if name in self.deciding:
            return self.deciding[name]
        grant = self._granted.get((name, ""))
        return None if grant is None else grant.verdict.filters

    def handles(self, event: str) -> bool:
        return self._delegate.handles(event)

    def question(self, event: str, channel: str | None = None, **more: Any) -> Question:
        return Question(event, self.asker, channel, **more)

    def ask(self, question: Question) -> Verdict:
        """The verdict, where it allows; raises Refusal. Waits."""
        verdict = self._delegate.ask(question)
        verdict.check()
        if verdict.info is not None:
            self.asker = self.asker.with_info(verdict.info)
            self.client = replace(self.client, info=verdict.info)
        return verdict

    def greet(self) -> None:
        """Ask whether the connection may be. Waits; raises Refusal."""
        self.ask(self.question("connect"))
        self.greeted = True

    def lasts(self, session: Callable[[], Ended | None]) -> None:
        """From now on the connection has subscriptions; ``session`` gives its session, once it has one."""
        self._session = session

    def grant(self, question: Question, verdict: Verdict, durable: str = "") -> None:
        """Note a subscription that the delegate has allowed."""
        assert question.channel is not None
        key = question.channel, durable
        self._drop(key)
        timer = None
        if verdict.ttl:
            timer = gevent.get_hub().loop.timer(max(LEAST, verdict.ttl))
            timer.start(self._due, key)
        self._granted[key] = _Grant(question, verdict, timer)

    def consumes(self, channel: str, durable: str) -> bool:
        return (channel, durable) in self._granted or super().consumes(channel, durable)

    def renewed(self, credential: str) -> Permit:
        return self.become(super().renewed(credential))

    def become(self, other: Permit) -> Permit:
        """Take another token's permissions; the delegate is asked again about all that it has granted."""
        self.client = other.client
        self.asker = replace(self.asker, sub=other.client.subject, info=other.client.info)
        for key, grant in list(self._granted.items()):
            self.grant(replace(grant.question, client=self.asker), replace(grant.verdict, ttl=LEAST), key[1])
        return self

    def ended(self, name: str, durable: str = "") -> None:
        grant = self._drop((name, durable))
        if grant is not None:
            self._delegate.tell(self.question("unsubscribe", name))

    def over(self) -> None:
        for name, durable in list(self._granted):
            self.ended(name, durable)
        if self.greeted:
            self.greeted = False
            self._delegate.tell(self.question("disconnect"))
        self._session = None

    def _drop(self, key: tuple[str, str]) -> _Grant | None:
        grant = self._granted.pop(key, None)
        if grant is not None and grant.timer is not None:
            grant.timer.stop()
            grant.timer.close()
        return grant

    def _due(self, key: tuple[str, str]) -> None:
        """The time of a grant is over. A callback of the event loop."""
        gevent.spawn(self._ask_again, key, self._granted[key])

    def _ask_again(self, key: tuple[str, str], grant: _Grant) -> None:
        refusal: Refusal | None = None
        try:
            verdict = self.ask(grant.question)
        except (DelegateAway, Fault):
            verdict = replace(grant.verdict, ttl=random.uniform(*AGAIN))
        except Refusal as error:
            refusal, verdict = error, Verdict()
        if self._granted.get(key) is not grant:
            return  # it has ended meanwhile
        if refusal is None and verdict.filters == grant.verdict.filters:
            self.grant(grant.question, verdict, key[1])
            return
        session = None if self._session is None else self._session()
        if session is not None:
            session.withdraw(*key, refusal)
        else:  # the connection waits for the history before it has one: the question is repeated
            self.grant(grant.question, replace(grant.verdict, ttl=LEAST), key[1])
