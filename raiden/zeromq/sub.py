"""Sessions of ZeroMQ SUB clients: subscriptions of the router."""

from __future__ import annotations

import gevent

from raiden.access.clients import Client
from raiden.backend import NotInForce
from raiden.connections import client as clients
from raiden.connections.connection import Connection
from raiden.delivery.table import End, Subscription, TooManyChannels
from raiden.history.store import StoreFailed
from raiden.model.encoding import Encoding, shown_alone
from raiden.model.message import Message
from raiden.model.names import InvalidChannel, check_subscription
from raiden.model.page import Gap
from raiden.model.refusals import Forbidden
from raiden.protocols import zmtp
from raiden.protocols.zmtp import Event, Subscribed
from raiden.zeromq.session import RETRY, Common, ZmqSession
from raiden.zeromq.topics import Change, Topics

# Topics of the door's own; no channel's name begins like these.
OWN, IN_FORCE, HEARTBEAT = b"-/", b"-/in-force/", b"-/heartbeat"
MAX_TOPIC = 255
# Channels whose names are remembered as they are sent.
REMEMBERED = 10_000
# Rounds for which a client that asks waits while more topics come.
ROUNDS = 5


def _name(channel: str) -> bytes:
    """The frame of a channel's name."""
    name = _names.get(channel)
    if name is None:
        if len(_names) >= REMEMBERED:
            _names.clear()
        name = _names[channel] = zmtp.frame(channel.encode(), zmtp.MORE)
    return name


def _delivery(message: Message) -> bytes:
    cursor = b"" if message.cursor is None else message.cursor.bare.encode()
    told = shown_alone(message.attributes)
    last = zmtp.frame(cursor, zmtp.MORE) + zmtp.frame(told) if told else zmtp.frame(cursor)
    return b"%b%b%b" % (_name(message.channel), zmtp.frame(message.payload, zmtp.MORE), last)


def _deliveries(messages: list[Message]) -> bytes:
    # The hot path of SUB clients: the bytes between payloads of one size, without cursors or attributes, are the same.
    payloads = [message.payload for message in messages]
    size = len(payloads[0])
    if set(map(len, payloads)) != {size} or any([message.cursor or message.attributes for message in messages]):
        return b"".join(map(_delivery, messages))
    head, tail = _name(messages[0].channel) + zmtp.header(size, zmtp.MORE), zmtp.frame(b"")
    return b"%b%b%b" % (head, (tail + head).join(payloads), tail)


_names: dict[str, bytes] = {}
DELIVERY = Encoding("zmq", _delivery, _deliveries)


class Subscriber(ZmqSession):
    """The session of a SUB client. Messages over the bound of its outbox are dropped, and counted. Without CURVE the
    connection is the router's sink; with CURVE this session is, because each client's bytes are encrypted
    separately."""

    lasts = True
    own_id = b""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        super().__init__(common, connection, client, key)
        self.pending: list[bytes] = []
        self._sink = connection if self.protocol.plain else self
        connection.drop = self._dropped
        self._topics = Topics(lambda prefix: self.permit.within("subscribe", prefix))
        self._own: set[bytes] = set()
        self._subscriptions: dict[str, Subscription] = {}
        # Subscriptions that a greenlet will attach once they are in force, and topics that ask when all are.
        self._opening: list[Subscription] = []
        self._asked: list[bytes] = []
        self._settling = False
        self._changes = 0

    @property
    def wants_heartbeats(self) -> bool:
        return any(HEARTBEAT.startswith(topic) for topic in self._own)

    def received(self, events: list[Event]) -> bool:
        if self.common.rates.on:
            topics = [event for event in events if isinstance(event, Subscribed)]
            count = sum([event.on and not event.topic.startswith(OWN) for event in topics])
            wait = self.common.rates.owe(clients.account(self.connection), count)
            if wait:
                self.common.say("a ZeroMQ client subscribes more than rates allow", client=self.client.name)
                self.connection.pause()
                gevent.spawn_later(wait, self.work, lambda: self._received_later(events))
                return True
        return self._take(events)

    def _received_later(self, events: list[Event]) -> None:
        """Take events that had to wait for their rates."""
        if self.connection.closed:
            return
        self.resume()
        if not self.received(events):
            self.connection.finish()

    def _take(self, events: list[Event]) -> bool:
        for event in events:
            if not isinstance(event, Subscribed):
                self.common.stats.bad_messages += 1  # an XSUB may send whatever it likes upstream
            elif not self._subscribed(event.topic, event.on):
                return False
        if (self._opening or self._asked) and not self._settling:
            self._settling = True
            gevent.spawn(self.work, self._settle)
        return True

    def _subscribed(self, topic: bytes, on: bool) -> bool:
        self._changes += 1
        if topic.startswith(OWN) and len(topic) <= MAX_TOPIC:
            if not on:
                self._own.discard(topic)
            elif topic not in self._own:
                self._own.add(topic)
                self._asked += [topic] if topic.startswith(IN_FORCE) else []
            return self._count_topics()
        try:
            name = topic.decode()
            if name:
                check_subscription(name + "*" if len(topic) < MAX_TOPIC else name)
        except (UnicodeDecodeError, InvalidChannel):
            self.common.stats.refused_subscriptions += on
            return True
        if on and not self.permit.within("subscribe", name):
            self.common.stats.refused_subscriptions += 1
            refusal = Forbidden(f"{self.client.name} may subscribe to nothing of it")
            clients.refused(self.connection, refusal, "subscribe", name + "*")
        change = self._topics.add(name) if on else self._topics.remove(name)
        if not self._apply(change) and on:
            self._apply(self._topics.remove(name))
        return self._count_topics()

    def _count_topics(self) -> bool:
        return len(self._topics) + len(self._own) <= self.common.limits.zmq_max_topics

    def _apply(self, change: Change) -> bool:
        """Apply a change: subscribe first, then give up, so that messages of both are not interrupted. Names without
        room before that are tried after it. Returns False where there is no room even then."""
        waiting = [name for name in change.added if not self._subscribe(name)]
        for name in change.dropped:
            subscription = self._subscriptions.pop(name, None)
            if subscription is not None:
                self.common.router.unsubscribe(subscription)
        refused = sum([not self._subscribe(name) for name in waiting])
        self.common.stats.refused_subscriptions += refused
        return not refused

    def _subscribe(self, name: str) -> bool:
        """Subscribe to a name or pattern; False where the worker carries too many."""
        router = self.common.router
        try:
            subscription = router.subscribe(name, self._sink, self, DELIVERY)
        except TooManyChannels:
            return False
        self._subscriptions[name] = subscription
        if name.endswith("*"):
            router.attach(subscription)
        else:  # the channel's order has to be opened first
            self._opening.append(subscription)
        return True

    def _settle(self) -> None:
        """Attach the subscriptions that are opening, and tell the topics that asked when all are in force."""
        router, rounds = self.common.router, 0
        while (self._opening or self._asked) and not self.connection.closed:
            # Subscriptions and questions that come from now on are for the next round.
            opening, self._opening = self._opening, []
            asked, self._asked = self._asked, []
            before, rounds = self._changes, rounds + 1
            try:
                unconfirmed = router.in_force([subscription.name for subscription in opening])
            except (NotInForce, StoreFailed):
                self._opening = opening + self._opening
                self._asked = asked + self._asked
                gevent.sleep(RETRY)
                continue
            for subscription in opening:
                router.attach(subscription)
            if self._changes != before and rounds < ROUNDS:
                # A socket that connects again sends its topics in their order, and the question among the first.
                self._asked = asked + self._asked
                continue
            rounds = 0
            for topic in asked:
                self._tell(topic, ", ".join(unconfirmed).encode(), b"")
        self._settling = False

    def _tell(self, *frames: bytes) -> None:
        """Send a message that may not be dropped: wait until the outbox has room for it, also when it is sealed."""
        traffic = zmtp.message(*frames)
        while not self._has_room(traffic):
            gevent.sleep(RETRY)
        self.send(*frames)

    def flush(self) -> None:
        traffic = b"".join(self.pending)
        self.pending.clear()
        if not self._has_room(traffic):
            self._dropped(traffic)  # before it is sealed: sealed bytes must be sent
        elif traffic:
            self.connection.send(self.protocol.seal(traffic))

    def _has_room(self, traffic: bytes) -> bool:
        connection = self.connection
        if not connection.outbox_size:
            return True
        return connection.has_room(self.protocol.sealed_size(traffic))

    def _dropped(self, traffic: bytes) -> None:
        self.common.stats.dropped += zmtp.count(traffic)
        self.common.say("a slow ZeroMQ client misses messages", client=self.connection.describe())

    def ended(self, subscription: Subscription) -> None:
        """Do nothing: the subscription goes on, for another channel of that name."""

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """Do nothing: the cursors show the gap."""

    def at_end(self, subscription: Subscription, end: End) -> None:
        """Send an end that has no payload, as any other message. The subscription goes on."""
        if end.message is not None and end.message.is_empty_end:
            subscription.sink.pending.append(DELIVERY(end.message))

    def connections(self) -> tuple[Connection]:
        return (self.connection,)

    def close(self) -> None:
        for subscription in self._subscriptions.values():
            self.common.router.unsubscribe(subscription)
        self._subscriptions.clear()
