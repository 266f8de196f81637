"""A worker: the process that has a router and its gateway."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterable
from typing import Any

import gevent
import gevent.event
import gevent.socket
import ujson

from raiden import gateway, log
from raiden.backend import Backend, NotInForce
from raiden.channels import Channels
from raiden.config import ServiceBuilder, Settings
from raiden.forwarder import Addresses
from raiden.gateway import Gateway, Limits
from raiden.history import StoreFailed
from raiden.router import Router
from raiden.service import READY, Service
from raiden.stats import Stats

logger = logging.getLogger(__name__)

_LIMITS = tuple(Limits.__dataclass_fields__)


class RouterService(Service):
    """The router and its backend, as a part of the service tree."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.router = router

    def do_start(self) -> None:
        self.router.start()
        self.spawn(self.router.repair)

    def do_stop(self) -> None:
        self.router.stop()
        self.router.backend.close()


class Worker(Service):
    """The root of the service tree: the router, the gateway, and what the config file's ``service(worker)`` adds.

    An application's services find ``router`` and ``gateway`` here; they start after them and stop before them.
    """

    def __init__(self, index: int, settings: Settings, listener: socket.socket, addresses: Addresses) -> None:
        super().__init__()
        self.settings = settings
        self.stats = Stats(index)
        self._history_bytes: float | None = None
        backend = Backend(
            addresses, worker=index, workers=settings.workers, high_water=settings.backbone_high_water,
            channels=Channels(settings.channels) if settings.keeps_history else None,
        )  # fmt: skip
        self.router = Router(
            backend, stats=self.stats, max_channels=settings.max_channels, max_gather=settings.max_gather,
            gap_time=settings.gap_time, check_every=settings.position_check,
        )  # fmt: skip
        builder = settings.channel_builder
        self.gateway = Gateway(
            listener,
            self.router,
            stats=self.stats,
            limits=Limits(**{name: getattr(settings, name) for name in _LIMITS}),
            allowed_origins=settings.allowed_origins,
            channel_builder=getattr(gateway, builder) if isinstance(builder, str) else builder,
            deflate=settings.ws_deflate,
            min_peers=settings.min_peers,
        )
        self.stats.gauges = lambda: {
            "backbone_depth": float(backend.depth),
            "backbone_round_trip_seconds": backend.round_trip,
            "peers": float(sum(row["state"] == "connected" for row in backend.nodes())),
            "channels": float(self.router.carried),
            **self._history_gauges(),
        }
        self.add(RouterService(self.router))
        self.add(self.gateway)

    def do_start(self) -> None:
        self.spawn(self._heartbeat)

    def _history_gauges(self) -> dict[str, float]:
        history = self.router.backend.history
        if history is None:
            return {}
        gauges = {"history_waiting": float(history.waiting)}
        if self._history_bytes is not None:
            gauges["history_bytes"] = self._history_bytes
        return gauges

    def _heartbeat(self) -> None:
        """Measure the backbone now and then, so that its depth and round trip are known when asked for, and tell the
        roster how this worker does."""
        while True:
            gevent.sleep(1.0)
            try:
                self.router.backend.check()
            except NotInForce as error:
                logger.error("the backbone does not pass messages", extra={"reason": str(error)})
            self._measure_history()
            self.router.backend.report(
                {
                    "connections": sum(self.stats.connections.values()),
                    "channels": self.router.carried,
                    "messages_in": self.stats.published,
                    "messages_out": self.stats.delivered,
                }
            )

    def _measure_history(self) -> None:
        """How much of the data directory the history takes: the node's figure, told by its first worker."""
        history = self.router.backend.history
        if history is not None and self.stats.worker == 0:
            try:
                self._history_bytes = float(history.size())
            except StoreFailed:
                pass  # the history process says so in the log

    def reload(self, values: dict[str, Any]) -> None:
        """Apply settings that have changed; limits of requests hold at once, those of connections for new ones."""
        for name, value in values.items():
            if name in _LIMITS:
                setattr(self.gateway.limits, name, value)
            elif name in ("max_channels", "max_gather"):
                setattr(self.router, name, value)
            elif name == "min_peers":
                self.gateway.control.min_peers = value
            elif name == "allowed_origins":
                self.gateway.allowed_origins = value
            elif name == "ws_deflate":
                self.gateway.deflate = value
            elif name == "log_level":
                logging.getLogger().setLevel(value)


def run(
    index: int, settings: Settings, service: ServiceBuilder | None, listener: socket.socket, addresses: Addresses,
    supervisor: socket.socket,
) -> None:  # fmt: skip
    """Be worker ``index`` until told to stop. ``supervisor`` hears when the worker is ready and says what to reload;
    when it closes, the supervisor is gone and the worker ends at once."""
    log.setup(f"worker {index}", form=settings.log_format, level=settings.log_level)
    stop = gevent.event.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor hears it too, and decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    gevent.signal_handler(signal.SIGTERM, stop.set)
    worker = Worker(index, settings, listener, addresses)
    added = service(worker) if service else None
    if isinstance(added, Service):
        added = [added]
    for child in added if isinstance(added, Iterable) else ():
        worker.add(child)
    worker.start()
    worker.router.in_force()
    channel = gevent.socket.socket(fileno=supervisor.detach())
    channel.sendall(READY)
    gevent.spawn(_listen, channel, worker)
    stop.wait()
    others = any(row["state"] == "connected" for row in worker.router.backend.nodes())
    worker.gateway.drain(settings.drain_timeout, settings.drain_window if others else 0.0)
    try:
        worker.router.backend.check()  # what was acknowledged last has left this process
    except NotInForce as error:
        logger.error("what was published last may be lost", extra={"reason": str(error)})
    worker.stop()


def _listen(channel: Any, worker: Worker) -> None:
    lines = channel.makefile("rb")
    for line in lines:
        worker.reload(ujson.loads(line))
    os._exit(1)
