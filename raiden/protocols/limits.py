"""The limits of a client of the gateway, and of presence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class PresenceLimits(Protocol):
    """The bounds of presence; they are read anew each time, so that a reload may change them. ``max_presence`` members
    of a channel are listed; a member's leave is told ``presence_linger`` seconds after its last connection went. A
    client that was silent for two ``keepalive`` is perhaps not there any more."""

    max_presence: int
    presence_linger: float
    keepalive: float


@dataclass(slots=True)
class HttpLimits:
    """Bytes, counts and seconds; one object that all connections and their parsers share, so that a reload changes it
    in place. The settings of the same names (`raiden.node.config`) explain each bound."""

    max_url: int = 8192
    max_header: int = 16384
    max_headers: int = 100
    max_body: int = 1 << 20
    max_batch: int = 1000
    max_message: int = 1 << 20
    max_connections: int = 15_000
    max_connections_per_address: int = 15_000
    max_subscriptions: int = 128
    max_consumers: int = 2000
    max_streams: int = 1000
    max_outbox: int = 4 << 20
    max_ws_message: int = 1 << 20
    max_unfinished: int = 1 << 28
    max_wait: float = 120.0
    session_window: float = 120.0
    request_timeout: float = 30.0
    idle_timeout: float = 75.0
    stream_timeout: float = 120.0
    keepalive: float = 25.0
    max_presence: int = 1000
    presence_linger: float = 5.0
