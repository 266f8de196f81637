"""The streams that one client follows, and the way of each: subscribed, in force and confirmed, sent what the client
missed, then live.

Callers see to it that the commands of a client are done one after the other. What waits is done in a greenlet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from raiden.access.permit import Permit
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.delivery.table import Subscription, TooManyChannels
from raiden.dialects.cable import attendance, words
from raiden.dialects.cable.encodings import Form
from raiden.dialects.cable.followed import Followed
from raiden.dialects.cable.missed import Missed
from raiden.dialects.cable.part import Part
from raiden.dialects.cable.streams import Stream
from raiden.dialects.in_order import Rest
from raiden.dialects.socket import DialectSocket
from raiden.model.filters import NO_FILTERS
from raiden.model.page import Start
from raiden.model.refusals import Forbidden, Refusal, TooFast, Unauthorized, Unavailable, attempt
from raiden.presence.watches import Notice
from raiden.protocols import websocket
from raiden.sessions.asks import Follow
from raiden.sessions.decisions import Decision, judge
from raiden.sessions.over import EXPIRED, REVOKED
from raiden.sessions.recovery import Batch, Beginning, Recovery

# Identifiers by which a client may follow one stream: each gets its own copy of the messages.
MAX_COPIES: Final = 16


class Follows:
    """The streams of the client of a connection, by identifier. ``is_extended``: it speaks the extended protocol;
    ``deflate``: it takes compressed frames. ``arrived`` is the number of commands that have come from it."""

    __slots__ = ("_deflate", "_followed", "_part", "arrived", "connection", "is_extended", "router")

    def __init__(self, connection: Connection, part: Part, *, is_extended: bool, deflate: bool) -> None:
        self.connection = connection
        self.router = part.gateway.router
        self._part = part
        self.is_extended = is_extended
        self._deflate = deflate
        self._followed: dict[str, Followed] = {}
        self.arrived = 0

    def __len__(self) -> int:
        return len(self._followed)

    def __iter__(self) -> Iterator[Followed]:
        return iter(list(self._followed.values()))

    def get(self, identifier: str) -> Followed | None:
        return self._followed.get(identifier)

    @property
    def _socket(self) -> DialectSocket | None:
        """The connection's session, of which this is a part; None once it is closed."""
        socket: DialectSocket | None = self.connection.session
        return socket

    def _fail(self) -> None:
        """Let the client come back: what it waits for can't be had now."""
        if self._socket is not None:
            self._socket.fail()

    def _tell(self, kind: str, identifier: str) -> None:
        self.connection.send(words.about(kind, identifier))

    # The beginning of a subscription.

    def subscribe(self, identifier: str, history: bytes, presence: bytes, number: int) -> Rest | None:
        """Follow a stream, as the ``number``th command of the client asks."""
        followed = self._followed.get(identifier)
        if followed is not None:
            # A client of the plain protocol asks again until it is confirmed, and for each of its objects that want the
            # stream. One of the extended protocol takes a confirmation that it does not wait for as an error.
            if not self.is_extended and number > followed.confirmed:
                self._tell("confirm_subscription", identifier)
            return None
        decision = self._decision(identifier)
        if isinstance(decision, Decision):
            return partial(self._ask_and_follow, decision, identifier, history, presence)
        followed = None if isinstance(decision, Refusal) else self._follow(identifier)
        if followed is None:
            self._tell("reject_subscription", identifier)
            return None
        missed = Missed.read(history, followed.stream.name) if self.is_extended else None
        is_simple = missed is None and not self._attends(followed)
        if is_simple and Beginning.is_known(self.router, (followed.stream.name,), {}):
            self._confirm(followed)
            followed.attach()
            return None
        return partial(self._begin_followed, followed, missed, presence)

    def _decision(self, identifier: str) -> Decision | Refusal | None:
        """The decision of a delegate about the stream of an identifier; None: there is nothing to ask. A question
        counts for rates, and the refusal is that of these, or of the settings."""
        permit, stream = self.connection.permit, self._part.streams.of(identifier)
        if stream is None or not self._is_open(permit, stream):
            return None
        ask = Follow(stream.name, NO_FILTERS, Start() if self.is_extended else None)

        def work() -> Decision | None:
            self._count()
            return judge(permit, ask)

        found = attempt("a subscription", work)
        if isinstance(found, Refusal):
            client.refused(self.connection, found, "subscribe", stream.name)
        return found

    def _is_open(self, permit: Permit | None, stream: Stream) -> bool:
        """Whether a delegate may let the client follow a stream."""
        if permit is None or not permit.is_personal or self._part.rights.follow(permit, stream) is not None:
            return False
        return permit.permits.policy.leaves_open(permit.client, "subscribe", stream.name)

    def _ask_and_follow(self, decision: Decision, identifier: str, history: bytes, presence: bytes) -> None:
        """Follow a stream where the delegate allows it. Waits."""
        refusal = attempt("a subscription", decision.wait)
        if self.connection.state >= CLOSING:
            return
        if isinstance(refusal, Unavailable):
            self._fail()
            return
        decision.enter()
        try:
            followed = None
            if isinstance(refusal, Refusal):
                client.refused(self.connection, refusal, "subscribe", decision.names[0])
            else:
                followed = self._follow(identifier, is_counted=True)
            if followed is None:
                self._tell("reject_subscription", identifier)
                return
            missed = Missed.read(history, followed.stream.name) if self.is_extended else None
            self._begin_followed(followed, missed, presence)
            if not followed.is_over:
                decision.keep()
        finally:
            decision.leave()

    def _count(self) -> None:
        if self._part.gateway.rates.on:
            self._part.gateway.rates.subscribe(client.account(self.connection), 1)

    def _follow(self, identifier: str, *, is_counted: bool = False) -> Followed | None:
        """Subscribe to the stream of an identifier; None: the client may not. ``is_counted``: rates know of it."""
        part, connection = self._part, self.connection
        permit = connection.permit
        stream = part.streams.of(identifier)
        filters = None if stream is None else part.rights.follow(permit, stream)
        if stream is None:
            part.told_of_class(identifier)
        if stream is None or filters is None:
            refusal = Forbidden("no stream, or one that the client may not follow")
            client.refused(connection, refusal, "subscribe", "" if stream is None else stream.name)
            return None
        copies = sum([each.stream.name == stream.name for each in self._followed.values()])
        if len(self._followed) >= part.gateway.limits.max_subscriptions or copies >= MAX_COPIES:
            return None
        try:
            if not is_counted:
                self._count()
            form = Form(identifier, self.is_extended, self._deflate)
            followed = Followed(self, stream, form, part.encodings, filters)
        except (TooFast, TooManyChannels) as error:
            client.refused(connection, error, "subscribe", stream.name)
            return None
        self._followed[identifier] = followed
        if permit is not None and permit.client.subject:
            part.attendance.hide(followed)
        return followed

    def _begin_followed(self, followed: Followed, missed: Missed | None, presence: bytes) -> None:
        """Confirm a subscription once it is in force, and send what the client missed. Waits."""
        name, history = followed.stream.name, self.router.history
        watched = self._part.attendance.watch(followed) if self._attends(followed) else None

        def work() -> Beginning:
            start = None
            if missed is not None and history is not None and self.router.keeps(name) and self._reads(followed):
                start = missed.start(history, name, self.router.position(name))
            return Beginning(self.router, (name,), {} if start is None else {name: start})

        beginning = attempt("a subscription", work)
        if isinstance(beginning, Refusal):
            self._fail()
            return
        if followed.is_over or not self._may_still():
            return
        self._confirm(followed)
        if watched is not None:
            self._part.attendance.listen(watched, followed)
        if missed is not None:
            self._answer(followed, missed, beginning.recoveries.get(name))
        if followed.is_over:
            return
        followed.attach()
        if presence and self.is_extended:
            self.join(followed, presence)

    def _confirm(self, followed: Followed) -> None:
        followed.confirmed = self.arrived
        self._tell("confirm_subscription", followed.identifier)

    def _may_still(self) -> bool:
        """Whether the client may go on: its token may have ended, or was revoked, while others were waited for."""
        permit = self.connection.permit
        if permit is None:
            return True
        try:
            permit.check_still()
        except Unauthorized:
            if self._socket is not None:
                self._socket.over(EXPIRED if permit.is_over else REVOKED)
            return False
        return True

    # What a client missed.

    def catch_up(self, followed: Followed, history: bytes) -> None:
        """Send what the client of a subscription missed, while live messages are held back. Waits."""
        if followed.is_over:
            return
        name, store = followed.stream.name, self.router.history
        missed = Missed.read(history, name) or Missed(None, 0)
        recovery: Recovery | None = None
        if store is not None and self._reads(followed) and followed.hold():

            def work() -> Recovery | None:
                start = missed.start(store, name, self.router.position(name))
                return None if start is None else Recovery(self.router, name, start)

            found = attempt("missed messages", work)
            if isinstance(found, Refusal):
                self._fail()
                return
            recovery = found
        if followed.is_over:
            return
        whole = self._answer(followed, missed, recovery)
        if followed.is_over:
            return
        if recovery is not None and whole:
            followed.attach()
        else:
            self._release(followed)

    def _reads(self, followed: Followed) -> bool:
        """Whether the client may read what came before on a stream that it follows, which it gets with the filters of
        its subscription."""
        filters = self._part.rights.past(self.connection.permit, followed.stream)
        return filters is not None and (not filters or filters == followed.subscription.filters)

    def _answer(self, followed: Followed, missed: Missed, recovery: Recovery | None) -> bool:
        """Send the messages that a client missed, and tell it that these are all, or that they can't be had; return
        which. After that nothing has yielded: the live messages follow. Waits."""
        whole: bool | Refusal
        if not self._reads(followed):
            refusal = Forbidden("the client may follow the stream, and not read what came before")
            client.refused(self.connection, refusal, "history", followed.stream.name)
            whole = False
        elif recovery is None:
            whole = missed.cursor is None
        elif recovery.gap is not None:
            whole = False
        else:
            whole = attempt("missed messages", followed.replay, recovery)
        if isinstance(whole, Refusal):
            self._fail()
            return False
        if self.connection.state < CLOSING and not followed.is_over:
            self._tell("confirm_history" if whole else "reject_history", followed.identifier)
        return whole

    def follow_again(self, identifiers: Sequence[str]) -> list[Followed]:
        """Follow streams that the client followed before, as far as it may, and return those that it still does;
        messages are held back where there is a history that has them. Waits; raises a refusal."""
        # Those that are a delegate's to decide are none of these: the client subscribes anew.
        settled = [each for each in identifiers if not self._is_decided_elsewhere(each)]
        begun = [followed for each in settled if (followed := self._follow(each)) is not None]
        watched = [self._part.attendance.watch(each) if self._attends(each) else None for each in begun]
        if begun:
            Beginning(self.router, [followed.stream.name for followed in begun], {})
        # Nothing yields from here until the client is told.
        found = []
        for followed, watch in zip(begun, watched, strict=True):
            if followed.is_over:
                continue
            if watch is not None:
                self._part.attendance.listen(watch, followed)
            followed.hold()
            found.append(followed)
        return found

    def _is_decided_elsewhere(self, identifier: str) -> bool:
        stream = self._part.streams.of(identifier)
        return stream is not None and self._is_open(self.connection.permit, stream)

    def release_all(self) -> None:
        """Send what is held back still. Waits."""
        for followed in self:
            if followed.is_held:
                self._release(followed)

    def _release(self, followed: Followed) -> None:
        if isinstance(attempt("messages that were held back", followed.release), Refusal):
            self._fail()

    # Presence.

    def _attends(self, followed: Followed) -> bool:
        """Whether the client is told who joins and leaves."""
        return self.is_extended and self._part.rights.attend(self.connection.permit, followed.stream)

    def join(self, followed: Followed, presence: bytes) -> None:
        """Let the client be at the stream, where it may."""
        if self._attends(followed):
            self._part.attendance.join(followed, presence)
        elif self.is_extended:
            self.may_not(followed, "presence")

    def may_not(self, followed: Followed, action: str) -> None:
        """Note that the client wanted to do more on a stream than it may."""
        refusal = Forbidden("the settings of the node, and the client's token, do not let it")
        client.refused(self.connection, refusal, action, followed.stream.name)

    def leave(self, followed: Followed) -> None:
        self._part.attendance.leave(followed)

    def who(self, followed: Followed) -> Rest | None:
        """Tell the client who is at the stream."""
        if not self._attends(followed):
            self.may_not(followed, "presence")
            self.connection.send(words.presence(followed.identifier, {"type": "error"}))
            return None
        return lambda: self.connection.send(self._part.attendance.told(followed))

    # The end.

    def end(self, followed: Followed) -> None:
        """Follow a stream no more."""
        self._end(followed)
        permit, name = self.connection.permit, followed.stream.name
        if permit is not None and permit.is_personal and all([each.stream.name != name for each in self]):
            permit.ended(name)

    def end_all(self) -> None:
        """Follow nothing more; the connection's permit hears of its end besides."""
        for followed in self:
            self._end(followed)

    def _end(self, followed: Followed) -> None:
        del self._followed[followed.identifier]
        self._part.attendance.forget(followed)
        followed.end()

    # What `Followed` tells.

    def send_past(self, subscription: Subscription, recovery: Recovery, batch: Batch) -> bool:
        return self._socket is not None and self._socket.send_past(subscription, recovery, batch)

    def lost(self, followed: Followed) -> None:
        """Tell the client that messages are lost. One of the plain protocol can only connect again."""
        if self.is_extended:
            self._tell("reject_history", followed.identifier)
        elif self._socket is not None:
            self._socket.goodbye(websocket.MISSED, "")

    def attending(self, followed: Followed, notice: Notice) -> None:
        data = attendance.heard(followed, notice)
        if data:
            self.connection.send(data)
