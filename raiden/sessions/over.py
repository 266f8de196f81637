"""The reasons for which a client's subscriptions, or its connection, end before it wants, as each transport tells them.
Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from raiden.model.refusals import Forbidden, Refusal, Unauthorized, Unavailable
from raiden.protocols import websocket


class Over(NamedTuple):
    """A reason: the name of its event ("": event streams just end), the WebSocket's close code and text, and the
    refusal of what waits."""

    name: str
    code: int
    text: str
    refusal: Refusal


EXPIRED: Final = Over(
    "expired", websocket.EXPIRED, "the token has expired: reconnect with another one",
    Unauthorized("the token has expired: get another one", bad=True),
)  # fmt: skip
REVOKED: Final = Over(
    "revoked", websocket.FORBIDDEN, "the token was revoked", Unauthorized("the token was revoked", bad=True)
)
DISCONNECTED: Final = Over(
    "disconnected", websocket.FORBIDDEN, "the application has ended this",
    Forbidden("the application has ended this subscription"),
)  # fmt: skip
CHANGED: Final = Over(
    "changed", websocket.EXPIRED, "the application allows other messages: reconnect",
    Forbidden("the application allows other messages: ask again"),
)  # fmt: skip


def _passing(code: int, text: str) -> Over:
    """A reason that passes: the client comes back."""
    return Over("", code, text, Unavailable(text))


DRAINING: Final = _passing(websocket.DRAINING, "node is draining: reconnect")
SLOW: Final = _passing(websocket.SLOW_CONSUMER, "slow consumer: reconnect, and read faster")
FAILED: Final = _passing(websocket.TRY_LATER, "the history does not answer: reconnect")


def refused(refusal: Refusal) -> Over:
    """The reason where the application refuses what it had allowed."""
    return Over("refused", websocket.FORBIDDEN, refusal.detail, refusal)


class Consuming:
    """A long-poll of a durable subscription to a channel. It ends within a second of being given a ``reason``."""

    __slots__ = ("_channel", "reason")

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self.reason: Over | None = None

    def over(self, reason: Over) -> None:
        self.reason = reason

    def remove(self, name: str) -> None:
        if name == self._channel:
            self.over(DISCONNECTED)
