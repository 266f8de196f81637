"""The base of the sessions of ZeroMQ clients, whichever door they came in by."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from raiden.access.clients import Client
from raiden.access.permit import OPEN, Permits
from raiden.access.rates import Rates
from raiden.connections.connection import Connection
from raiden.delivery.census import Census
from raiden.model.names import InvalidChannel, check_channel
from raiden.model.payload import of_type
from raiden.model.refusals import Invalid
from raiden.protocols import zmtp
from raiden.protocols.unfinished import Unfinished
from raiden.protocols.zmtp import Event, Frames, Zmtp
from raiden.requests.exchange import Exchange
from raiden.router import Router
from raiden.runtime import faults
from raiden.runtime.stats import Stats
from raiden.zeromq.flow import Flow

log = logging.getLogger(__name__)

BYTES = b"application/octet-stream"
# Seconds until the backbone or the history is tried again.
RETRY = 0.1


@dataclass(slots=True)
class ZmqLimits:
    """All limits of the doors; one object that all connections share, so that a reload changes it in place."""

    max_connections: int = 15_000
    max_connections_per_address: int = 15_000
    max_outbox: int = 4 << 20
    max_body: int = 1 << 20
    max_message: int = 1 << 20
    max_unfinished: int = 1 << 28
    zmq_max_topics: int = 1000
    keepalive: float = 25.0
    max_presence: int = 1000
    presence_linger: float = 5.0


class Common:
    """The parts that the sessions of all doors share."""

    def __init__(
        self, router: Router, stats: Stats, limits: ZmqLimits, permits: Permits = OPEN, rates: Rates | None = None,
        exchange: Exchange | None = None,
    ) -> None:  # fmt: skip
        self.router = router
        self.stats = stats
        self.limits = limits
        self.permits = permits
        self.rates = rates or Rates()
        self.exchange = exchange or Exchange(router)
        self.flow = Flow(router.backend)
        self.census = Census(router.backend)
        self.unfinished = Unfinished(lambda: limits.max_unfinished)
        self._said: dict[str, float] = {}

    def say(self, what: str, **extra: str) -> None:
        """Log a mistake of clients, each kind at most once a second: clients may make it as often as they like."""
        now = time.monotonic()
        if now - self._said.get(what, 0.0) > 1.0:
            self._said[what] = now
            log.warning(what, extra=extra)


class ZmqSession:
    """The session of one client's connection. ``waiting`` counts its work under way; `close` may come at any time."""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        self.common = common
        self.connection = connection
        self.protocol = spoken(connection)
        self.client = client
        self.permit = connection.permit = common.permits.of_client(client)
        self.key = key
        self.waiting = 0
        self._draining = False

    def received(self, events: list[Event]) -> bool:
        """Take the events that have come in one go. Returns False where the client must be cut off."""
        raise NotImplementedError

    def send(self, *frames: bytes) -> None:
        self.connection.send(self.protocol.seal(zmtp.message(*frames)))

    def work(self, function: Callable[[], None]) -> None:
        """Call a function, in a greenlet. Where it raises, the connection ends, because promised work is not done."""
        if not faults.call("the work for a ZeroMQ client", function):
            self.connection.finish()

    def drain(self) -> None:
        """Take no more, because the node stops."""
        self._draining = True
        self.connection.pause()

    def resume(self) -> None:
        """Take more, unless the node stops."""
        if not self._draining:
            self.connection.resume()

    def close(self) -> None:
        """Clean up: the connection has ended."""


def spoken(connection: Connection) -> Zmtp:
    """The protocol of a ZeroMQ client's connection."""
    assert isinstance(connection.protocol, Zmtp)
    return connection.protocol


def channel_of(frame: bytes) -> str:
    """The channel that a frame names; raises InvalidChannel."""
    try:
        return check_channel(frame.decode())
    except UnicodeDecodeError:
        raise InvalidChannel("a channel's name is UTF-8") from None


def kind_of(payload: bytes, content_type: bytes, max_message: int) -> tuple[int, bytes]:
    """The kind of a client's payload, by its type, and the payload as it is published; raises InvalidPayload."""
    return of_type(content_type.decode("latin-1") or "application/json", payload, max_message)


def given(arguments: Frames, least: int, most: int, form: str) -> Frames:
    """A command's arguments, with an empty one for each that may be left out; raises Invalid, which says the form."""
    if not least <= len(arguments) <= most:
        left = f", of which the last {most - least} may be left out" if most > least else ", and nothing more"
        raise Invalid(f"the frames are [{form}]{left}")
    return arguments + [b""] * (most - len(arguments))


def text_of(frame: bytes, what: str) -> str:
    """The text in a frame; raises Invalid, which says ``what`` it should be."""
    try:
        return frame.decode()
    except UnicodeDecodeError:
        raise Invalid(f"{what} is UTF-8") from None
