"""Sessions of connections that last until one end closes them: streams and sockets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.delivery.skipped import with_notices
from raiden.delivery.table import End, Subscription
from raiden.delivery.thinned import Left, of_past
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.message import EARLIEST, Cursor, Message
from raiden.model.refusals import Refusal
from raiden.presence.watches import Notice
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Request
from raiden.protocols.parser import RequestParser
from raiden.router import Router
from raiden.sessions.client import Client
from raiden.sessions.in_band import InBand, Told, joined
from raiden.sessions.over import CHANGED, DISCONNECTED, DRAINING, EXPIRED, FAILED, SLOW, Over, refused
from raiden.sessions.recovery import Batch, Recovery
from raiden.sessions.session import Session

# Seconds for which the peer may take none of the last bytes to it.
LINGER = 2.0
# Bytes that a replay sends at once; seconds after which it ends where the peer has taken none of them.
REPLAY_BYTES, REPLAY_PATIENCE = 65536, 30.0
# Seconds before the end of a token, when its client is told.
WARNING = 30.0


class Lasting(Session):
    """The session of a connection that lasts until one end closes it. ``keepalive`` is in seconds. A position is that
    of ``names``, in their order, and ``in_band`` tells it."""

    __slots__ = ("alive_at", "connection", "in_band", "keepalive", "names", "replayed", "told", "warned", "wheel")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, in_band: InBand,
        names: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(router)
        self.connection = connection
        self.wheel = wheel
        self.keepalive = keepalive
        self.in_band = in_band
        self.names = names
        # The places up to which missed messages have been sent, for channels that are not attached yet; seldom any.
        self.replayed: dict[str, Cursor] | None = None
        # The position that was told last.
        self.told: str | None = None
        # Where the client's token ends: the monotonic time of the next keep-alive, and whether it ends soon and the
        # client was told.
        self.alive_at, self.warned = 0.0, False

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, sink or self.connection)

    def connections(self) -> Sequence[Connection]:
        return (self.connection,)

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        if notice.events:
            self.connection.send(notice.encoded(self.in_band, self.in_band.presence))

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        """Send the missed messages of a channel, as fast as the peer reads them, then attach, unless the subscription
        ends meanwhile; raises StoreFailed."""
        name, deletions = subscription.name, subscription.deletions
        for batch in recovery.batches():
            if self.was_deleted(subscription, deletions) or not self.has(subscription):
                return
            if batch.gap is not None and (batch.gap is not recovery.gap or not self.told_by_head):
                self.missed(subscription, name, batch.gap)
            if not self.send_past(subscription, recovery, batch):
                return
        if self.has(subscription) and not self.was_deleted(subscription, deletions):
            self.attach(name)
            if self.has(subscription):  # else the channel was at its end
                self.reached(name, None)

    def join(self, connection: Connection, request: Request | Repeated) -> Client:
        return self

    def _begin(self, head: bytes, told: Told) -> None:
        """Send the head of the answer, and the bytes that follow it at once."""
        self.connection.send(head + self.in_band.begin(told))
        # A gap is still to be told, and the position behind it after that.
        self.told = None if told.recovered is False else told.position
        self.rest()

    def take_rest(self) -> bytes:
        """Return the bytes behind the connection's last request, which are not HTTP's; the connection is read again."""
        rest = cast(RequestParser, self.connection.protocol).rest()
        self.connection.resume()
        return rest

    def reached(self, name: str, place: Cursor | None) -> None:
        if place is not None:
            if self.replayed is None:
                self.replayed = {}
            self.replayed[name] = place
        elif self.replayed is not None:
            self.replayed.pop(name, None)

    def unsubscribe(self, name: str) -> None:
        super().unsubscribe(name)
        if self.connection.permit is not None:
            self.connection.permit.ended(name)

    def close(self) -> None:
        super().close()
        if self.connection.permit is not None:
            self.connection.permit.over()

    def ended(self, subscription: Subscription) -> None:
        """End a subscription whose channel was deleted: a client that comes back goes on with the first message of the
        channel's next life."""
        if self.router.keeps(subscription.name):
            self.reached(subscription.name, EARLIEST)  # the router's position moves on, and nothing is sent of that
        super().ended(subscription)
        if self.connection.permit is not None:
            self.connection.permit.ended(subscription.name)

    def at_end(self, subscription: Subscription, end: End) -> None:
        if self.in_band.tells:
            subscription.sink.pending.append(self.end_notice(end))
            subscription.sink.flush()
        if subscription.name != end.channel or not self.has(subscription):
            return  # a pattern brings other channels, too
        self.reached(subscription.name, end.cursor)
        self.router.unsubscribe(subscription)
        super().ended(subscription)
        if self.connection.permit is not None:
            self.connection.permit.ended(subscription.name)
        if not self.subscriptions and self.connection.session is self:
            self.all_ended()

    def end_notice(self, end: End) -> bytes:
        """The notice of a channel's end."""
        return self.in_band.end_of_channel(end.channel, end.cursor)

    def all_ended(self) -> None:
        """End the connection: all its channels have come to their end."""
        raise NotImplementedError

    def position(self) -> str | None:
        """The position, up to which everything has been sent."""
        replayed = self.replayed or {}
        return joined([replayed.get(name) or self.place(name) for name in self.names])

    def place(self, name: str) -> Cursor | None:
        """The place up to which a subscription that is attached was sent everything."""
        subscription = self.subscriptions.get(name)
        return (None if subscription is None else subscription.place) or self.router.position(name)

    def moved(self) -> str | None:
        """The position, unless it was told already, or can't be."""
        position = self.position() if self.in_band.tells else None
        if position == self.told:
            return None
        self.told = position
        return position

    def send_past(self, subscription: Subscription, recovery: Recovery, batch: Batch) -> bool:
        """Send the part of a batch that the client takes at once; the rest is not kept, but read again when the client
        has taken that part. Returns False where the session has ended."""
        size, begun = 0, 0
        thinned = of_past(batch.messages, subscription.filters)
        for number, message in enumerate(batch.messages, 1):
            size += self.put_past(subscription, message, thinned)
            last = number == len(batch.messages)
            if size > REPLAY_BYTES or last:
                place = batch.cursor if last else message.cursor
                assert place is not None
                self.reached(subscription.name, place)
                self.flush_past(subscription, batch.messages[begun:number], place)
                if self.connection.outbox_size:
                    recovery.read_again(place, number - begun)
                    batch.messages.clear()
                    return self._wait_until_sent()
                size, begun = 0, number
        if not batch.messages:
            self.reached(subscription.name, batch.cursor)
        return self._wait_until_sent()

    def put_past(self, subscription: Subscription, message: Message, thinned: Left | None) -> int:
        """Put a missed message before the client, if it is for it; return its bytes."""
        filters = subscription.filters
        wanted = (filters is None or filters.match(message)) and not message.is_empty_end
        wanted = wanted and not self.router.ids.is_excluded(self.connection, message)
        if not wanted or (thinned is not None and message.cursor not in thinned):
            return 0
        skipped = None if thinned is None else thinned[message.cursor]
        data = with_notices(subscription.encoding, message, skipped, None)
        subscription.sink.pending.append(data)
        return len(data)

    def flush_past(self, subscription: Subscription, messages: list[Message], place: Cursor) -> None:
        """Send what was put before the client of these messages, behind which is a place."""
        subscription.sink.flush()

    def _wait_until_sent(self) -> bool:
        """Wait until the client has taken all; a client that does not is a slow consumer. Returns False where the
        session has ended."""
        if self.connection.wait_until_sent(REPLAY_PATIENCE):
            return True
        if not self.connection.closing:
            self.connection.overflow()
        return False

    def receive(self, data: bytes) -> None:
        """The peer has sent these bytes."""
        raise NotImplementedError

    def rest(self) -> None:
        """Be due for the next keep-alive, or for the end of the client's token."""
        permit = self.connection.permit
        if permit is None or permit.expires is None:
            self.wheel.schedule(self.connection, self.keepalive)
        else:
            self.alive_at = time.monotonic() + self.keepalive
            self._rest_until_end(self.keepalive, permit.expires - time.time())

    def _rest_until_end(self, alive: float, left: float) -> None:
        """Be due for what comes next: a keep-alive, or the end of the client's token, in so many seconds each."""
        self.wheel.schedule(self.connection, max(0.0, min(alive, left if self.warned else left - WARNING)))

    def tick(self) -> None:
        """The connection is due: a keep-alive, or the end of the client's token."""
        permit = self.connection.permit
        if permit is not None and permit.expires is not None:
            left = permit.expires - time.time()
            if left <= 0.0:
                self.over(EXPIRED)
                return
            if left <= WARNING and not self.warned:
                self.warned = True
                self.expires_soon(left)
            alive = self.alive_at - time.monotonic()
            if alive > 0.0:
                self._rest_until_end(alive, left)
                return
        self.keep_alive()

    def keep_alive(self) -> None:
        """Show the peer that the connection is alive, and `rest`."""
        raise NotImplementedError

    def expires_soon(self, left: float) -> None:
        """The client's token ends in so many seconds."""

    def over(self, reason: Over) -> None:
        """End the connection, and tell the client this reason."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """End what the client has of a channel, or of a pattern: all, where it could not know what it has left."""
        if name in self.subscriptions:
            self.over(DISCONNECTED)

    def withdraw(self, name: str, durable: str, refusal: Refusal | None) -> None:
        """End a subscription that the delegate allows no longer, to a channel or pattern or to a durable of it. None:
        it is allowed with other filters, so the client may come back."""
        self.over(CHANGED if refusal is None else refused(refusal))

    def drain(self) -> None:
        """The node stops: tell the client to come back."""
        self.over(DRAINING)

    def overflow(self) -> None:
        """The client reads too slowly: end the connection."""
        self.over(SLOW)

    def fail(self) -> None:
        self.over(FAILED)

    def finish(self, goodbye: bytes) -> None:
        """Give back the subscriptions, say goodbye, and close."""
        self.close()
        self.connection.finish(goodbye)
        self.wheel.schedule(self.connection, LINGER)
