"""The long-polls of a worker: requests that wait for the same share one session, and one question to the store.

The first of them asks the store for what is behind its place, and subscribes at the tail. Those that come while it
waits join it. A stream at whose tail somebody has waited just now need not be asked for at all: the worker knows what
it has delivered, and subscribes there (`Polls._knows`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raiden.access.permit import Permit
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import OPENING, SERVING, SUBSCRIBED
from raiden.dialects.streams import answers, intervals
from raiden.dialects.streams.lifetimes import Lifetimes
from raiden.dialects.streams.long_poll import Key, LongPoll, encoding
from raiden.dialects.streams.reading import Look
from raiden.gateway import Gateway
from raiden.history.streams import Stream, StreamPage
from raiden.http.plans import shown
from raiden.model.chain import ROOT_DIGITS
from raiden.model.page import Start
from raiden.model.refusals import Refusal, Unavailable, attempt
from raiden.protocols.heads import Repeated, repeated
from raiden.protocols.http import Request
from raiden.runtime.service import Service
from raiden.sessions.recovery import Beginning

# The times that a long-poll looks for messages that come while it begins to wait.
TIMES: Final = 10
# Streams whose tails somebody has waited at, which are remembered.
REMEMBERED: Final = 10_000


class _Plan:
    """The plan for the head of a long-poll: what it asks for, its If-None-Match, and the credential that it shows where
    requests do not show their own."""

    __slots__ = ("credential", "look", "match", "name", "polls")

    def __init__(self, polls: Polls, name: str, look: Look, match: str, credential: str | None) -> None:
        self.polls: Final = polls
        self.name: Final = name
        self.look: Final = look
        self.match: Final = match
        self.credential: Final = credential

    def serve(self, connection: Connection, repeated: Repeated) -> bool:
        return self.polls.serve(connection, repeated, self)


class Polls(Service):
    """The long-polls of a gateway. ``page`` asks the store for a stream and what is behind a place. A poll waits for
    ``wait`` seconds."""

    def __init__(
        self, gateway: Gateway, lifetimes: Lifetimes, page: Callable[[str, Look], tuple[Stream, StreamPage]],
        wait: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.wait = wait
        self._gateway = gateway
        self._lifetimes = lifetimes
        self._page = page
        # Polls with clients, by all that their answer depends on.
        self._waiting: dict[Key, LongPoll] = {}
        # Streams without an end of their own, as they were when somebody began to wait at their tails.
        self._streams: dict[str, Stream] = {}

    def begin(self, connection: Connection, request: Request, name: str, look: Look) -> None:
        """Let a client wait for what is behind a place."""
        plan = _Plan(self, name, look, request.fields.get("if-none-match", ""), shown(connection))
        if "origin" not in request.fields:
            self._gateway.keep_plan(request, plan)
        self._join(connection, repeated(request), plan)

    def serve(self, connection: Connection, request: Repeated, plan: _Plan) -> bool:
        """Let a client wait whose request has this plan; False: it can't be served by that."""
        gateway = self._gateway
        try:
            connection.permit = self._permit(request, plan)
            if gateway.rates.on:
                gateway.rates.subscribe(client.account(connection), 1)
        except Refusal:
            return False
        self._join(connection, request, plan)
        return True

    def _permit(self, request: Repeated, plan: _Plan) -> Permit | None:
        """The permit of a request; raises a refusal where it does not allow to read the stream live."""
        permits = self._gateway.permits
        if permits.is_open:
            return None
        permit = permits.of(request.credential or plan.credential)
        if not permit.allows_again(plan):
            permit.check("subscribe", plan.name)
            permit.check("history", plan.name)
            permit.was_allowed(plan)
        return permit

    def _join(self, connection: Connection, request: Request | Repeated, plan: _Plan) -> None:
        look, cache = plan.look, answers.cache(connection.permit is None)
        key = Key(plan.name, look.text, intervals.behind(look.cursor), plan.match, cache)
        poll = self._waiting.get(key)
        joins = poll is not None and poll.waits
        if poll is None or not joins:
            gateway = self._gateway
            poll = LongPoll(gateway.router, gateway.door, self._lifetimes, key, look, self.wait, self._forget)
            self._waiting[key] = poll
        connection.session = poll.join(connection, request)
        connection.become("streams")
        connection.state = OPENING if connection.state == SERVING else SUBSCRIBED
        poll.schedule(connection)
        if joins:
            return
        known = self._knows(key.name, look)
        if known is None:
            self.task(self._begin, poll)
        else:
            poll.subscribe(key.name, encoding(known.is_json))
            poll.wait_at(known)

    def _forget(self, poll: LongPoll) -> None:
        """Forget a poll that was answered."""
        if self._waiting.get(poll.key) is poll:
            del self._waiting[poll.key]

    def _knows(self, name: str, look: Look) -> Stream | None:
        """The stream, where the worker knows that the place is its tail. It knows that as it does for the long-polls of
        any channel (`Beginning.is_known`)."""
        stream, place, router = self._streams.get(name), look.place, self._gateway.router
        if stream is None or place is None or not place.offset:
            return None
        if not (router.is_in_force((name,)) and router.is_fresh) or router.at_end(name) is not None:
            return None
        tail = router.position(name)
        if tail is None or (tail.offset, tail.proof) != (place.offset, place.proof):
            return None
        is_same = tail.epoch[:ROOT_DIGITS] == stream.tail.epoch[:ROOT_DIGITS]
        return stream._replace(tail=tail) if is_same else None

    def _begin(self, poll: LongPoll) -> None:
        """Answer a poll with what is behind its place, or let it wait."""
        refusal = attempt("a long-poll", self._look, poll)
        if refusal is not None:
            poll.refuse_all(refusal)

    def _look(self, poll: LongPoll) -> None:
        name, look, router = poll.name, poll.look, self._gateway.router
        for _ in range(TIMES):
            stream, page = self._page(name, look)
            if page.records:
                poll.answer_with(stream, page)
                return
            if stream.closed:
                poll.answer_all(answers.nothing(stream.tail, closed=True, floor=poll.floor))
                return
            if not poll.waiters:
                return  # they have gone
            assert page.place is not None
            poll.subscribe(name, encoding(stream.is_json))
            subscription = poll.subscriptions[name]
            deletions = subscription.deletions
            recovery = Beginning(router, (name,), {name: Start(page.place)}).recoveries.get(name)
            # What came meanwhile is read from the store; else nothing yields up to where the poll is attached.
            news = recovery is None or any([batch.messages or batch.gap for batch in recovery.batches()])
            if news or subscription.deletions != deletions:
                poll.unsubscribe(name)
                look = look._replace(place=page.place)
                continue
            if poll.waiters:
                self._remember(name, stream)
                poll.wait_at(stream)
            return
        raise Unavailable("this node is behind the history: try again later")

    def _remember(self, name: str, stream: Stream) -> None:
        if stream.ttl < 0 and not stream.expires:
            if len(self._streams) >= REMEMBERED:
                self._streams.clear()
            self._streams[name] = stream
