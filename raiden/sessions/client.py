"""The client of a connection that has subscribed, as its door knows it."""

from __future__ import annotations

from typing import Protocol

from raiden.sessions.over import Over


class Client(Protocol):
    """The receiver of a connection's events from its door: a `Lasting` session, or the `Waiter` of a long-poll."""

    def receive(self, data: bytes) -> None:
        """The peer has sent these bytes."""

    def tick(self) -> None:
        """The connection is due."""

    def drain(self) -> None:
        """The node stops: tell the client to come back."""

    def over(self, reason: Over) -> None:
        """End what the client has, for this reason."""

    def remove(self, name: str) -> None:
        """End what the client has of a channel, or of a pattern."""

    def overflow(self) -> None:
        """The client reads too slowly: end the connection."""

    def close(self) -> None:
        """The connection is gone."""
