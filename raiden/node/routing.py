"""The router and the backend behind it, in the service tree of a worker."""

from __future__ import annotations

from raiden.history.client import History
from raiden.router import Router
from raiden.runtime.service import Service


class RouterService(Service):
    """The router and the backend behind it, as a part of the service tree."""

    def __init__(self, router: Router, history: History | None) -> None:
        super().__init__()
        self.router = router
        self.history = history

    def do_start(self) -> None:
        self.router.start()
        self.spawn(self.router.repair)
        self.spawn(self.router.sweep)

    def do_stop(self) -> None:
        self.router.stop()
        self.router.backend.close()
        if self.history is not None:
            self.history.close()
