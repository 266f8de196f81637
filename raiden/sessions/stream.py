"""A stream of HTTP: NDJSON, server-sent events, or bytes, one message after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.delivery.table import End, Subscription
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.page import Gap
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Request, stream_bytes
from raiden.router import Router
from raiden.sessions.asks import Subscribe
from raiden.sessions.in_band import InBand, Told
from raiden.sessions.lasting import Lasting
from raiden.sessions.over import Over


class Stream(Lasting):
    """An HTTP stream or server-sent events. Where a gap can't be told in band, the stream breaks off."""

    __slots__ = ()

    @property
    def told_by_head(self) -> bool:
        return not self.in_band.tells

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        self.take_rest()
        self._begin(told.in_head(stream_bytes(ask.head, http10=ask.http10)), told)

    def receive(self, data: bytes) -> None:
        """Ignore these bytes: a request behind one for an endless stream could never be answered."""

    def keep_alive(self) -> None:
        self.connection.send(self.in_band.alive(self.moved()))
        self.rest()

    def over(self, reason: Over) -> None:
        self.finish(self.in_band.over(reason.name) + self.in_band.end)

    def drain(self) -> None:
        self.finish(self.in_band.end)

    def overflow(self) -> None:
        self.drain()

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        if self.in_band.tells:
            self.connection.send(self.in_band.gap(channel, gap))
        else:
            self.fail()

    def all_ended(self) -> None:
        self.finish(self.in_band.end)

    def fail(self) -> None:
        self.finish(b"")  # without its end: the client sees that it broke off

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.connection.session is self:
            self.finish(self.in_band.end)


class MergedEvents(Stream):
    """Server-sent events of several channels. The messages of a turn are followed by the position in all of them, as
    the id with which the browser comes back; an event without data only sets that id (the HTML standard, section
    9.2.6)."""

    __slots__ = ("pending",)

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, in_band: InBand,
        names: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive, in_band, names)
        self.pending = self.connection.pending

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    def end_notice(self, end: End) -> bytes:
        return self.in_band.end_of_channel(end.channel, end.cursor, is_position=False)

    @property
    def own_id(self) -> bytes:
        return self.connection.own_id

    def flush(self) -> None:
        position = self.moved() if self.pending else None
        if position is not None:
            self.pending.append(self.in_band.alive(position))
        self.connection.flush()
