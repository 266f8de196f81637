"""A teller of webhooks, for those who know of more events than messages, channels and clients. Pure."""

from __future__ import annotations

from typing import Protocol

from raiden.hooks.events import Event


class Teller(Protocol):
    """The webhooks of a worker."""

    def tell(self, event: Event, once: str | None = None) -> None:
        """Queue an event; ``once``: unless one was queued under this key, by any worker, in the last minutes."""

    @property
    def leads(self) -> bool:
        """Whether this worker is the one that sends."""
