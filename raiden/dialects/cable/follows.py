"""The streams that one client follows, and the way of each: subscribed, in force and confirmed, sent what the client
missed, then live.

Callers see to it that the commands of a client are done one after the other. What waits is done in a greenlet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.delivery.table import Subscription, TooManyChannels
from raiden.dialects.cable import attendance, words
from raiden.dialects.cable.encodings import Form
from raiden.dialects.cable.followed import Followed
from raiden.dialects.cable.missed import Missed
from raiden.dialects.cable.part import Part
from raiden.dialects.in_order import Rest
from raiden.dialects.socket import DialectSocket
from raiden.model.refusals import Forbidden, Refusal, TooFast, Unauthorized, attempt
from raiden.presence.watches import Notice
from raiden.protocols import websocket
from raiden.sessions.over import EXPIRED, REVOKED
from raiden.sessions.recovery import Batch, Beginning, Recovery


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
        followed = self._follow(identifier)
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

    def _follow(self, identifier: str) -> Followed | None:
        """Subscribe to the stream of an identifier; None: the client may not."""
        part, connection = self._part, self.connection
        permit = connection.permit
        stream = part.streams.of(identifier)
        filters = None if stream is None else part.rights.follow(permit, stream)
        if stream is None or filters is None:
            refusal = Forbidden("no stream, or one that the client may not follow")
            client.refused(connection, refusal, "subscribe", "" if stream is None else stream.name)
            return None
        if len(self._followed) >= part.gateway.limits.max_subscriptions:
            return None
        try:
            if part.gateway.rates.on:
                part.gateway.rates.subscribe(client.account(connection), 1)
            form = Form(identifier, self.is_extended, self._deflate)
            followed = Followed(self, stream, form, part.encodings, filters)
        except (TooFast, TooManyChannels):
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
            if missed is not None and history is not None and self.router.keeps(name):
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
        name, store = followed.stream.name, self.router.history
        missed = Missed.read(history, name) or Missed(None, 0)
        recovery: Recovery | None = None
        if store is not None and followed.hold():

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

    def _answer(self, followed: Followed, missed: Missed, recovery: Recovery | None) -> bool:
        """Send the messages that a client missed, and tell it that these are all, or that they can't be had; return
        which. After that nothing has yielded: the live messages follow. Waits."""
        whole: bool | Refusal
        if recovery is None:
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
        begun = [followed for each in identifiers if (followed := self._follow(each)) is not None]
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

    def leave(self, followed: Followed) -> None:
        self._part.attendance.leave(followed)

    def who(self, followed: Followed) -> Rest | None:
        """Tell the client who is at the stream."""
        if not self._attends(followed):
            self.connection.send(words.presence(followed.identifier, {"type": "error"}))
            return None
        return lambda: self.connection.send(self._part.attendance.told(followed))

    # The end.

    def end(self, followed: Followed) -> None:
        """Follow a stream no more."""
        del self._followed[followed.identifier]
        self._part.attendance.forget(followed)
        followed.end()

    def end_all(self) -> None:
        for followed in self:
            self.end(followed)

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
