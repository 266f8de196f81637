"""Presence as clients of the protocol know it: each connection is a member, by its id. Connections of Raiden's own
doors that last are members, too; those of long-polls are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from raiden.delivery.table import Subscription
from raiden.dialects.centrifuge import codes
from raiden.dialects.centrifuge.channels import checked
from raiden.dialects.centrifuge.codes import Denied, Disconnected, Failed
from raiden.dialects.centrifuge.messages import (
    EMPTY,
    ClientInfo,
    Join,
    Leave,
    PresenceRequest,
    PresenceResult,
    PresenceStatsRequest,
    PresenceStatsResult,
    Push,
    Reply,
)
from raiden.dialects.centrifuge.parts import Talking
from raiden.dialects.centrifuge.wire import Wire
from raiden.model.encoding import dumps
from raiden.presence.here import NOBODY, Names, Subject, subject_of
from raiden.presence.presence import Presence, View
from raiden.presence.watches import Watched
from raiden.protocols.limits import HttpLimits
from raiden.router import Router
from raiden.runtime.service import Service

_NAME: Final = b"centrifuge"


class _Member(msgspec.Struct):
    """A member, as workers tell each other of it."""

    sub: str
    info: dict[str, str]


class _Members(msgspec.Struct):
    """The clients at a channel; ``members`` is None where these are too many to list."""

    members: list[_Member] | None
    count: int


_MEMBERS: Final = msgspec.json.Decoder(_Members)


class _Clients:
    """The subjects of subscriptions: their connections' ids."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def get(self, subscription: Subscription) -> Subject:
        """The client of a subscription; `NOBODY` where it has none of its own."""
        owner: Any = subscription.owner
        connections = owner.connections()
        if getattr(owner, "answers_once", False) or len(connections) != 1:
            return NOBODY
        connection = connections[0]
        talk: Talking | None = getattr(connection.session, "talk", None)
        if talk is not None:
            return _subject(talk.info(talk.channels.get(subscription.name)))
        known = subject_of(None if connection.permit is None else connection.permit.client)
        info = ClientInfo(known.sub, self._router.ids.of(connection))
        if known.info is not None:
            info.conn_info = Raw(dumps(known.info))
        return _subject(info)


class _Limits:
    """The bounds of presence, where leaves are told at once."""

    presence_linger = 0.0

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits

    @property
    def max_presence(self) -> int:
        return self._limits.max_presence

    @property
    def keepalive(self) -> float:
        return self._limits.keepalive


class Clients(Service):
    """The clients at channels, on all nodes. ``is_on``: clients may ask for them."""

    def __init__(self, router: Router, limits: HttpLimits, *, is_on: bool) -> None:
        super().__init__()
        view = View(_NAME, cast(Names, _Clients(router)))
        self._presence = Presence(router, cast(Any, _Limits(limits)), view)
        self._is_on = is_on
        self.add(self._presence)

    def of(self, channel: str) -> list[ClientInfo]:
        """The clients at a channel. Waits; raises TooManyQuestions, and Failed where they are too many to list."""
        found = self._ask(channel).members
        if found is None:
            raise Failed(codes.LIMIT_EXCEEDED)
        return [_client_of(member.sub, member.info) for member in found]

    def count(self, channel: str) -> PresenceStatsResult:
        """The numbers of clients at a channel and of their users; of these, that of the clients where there are too
        many to list. Waits; raises TooManyQuestions."""
        found = self._ask(channel)
        users = found.count if found.members is None else len({member.info["user"] for member in found.members})
        return PresenceStatsResult(found.count, users)

    def check(self) -> None:
        """Raise Failed where clients can't ask."""
        if not self._is_on:
            raise Failed(codes.NOT_AVAILABLE)

    def _ask(self, channel: str) -> _Members:
        return _MEMBERS.decode(self._presence.of(channel))

    # What clients ask for.

    def members(self, talk: Talking, ask: PresenceRequest) -> Callable[[], Reply]:
        """What waits for the answer; raises Failed and Disconnected."""
        name = self._allowed(talk, ask.channel)
        return lambda: Reply(presence=PresenceResult({each.client: each for each in self.of(name)}))

    def counts(self, talk: Talking, ask: PresenceStatsRequest) -> Callable[[], Reply]:
        """As `members`."""
        name = self._allowed(talk, ask.channel)
        return lambda: Reply(presence_stats=self.count(name))

    def _allowed(self, talk: Talking, name: str) -> str:
        if not name:
            raise Disconnected(codes.BAD)
        checked(name)
        self.check()
        if not talk.may("presence", name):
            raise Denied("presence", name)
        return name

    def watch(self, channel: str) -> Watched:
        """Follow who joins and leaves a channel. Waits; raises as `Presence.watch`."""
        return self._presence.watch([channel])[0]

    def listen(self, watched: Watched, subscription: Subscription) -> None:
        """As `Presence.listen`."""
        self._presence.listen(watched, subscription)


def _subject(info: ClientInfo) -> Subject:
    """A client as a member. What it says of itself stays JSON in a text."""
    told = {"user": info.user, "conn": bytes(info.conn_info).decode(), "chan": bytes(info.chan_info).decode()}
    return Subject(info.client, told)


def pushed(wire: Wire, name: str, what: dict[str, Any]) -> bytes:
    """The push of a member that has joined or left a channel (``name``), b"" for what is not told."""
    kinds: dict[str, Any] = {"join": Join, "leave": Leave}
    kind = kinds.get(name)
    if kind is None:
        return b""  # there are too many to tell who
    member = what[name]
    push = Push(what["channel"], **{name: kind(_client_of(member["sub"], member["info"]))})
    return wire.sent(Reply(push=push))


def _client_of(sub: str, info: dict[str, str]) -> ClientInfo:
    """The client that is this member."""
    conn, chan = info["conn"].encode(), info["chan"].encode()
    return ClientInfo(info["user"], sub, Raw(conn) if conn else EMPTY, Raw(chan) if chan else EMPTY)
