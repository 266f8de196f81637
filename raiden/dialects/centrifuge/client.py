"""A client: what it asks for by commands, and what it is told."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Raw

from raiden.connections import client as clients
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.delivery.table import End, Subscription
from raiden.dialects.centrifuge import codes, delegated, subscriptions, tokens
from raiden.dialects.centrifuge.channels import checked
from raiden.dialects.centrifuge.codes import Denied, Disconnected, Failed, error_of
from raiden.dialects.centrifuge.connecting import connect
from raiden.dialects.centrifuge.messages import (
    ClientInfo,
    Command,
    PublishRequest,
    PublishResult,
    Push,
    RefreshRequest,
    RefreshResult,
    Reply,
)
from raiden.dialects.centrifuge.parts import Channel
from raiden.dialects.centrifuge.presence import pushed
from raiden.dialects.centrifuge.tokens import Identity
from raiden.dialects.centrifuge.wire import Wire, sender
from raiden.dialects.in_order import InOrder, Rest
from raiden.model.attributes import Attributes
from raiden.model.encoding import dumps
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.message import Cursor, Message
from raiden.model.page import Gap
from raiden.model.payload import check_message
from raiden.model.refusals import Refusal, attempt
from raiden.presence.watches import Notice
from raiden.runtime.audit import STATUSES
from raiden.sessions.asks import PublishOne

# Seconds: for a client to connect; to answer a ping, at most; for a new token after the last one has expired.
CONNECT_WITHIN: Final = 10.0
PONG_WITHIN: Final = 8.0
GRACE: Final = 25.0
# Commands of a client that may wait where they can't be left unread.
MAX_WAITING: Final = 1000
_NEVER: Final = 1e12


class Talk:
    """The state of a client. ``client`` is its id, "" until it is connected. ``dialect`` and ``session`` are what
    `raiden.dialects.centrifuge.parts.Talking` says."""

    __slots__ = (
        "_born", "_in_order", "_next_ping", "_pong_by", "channels", "client", "connection", "dialect", "identity",
        "wire",
    )  # fmt: skip

    lasts = False

    def __init__(self, dialect: Any, connection: Connection, wire: Wire) -> None:
        self.dialect = dialect
        self.wire = wire
        self.client = ""
        self.identity: Identity | None = None
        # The client's subscriptions, by channel.
        self.channels: dict[str, Channel] = {}
        self.connection = connection
        self._in_order = InOrder(connection, dialect.gateway.limits)
        # Monotonic times: of its beginning, of the next ping, and by which the pong must have come (0: none is due).
        self._born = time.monotonic()
        self._next_ping = 0.0
        self._pong_by = 0.0

    @property
    def session(self) -> Any:
        # A reference to it would be a cycle, which the garbage collector would have to find.
        return self.connection.session

    @property
    def user(self) -> str:
        return "" if self.identity is None else self.identity.user

    def info(self, channel: Channel | None) -> ClientInfo:
        """The client as others see it, with what its subscription adds."""
        identity, client = self.identity, self.connection.permit.client
        assert identity is not None
        # What a delegate has said of the client counts more than its token.
        info = identity.info if client.info is identity.permit.client.info else Raw(dumps(client.info))
        known = ClientInfo(identity.user, self.client, info)
        if channel is not None and channel.granted.info:
            known.chan_info = channel.granted.info
        return known

    # Commands.

    def received(self, frame: bytes | str) -> None:
        """Take a frame of commands, which are done one after the other."""
        found = attempt("a frame", self.wire.commands, frame)
        if isinstance(found, Refusal):
            self._refused(0, found)
            return
        size = len(frame) // len(found) + 1
        for command in found:
            self._in_order.do(partial(self._command, command, size), size)
            if self.connection.state >= CLOSING:
                return

    @property
    def is_busy(self) -> bool:
        """Whether so many commands wait that none is taken which comes by a request of its own."""
        return self._in_order.has(MAX_WAITING, self.dialect.gateway.limits.max_outbox)

    def _command(self, command: Command, size: int) -> Rest | None:
        rest = self._attempt(command, partial(self._do, command, size))
        return None if rest is None else partial(self._attempt, command, rest)

    def _attempt(self, command: Command, work: Callable[[], Any]) -> Any:
        """Do a part of a command; a refusal is told the client."""
        found = attempt("a command", work)
        if isinstance(found, Refusal):
            self._refused(command.id, found, command)
            return None
        return found

    def _refused(self, number: int, refusal: Refusal, command: Command | None = None) -> None:
        """Tell the client that it is refused what it asked for by a ``command``, if that is known still."""
        if refusal.status in STATUSES:
            name, channel = ("command", "") if command is None else command.asked
            if isinstance(refusal, Denied):
                name, channel = refusal.action, refusal.channel
            clients.refused(self.connection, refusal, name, channel)
        if self.connection.state >= CLOSING:  # the client has gone meanwhile, and perhaps its session
            return
        if isinstance(refusal, Disconnected):
            self.session.disconnect(refusal.code)
            return
        self.answer(number, Reply(error=error_of(refusal)))
        if not self.client:  # it has failed to connect
            self.session.disconnect(codes.CLOSED)

    def answer(self, number: int, reply: Reply) -> None:
        reply.id = number
        self.connection.send(self.wire.sent(reply))

    def _do(self, command: Command, size: int) -> Rest | None:
        """Begin with a command; return what is left to do where that waits."""
        number = command.id
        if not self.client:
            if number <= 0 or command.connect is None:
                raise Disconnected(codes.BAD)
            return partial(connect, self, number, command.connect)
        if number <= 0:
            if command.send is not None:
                raise Disconnected(codes.UNAVAILABLE)
            self._pong()
            return None
        if command.publish is not None:
            return self._publish(number, command.publish, size)
        if command.subscribe is not None:
            return subscriptions.subscribe(self, number, command.subscribe)
        if command.unsubscribe is not None:
            subscriptions.unsubscribe(self, number, command.unsubscribe)
            return None
        if command.presence is not None:
            return self._later(number, self.dialect.presence.members(self, command.presence))
        if command.presence_stats is not None:
            return self._later(number, self.dialect.presence.counts(self, command.presence_stats))
        if command.history is not None:
            return self._later(number, self.dialect.histories.of(self, command.history))
        if command.refresh is not None:
            self._refresh(number, command.refresh)
            return None
        if command.sub_refresh is not None:
            subscriptions.refresh(self, number, command.sub_refresh)
            return None
        if command.rpc is not None:
            raise Failed(codes.METHOD_NOT_FOUND)
        if command.ping is not None:
            raise Failed(codes.NOT_AVAILABLE)
        raise Disconnected(codes.BAD)

    def _later(self, number: int, work: Callable[[], Reply]) -> Rest:
        """What answers a command by waiting."""
        return lambda: self.answer(number, work())

    def is_others(self, name: str) -> bool:
        """Whether this is another user's personal channel, which no token has opened to the client."""
        is_personal = self.dialect.rules.personal and name.startswith("#")
        return is_personal and name != f"#{self.user}" and name not in self.channels

    def may(self, action: str, name: str) -> bool:
        """Whether the client may do an action to a channel: anyone may, or its token permits it, or it is subscribed
        and the node's subscribers may. Nobody reads another one's personal channel."""
        if action != "publish" and self.is_others(name):
            return False
        permit = self.connection.permit
        if permit.allows(action, name):
            return True
        of_subscribers = name in self.channels and action in self.dialect.rules.subscribers
        return of_subscribers and permit.permits.policy.leaves_open(permit.client, action, name)

    def past(self, name: str) -> Filters | None:
        """The filters with which the client may read a channel's history without asking a delegate; None: it may not.
        A subscriber that may by the rules of the node reads what its subscription lets through."""
        if self.is_others(name):
            return None
        permit = self.connection.permit
        found = permit.permits.policy.filters(permit.client, "history", name)
        if found is None and self.may("history", name):
            mine = self.session.subscriptions.get(name)
            found = NO_FILTERS if mine is None or mine.filters is None else mine.filters
        return found

    # The connection.

    def begin(self, client: str) -> None:
        """Be connected from now on, under this id."""
        self.client = client
        self._next_ping = time.monotonic() + random.uniform(0.5, 1.0) * self.ping_every

    def _refresh(self, number: int, ask: RefreshRequest) -> None:
        """Go on with another token of the same user."""
        assert self.identity is not None
        try:
            identity = tokens.connected(self.dialect.gateway.permits, ask.token)
        except Failed:
            raise Disconnected(codes.CONNECTION_EXPIRED) from None
        if identity.user != self.identity.user:
            raise Disconnected(codes.INVALID_TOKEN)
        result = RefreshResult()
        if identity.expires is not None:
            result.expires, result.ttl = True, tokens.ttl(identity.expires)
        self.become(identity)
        self.answer(number, Reply(refresh=result))

    def become(self, identity: Identity) -> None:
        """Take another identity of the same user."""
        if self.identity is None or identity.permit is not self.identity.permit:
            self.show(identity)
            subscriptions.judge_again(self)
        self.identity = identity
        self.rest()

    def show(self, identity: Identity) -> None:
        """Let what the client may do be that of an identity from now on."""
        connection = self.connection
        self.identity = identity
        connection.permit = identity.permit if connection.permit is None else connection.permit.become(identity.permit)

    # Pushes.

    def push(self, name: str, **what: Any) -> None:
        self.connection.send(self.wire.sent(Reply(push=Push(name, **what))))

    # What happens to its subscriptions: it is their owner.

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        subscriptions.lost(self, subscription.name)

    def ended(self, subscription: Subscription) -> None:
        subscriptions.lost(self, subscription.name)

    def at_end(self, subscription: Subscription, end: End) -> None:
        subscriptions.end(self, subscription.name, codes.UNSUBSCRIBED)

    def connections(self) -> Sequence[Connection]:
        return (self.connection,)

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        self.connection.send(notice.encoded(self.wire, partial(pushed, self.wire)))

    # Messages.

    def _publish(self, number: int, ask: PublishRequest, size: int) -> Rest | None:
        name = ask.channel
        if not name:
            raise Disconnected(codes.BAD)
        checked(name)
        if ask.type:
            raise Failed(codes.NOT_AVAILABLE)
        is_allowed = self.may("publish", name)
        if not is_allowed and not delegated.is_guest(self.connection):
            raise Denied("publish", name)
        gateway = self.dialect.gateway
        if gateway.rates.on:
            gateway.rates.publish_one(clients.account(self.connection), name)
        message = self.wire.payload(name, ask.data)
        message.attributes = Attributes(sender=sender(self.info(self.channels.get(name))))
        check_message(message, gateway.limits.max_message)
        if is_allowed:
            self._send(number, message, size)
            return None
        decision = delegated.decision(self.connection, PublishOne(message, None), "publish", name)
        return lambda: self._send(number, decision.wait().message, size)

    def _send(self, number: int, message: Message, size: int) -> None:
        """Publish a message of the client, which is allowed."""
        self._in_order.hold(size)
        self.dialect.gateway.router.publisher.publish_one(message, _published, (self, number, size))

    def published(self, number: int, size: int, outcome: Cursor | Refusal | None) -> None:
        """Hear what became of a message of the client."""
        self._in_order.release(size)
        if self.connection.state >= CLOSING:
            return
        if isinstance(outcome, Refusal):
            self._refused(number, outcome)
        else:
            self.answer(number, Reply(publish=PublishResult()))

    # Time.

    @property
    def ping_every(self) -> int:
        """Whole seconds between two pings."""
        return max(1, round(self.dialect.gateway.limits.keepalive))

    @property
    def _pong_within(self) -> float:
        return min(PONG_WITHIN, self.ping_every / 3)

    def _pong(self) -> None:
        if not self._pong_by:
            raise Disconnected(codes.BAD)
        self._pong_by = 0.0

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        connection = self.connection
        if not self.client:
            if now >= self._born + CONNECT_WITHIN:
                self.session.disconnect(codes.STALE)
                return
        elif self._pong_by and now >= self._pong_by:
            # The ping may wait behind other bytes, and the pong behind other commands.
            if not connection.is_moving() and not self._in_order.waits:
                self.session.disconnect(codes.NO_PONG)
                return
            self._pong_by = now + self._pong_within
        elif now >= self._next_ping:
            self._next_ping = now + self.ping_every
            self._pong_by = now + self._pong_within
            connection.send(self.wire.ping)
        if self._expire(time.time()):
            self.rest()

    def _expire(self, now: float) -> bool:
        """End what has expired, at the Unix time ``now``; return whether the connection goes on."""
        identity = self.identity
        if identity is not None and identity.expires is not None and now >= identity.expires + GRACE:
            self.session.disconnect(codes.CONNECTION_EXPIRED)
            return False
        for name, channel in list(self.channels.items()):
            if channel.granted.expires is not None and now >= channel.granted.expires + GRACE:
                subscriptions.end(self, name, codes.SUBSCRIPTION_EXPIRED)
        return True

    def rest(self) -> None:
        """Be due for what comes next."""
        if not self.client:
            due = self._born + CONNECT_WITHIN
        else:
            due = min(self._next_ping, self._pong_by) if self._pong_by else self._next_ping
        now, monotonic = time.time(), time.monotonic()
        ends = [channel.granted.expires for channel in self.channels.values() if channel.granted.expires is not None]
        if self.identity is not None and self.identity.expires is not None:
            ends.append(self.identity.expires)
        left = min([due - monotonic, *[end + GRACE - now for end in ends]])
        self.dialect.gateway.door.wheel.schedule(self.connection, max(0.0, left))


def _published(asker: tuple[Talk, int, int], outcome: Cursor | Refusal | None) -> None:
    talk, number, size = asker
    talk.published(number, size, outcome)
