"""The WebSocket of a client that speaks Action Cable, or AnyCable's extended protocol. Its commands are done in the
order in which they came."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.dialects.cable import commands, identity, words
from raiden.dialects.cable.commands import Command
from raiden.dialects.cable.follows import Follows
from raiden.dialects.cable.identity import Identity
from raiden.dialects.cable.kept import Kept, new_part
from raiden.dialects.cable.part import Part
from raiden.dialects.in_order import Rest
from raiden.dialects.socket import DialectSocket
from raiden.hooks.guest import Guest
from raiden.model.attributes import Attributes
from raiden.model.message import Cursor, Kind, Message
from raiden.model.payload import check_size
from raiden.model.refusals import Refusal, attempt
from raiden.model.strict_json import json_payload
from raiden.protocols import websocket
from raiden.protocols.websocket import WebSocket
from raiden.sessions import over
from raiden.sessions.over import Over

# Seconds between pings: the wheel makes 3 of it, for it rounds up. Clients take a connection without a message for 6 s
# for dead.
PING: Final = 2.9
# Seconds for which messages of a session that came back are held back for a client that does not ask for its past.
HELD: Final = 5.0

# The reasons why a connection is closed, as clients are told them, and whether they are to come back; those of the
# session itself, by Raiden's own close codes.
_OVER: Final = {
    over.EXPIRED: ("token_expired", False),
    over.REVOKED: ("unauthorized", False),
    over.CHANGED: ("remote", True),
    over.DRAINING: ("server_restart", True),
    over.SLOW: ("too_slow", True),
    over.FAILED: ("unavailable", True),
}
_REASONS: Final = {
    websocket.PING_TIMEOUT: "no_pong",
    websocket.MISSED: "messages_lost",
    websocket.POLICY: "invalid_request",
}
_NORMAL: Final = 1000


class Opening:
    """The beginning of a connection: its client; the ``refusal``, if that may not connect; and the id of the session
    that it had ``before`` ("": none)."""

    def __init__(self, *, is_extended: bool, before: str) -> None:
        self.identity = Identity()
        self.is_extended = is_extended
        self.before = before
        self.refusal: Refusal | None = None


class CableSocket(DialectSocket):
    """A client's WebSocket. ``part`` is what all of a worker share; ``identifiers`` are those of the client's token."""

    __slots__ = ("_beats", "_heard_at", "_held_until", "_opening", "_sid", "follows", "identifiers", "part")

    transport = "cable"

    def __init__(self, part: Part, opening: Opening, connection: Connection, core: WebSocket) -> None:
        super().__init__(part.gateway, connection, core)
        self.keepalive = PING
        self.part = part
        self.identifiers = opening.identity.identifiers
        self.follows = Follows(
            connection, part, is_extended=opening.is_extended, deflate=core.deflate
        )  # fmt: skip
        self._opening: Opening | None = opening
        # The session's id; "": there is none that could come back.
        self._sid = ""
        # Pings since the WebSocket's own one. The time at which a client was heard that answers pings (0: it has
        # answered none); that until which messages are held back (0: they are not).
        self._beats = 0
        self._heard_at = self._held_until = 0.0

    def greet(self) -> None:
        opening, self._opening = self._opening, None
        assert opening is not None
        if opening.refusal is not None:
            self._let_out(opening.refusal)
            return
        self._sid = self.router.ids.of(self.connection) + new_part()
        # Connections that came together are not due together.
        self.alive_at = 0.0
        self.wheel.schedule(self.connection, PING * random.random())
        guest = self.connection.permit
        if guest is not None and guest.is_personal and guest.handles("connect"):
            self.do(lambda: partial(self._ask, guest))
        self.do(lambda: self._welcome(opening))

    def _ask(self, guest: Guest) -> None:
        """Let the client in where the delegate allows that. Waits."""
        refusal = attempt("a connection", guest.greet)
        if isinstance(refusal, Refusal) and self.connection.state < CLOSING:
            self._let_out(refusal)

    def _let_out(self, refusal: Refusal) -> None:
        """Disconnect a client that may not connect."""
        client.refused(self.connection, refusal, "connect", "")
        reason, reconnect = identity.reason(refusal)
        self.disconnect(reason, reconnect=reconnect)

    def _welcome(self, opening: Opening) -> Rest | None:
        before, kept = opening.before, self.part.kept
        if before and kept is not None and opening.is_extended:
            return partial(self._restore, kept, before)
        self._tell(words.welcome(self._sid))
        return None

    def _restore(self, kept: Kept, before: str) -> None:
        """Follow again what a session followed before, and welcome its client. Waits."""
        found = attempt("a session", lambda: self.follows.follow_again(kept.find(before, self._owner)))
        if isinstance(found, Refusal) or self.connection.state >= CLOSING:
            self.follows.end_all()
            found = []
        if self.connection.state >= CLOSING:
            return
        self._tell(words.welcome(self._sid, [followed.identifier for followed in found] or None))
        self._held_until = time.monotonic() + HELD if found else 0.0
        for followed in found:
            if not followed.is_held:
                followed.attach()

    @property
    def _owner(self) -> str:
        permit = self.connection.permit
        return "" if permit is None else permit.owner

    # Commands.

    def message(self, data: str | bytes) -> None:
        if self._heard_at:
            self._heard_at = time.monotonic()
        if isinstance(data, str):
            self.follows.arrived += 1
            number = self.follows.arrived
            self.do(lambda: self._command(data, number), len(data))

    def _command(self, data: str, number: int) -> Rest | None:
        """Do the ``number``th message of the client; one that is no command is ignored."""
        command = commands.read(data)
        work = None if command is None else _COMMANDS.get(command.name)
        if command is None or work is None or self.connection.state >= CLOSING:
            return None
        return work(self, command, number)

    def _subscribe(self, command: Command, number: int) -> Rest | None:
        return self.follows.subscribe(command.identifier, command.history, command.presence, number)

    def _unsubscribe(self, command: Command, number: int) -> Rest | None:
        followed = self.follows.get(command.identifier)
        if followed is not None:
            self.follows.leave(followed)
            self.follows.end(followed)
        return None

    def _history(self, command: Command, number: int) -> Rest | None:
        followed = self.follows.get(command.identifier)
        if followed is None or not self.follows.is_extended:
            return None
        return partial(self.follows.catch_up, followed, command.history)

    def _whisper(self, command: Command, number: int) -> Rest | None:
        followed = self.follows.get(command.identifier)
        if followed is None or not command.data:
            return None
        if not self.part.rights.whisper(self.connection.permit, followed.stream):
            self.follows.may_not(followed, "publish")
            return None
        refusal = attempt("a whisper", self._publish, followed.stream.name, command.data)
        if isinstance(refusal, Refusal):
            client.refused(self.connection, refusal, "publish", followed.stream.name)
        return None

    def _publish(self, channel: str, data: bytes) -> None:
        """Publish to all others that follow a stream; raises a refusal."""
        payload = json_payload(data)
        check_size(Kind.JSON, payload, self.max_message)
        if self.rates.on:
            self.rates.publish_one(client.account(self.connection), channel)
        excluded = Attributes(excluded=self.router.ids.of(self.connection))
        message = Message(channel, Kind.JSON, payload, attributes=excluded, transient=True)
        self.router.publisher.publish_one(message, _whispered, None)

    def _join(self, command: Command, number: int) -> Rest | None:
        followed = self.follows.get(command.identifier)
        if followed is not None:
            self.follows.join(followed, command.presence)
        return None

    def _leave(self, command: Command, number: int) -> Rest | None:
        followed = self.follows.get(command.identifier)
        if followed is not None:
            self.follows.leave(followed)
        return None

    def _who(self, command: Command, number: int) -> Rest | None:
        followed = self.follows.get(command.identifier)
        return None if followed is None or not self.follows.is_extended else self.follows.who(followed)

    def _perform(self, command: Command, number: int) -> Rest | None:
        self.part.told_of_actions()
        return None

    def _pong(self, command: Command, number: int) -> Rest | None:
        if self.follows.is_extended:
            self._heard_at = time.monotonic()
        return None

    def _ping(self, command: Command, number: int) -> Rest | None:
        self._tell(words.PONG)
        return None

    # What the client is told.

    def _tell(self, frame: bytes) -> None:
        self.connection.send(frame)

    def keep_alive(self) -> None:
        now = time.monotonic()
        patience = self.part.pong_timeout
        if patience and self._heard_at and now > self._heard_at + patience:
            self.goodbye(websocket.PING_TIMEOUT, "")
            return
        if self._held_until and now > self._held_until:
            self._held_until = 0.0
            self.do(lambda: self.follows.release_all)
        self._tell(words.ping(int(time.time())))
        self._beats += 1
        if self._beats * PING >= self.gateway.limits.keepalive:
            self._beats = 0
            super().keep_alive()  # the WebSocket's own ping, which each client answers
        else:
            self.rest()

    def over(self, reason: Over) -> None:
        told, reconnect = _OVER.get(reason, ("remote", False))
        self.disconnect(told, reconnect=reconnect)

    def remove(self, name: str) -> None:
        for followed in self.follows:
            if followed.stream.name == name:
                self.follows.end(followed)
                self._tell(words.about("reject_subscription", followed.identifier))

    def withdraw(self, name: str, durable: str, refusal: Refusal | None) -> None:
        if refusal is None:
            self.over(over.CHANGED)
        else:
            self.remove(name)

    def goodbye(self, code: int, reason: str) -> None:
        self.disconnect(_REASONS.get(code, "unavailable"), reconnect=True)

    def disconnect(self, reason: str, *, reconnect: bool) -> None:
        """Tell the client why it is disconnected, and close. It begins anew after that, and has no use for its
        session."""
        self._sid = ""
        self.websocket.close(_NORMAL, "")
        self.finish(words.disconnect(reason, reconnect=reconnect) + self.websocket.data_to_send())

    def close(self) -> None:
        if self._sid and self.follows.is_extended and len(self.follows):
            self.part.keep_soon(self._sid, self._owner, [followed.identifier for followed in self.follows])
        self._sid = ""
        self.follows.end_all()
        super().close()

    def reached(self, name: str, place: Cursor | None) -> None:
        """Nothing is noted: clients tell their places by themselves."""


def _whispered(asker: object, outcome: object) -> None:
    """A whisper is not answered."""


_COMMANDS: Final[dict[str, Callable[[CableSocket, Command, int], Rest | None]]] = {
    "subscribe": CableSocket._subscribe,
    "unsubscribe": CableSocket._unsubscribe,
    "message": CableSocket._perform,
    "whisper": CableSocket._whisper,
    "history": CableSocket._history,
    "join": CableSocket._join,
    "leave": CableSocket._leave,
    "presence": CableSocket._who,
    "pong": CableSocket._pong,
    "ping": CableSocket._ping,
}
