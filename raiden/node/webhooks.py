"""The webhooks of a worker, made from the settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from raiden.connections.door import Door
from raiden.history.client import History
from raiden.node import pusher
from raiden.node.settings import Settings
from raiden.router import Router
from raiden.runtime.service import Service

log = logging.getLogger(__name__)

_SETTINGS = frozenset({"webhooks", "webhook_attempts", "webhook_queue", "webhook_settle"})


def check(settings: Settings) -> None:
    """Raise ValueError, which names the setting and says what is wrong, where there can be no such webhooks."""
    if not settings.has_webhooks:
        return
    if settings.store == "none":
        raise ValueError(
            "webhooks need a store, where events wait for their endpoints: set store = 'sqlite', or 'redis://...' for "
            "a cluster"
        )
    _options(settings)


def _options(settings: Settings) -> dict[str, Any]:
    from raiden.hooks.endpoint import endpoints  # only nodes with webhooks need it

    return {
        "endpoints": [*endpoints(settings.webhooks), *pusher.endpoints(settings)], "size": settings.webhook_queue,
        "attempts": settings.webhook_attempts, "settle": settings.webhook_settle,
    }  # fmt: skip


class WebhooksPart(Service):
    """The part of a worker's service tree that has its webhooks, if there are any. It starts before the ``doors`` of
    the worker, which are told to it later, and stops after them. The first worker of a node, by its ``index``, may send
    for the cluster."""

    def __init__(self, settings: Settings, router: Router, history: History | None, index: int) -> None:
        super().__init__()
        self._settings = settings
        self._router = router
        self._history = history
        self._index = index
        self._webhooks: Any = None
        self._doors: Sequence[Door] = ()
        self._make()

    def watch(self, doors: Sequence[Door]) -> None:
        """Let webhooks hear of clients that come and go by these doors, where any is told of them."""
        self._doors = doors
        watcher = self._webhooks if self._webhooks is not None and self._webhooks.wants_clients else None
        for door in doors:
            door.watcher = watcher

    def tell(self, event: Any, once: str | None = None) -> None:
        """See `Webhooks.tell`."""
        if self._webhooks is not None:
            self._webhooks.tell(event, once)

    @property
    def leads(self) -> bool:
        """See `Webhooks.leads`."""
        return self._webhooks is not None and self._webhooks.leads

    def reload(self, values: Mapping[str, Any]) -> None:
        """Apply settings that have changed; ``settings`` has them already."""
        if _SETTINGS.isdisjoint(values):
            return
        if self._webhooks is not None:
            self._webhooks.become(**_options(self._settings))
        else:
            self._make()
            if self._webhooks is not None:
                self._webhooks.start()
        self.watch(self._doors)

    def _make(self) -> None:
        if not self._settings.has_webhooks:
            return
        if self._history is None:
            log.error("webhooks need a restart: this node runs without a store")
            return
        from raiden.hooks.webhooks import Webhooks

        # A node's own store has no other worker that could hold the lease, so one that was replaced goes on at once.
        is_own = self._settings.store == "sqlite"
        holder = "node" if is_own else f"{self._router.backend.name} {os.urandom(8).hex()}"
        self._webhooks = self.add(
            Webhooks(
                self._router, self._history, holder=None if self._index else holder, **_options(self._settings)
            )
        )  # fmt: skip
