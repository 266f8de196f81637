"""A worker: a process with a router and a gateway, either for HTTP or for ZeroMQ."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import gevent
import gevent.event
import gevent.socket
import ujson
from zmq.utils import z85

from raiden.access import clients, keys
from raiden.access.buckets import Buckets
from raiden.access.keys import InvalidKey
from raiden.access.rates import Rates, limits
from raiden.backbone.addresses import Addresses
from raiden.backend import Backend, NotInForce
from raiden.connections.tls import InvalidCertificate
from raiden.gateway import Gateway
from raiden.history.client import History
from raiden.history.store import FiguresAsked, StoreFailed
from raiden.http import channel_builders, control
from raiden.http.control import Control
from raiden.http.door import HttpDoor
from raiden.http.origins import Origins
from raiden.http.redirect import Redirect
from raiden.http.reserved import Reserved
from raiden.model.encoding import dumps
from raiden.model.message import Cursor, Kind, Message
from raiden.model.names import check_channel
from raiden.model.options import Channels
from raiden.model.payload import check_size
from raiden.model.refusals import Refusal
from raiden.model.strict_json import TOO_DEEP, InvalidPayload, json_payload
from raiden.node import dialects, http_doors, permits
from raiden.node.errors import StartError
from raiden.node.http_doors import CONTROL, PUBLIC, REDIRECT
from raiden.node.routing import RouterService
from raiden.node.settings import ServiceBuilder, Settings
from raiden.node.webhooks import WebhooksPart
from raiden.protocols.limits import HttpLimits
from raiden.requests.exchange import Exchange
from raiden.router import Router
from raiden.runtime import audit, faults, log
from raiden.runtime.service import READY, Service
from raiden.runtime.stats import Stats
from raiden.zeromq.doors import Gate, ZmqGateway
from raiden.zeromq.session import ZmqLimits

logger = logging.getLogger(__name__)

# Thresholds of the garbage collector: new objects before it looks at these, such looks before one at the survivors, and
# those before one at all objects. A look takes 1 us for each object, in which nothing else is done.
GC_THRESHOLDS = 10_000, 4, 200
# Durable subscriptions that have metrics, and seconds between looks at them.
MAX_SERIES, FIGURES_EVERY = 100, 5.0
_ACCESS = frozenset({"jwt_keys", "jwt_audience", "jwt_issuer", "jwt_leeway", "token_cookie", "api_keys", "delegate"})
_LIMITS = tuple(HttpLimits.__dataclass_fields__)
_ZMQ_LIMITS = tuple(ZmqLimits.__dataclass_fields__)


class Worker(Service):
    """The root of a process's service tree: a router, and a gateway, which a subclass adds. ``buckets`` are those of
    the node's rates."""

    def __init__(self, index: int, settings: Settings, addresses: Addresses, buckets: Buckets) -> None:
        super().__init__()
        self.settings = settings
        self.max_message = settings.max_message
        self.stats = Stats(index)
        self.rates = Rates(limits(settings.rates), buckets, stats=self.stats)
        self._history_bytes: float | None = None
        self._next_figures = 0.0
        # All greenlets of the process: one that nobody ends must show.
        self._spawned: WeakSet[gevent.Greenlet[..., Any]] = WeakSet()
        gevent.Greenlet.add_spawn_callback(self._spawned.add)
        self.history = History(addresses.history) if settings.keeps_history else None
        self.channels = Channels(settings.channels) if settings.keeps_history else None
        backend = Backend(
            addresses, worker=index, workers=settings.routers, high_water=settings.backbone_high_water,
            history=self.history, channels=self.channels, sole=settings.routers == 1,
        )  # fmt: skip
        self.router = Router(
            backend, stats=self.stats, max_channels=settings.max_channels,
            max_channel_bytes=settings.max_channel_bytes, max_gather=settings.max_gather,
            gap_time=settings.gap_time, check_every=settings.position_check,
        )  # fmt: skip
        self.stats.gauges = lambda: {
            "backbone_depth": float(backend.depth),
            "backbone_round_trip_seconds": backend.round_trip,
            "peers": float(sum(row["state"] == "connected" for row in backend.nodes())),
            "channels": float(self.router.carried),
            "orders": float(self.router.ordered),
            "requests_asked": float(self.exchange.asked),
            "requests_served": float(self.exchange.served),
            "faults": float(faults.count()),
            "greenlets": float(sum(not greenlet.dead for greenlet in self._spawned)),
            **self._history_gauges(),
        }
        self.add(RouterService(self.router, self.history))
        self.exchange = Exchange(self.router, max_requests=settings.max_requests)
        self.add(self.exchange)
        self.webhooks = WebhooksPart(settings, self.router, self.history, index)
        self.add(self.webhooks)

    def publish(self, channel: str, value: object) -> Cursor | None:
        """Publish a JSON value, for an application's services: wait in the calling greenlet until it is stored, and
        return its cursor, or None where the channel keeps no history. Raises InvalidChannel, InvalidPayload or
        TypeError for a value that is no JSON, TooLarge, StoreFailed, and BackboneFull."""
        try:
            data = json_payload(dumps(value))
        except OverflowError:  # ujson raises this for a value that is nested too deeply, or in itself
            raise InvalidPayload(TOO_DEEP) from None
        check_size(Kind.JSON, data, self.max_message)
        message = Message(check_channel(channel), Kind.JSON, data)
        outcome: gevent.event.AsyncResult[Cursor | Refusal | None] = gevent.event.AsyncResult()
        self.router.publisher.publish_one(message, lambda _, what: outcome.set(what), None)
        what = outcome.get()
        if isinstance(what, Refusal):
            raise what
        return what

    def drain(self) -> None:
        """Let nobody in any more, and finish what is under way."""

    def reload(self, values: dict[str, Any]) -> None:
        """Apply settings that have changed."""
        for name, value in values.items():
            setattr(self.settings, name, value)
        self.webhooks.reload(values)
        for name, value in values.items():
            if name == "max_channels":
                self.router.table.max_channels = value
            elif name == "max_channel_bytes":
                self.router.table.max_bytes = value
            elif name == "max_gather":
                self.router.pace.most = value
            elif name == "max_requests":
                self.exchange.max_requests = value
            elif name == "rates":
                self.rates.become(limits(value))
            elif name == "max_message":
                self.max_message = value
            elif name == "audit_log":
                audit.to(value)
            elif name == "log_level":
                logging.getLogger().setLevel(value)

    def do_start(self) -> None:
        self.spawn(self._heartbeat)

    def _history_gauges(self) -> dict[str, float]:
        history = self.history
        if history is None:
            return {}
        gauges = {"history_waiting": float(history.waiting)}
        if self._history_bytes is not None:
            gauges["history_bytes"] = self._history_bytes
        return gauges

    def _heartbeat(self) -> None:
        """Measure the backbone once a second, so that its depth and round trip are known when asked for, and tell the
        roster this worker's figures."""
        while True:
            gevent.sleep(1.0)
            faults.call("a worker's heartbeat", self._beat)

    def _beat(self) -> None:
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
        """Measure the history's part of the data directory, and the figures of durable subscriptions: the node's first
        worker tells these for the node."""
        history = self.history
        if history is not None and self.stats.worker == 0:
            try:
                self._history_bytes = float(history.size())
                if time.monotonic() >= self._next_figures:
                    self._next_figures = time.monotonic() + FIGURES_EVERY
                    rows = history.figures(FiguresAsked(limit=MAX_SERIES)).rows
                    self.stats.durables = [{**row._asdict(), "oldest_seconds": row.oldest} for row in rows]
            except StoreFailed:
                pass  # the history process says so in the log


class HttpWorker(Worker):
    """A worker with the gateway for HTTP and WebSocket, and the services that the config file's ``service(worker)``
    adds.

    An application's services find ``router`` and ``gateway`` here; they start after them and stop before them.
    """

    def __init__(
        self, index: int, settings: Settings, addresses: Addresses, buckets: Buckets,
        listeners: Mapping[str, socket.socket],
    ) -> None:  # fmt: skip
        super().__init__(index, settings, addresses, buckets)
        builder = settings.channel_builder
        self.gateway = Gateway(
            listeners[PUBLIC],
            self.router,
            stats=self.stats,
            limits=HttpLimits(**{name: getattr(settings, name) for name in _LIMITS}),
            allowed_origins=settings.allowed_origins,
            check_path=control.not_here if CONTROL in listeners else None,
            permits=permits.of(settings),
            rates=self.rates,
            token_cookie=settings.token_cookie,
            delegate=permits.delegate(settings),
            exchange=self.exchange,
            reserved=Reserved(settings.reserved_paths),
            channel_builder=getattr(channel_builders, builder) if isinstance(builder, str) else builder,
            deflate=settings.ws_deflate,
            min_peers=settings.min_peers,
            ready_without_store=settings.ready_without_store,
        )
        self.add(self.gateway)
        self.gateway.webhooks = self.webhooks
        self._dialects = dialects.opened(settings, self.gateway)
        for dialect in self._dialects:
            self.add(dialect)
        self._doors = {PUBLIC: self.gateway.door}
        applications: dict[str, Control | Redirect] = {
            CONTROL: Control(self.gateway), REDIRECT: Redirect(listeners[PUBLIC].getsockname()[1]),
        }  # fmt: skip
        for name, application in applications.items():
            if name in listeners:
                door = application.door = self._doors[name] = HttpDoor(
                    listeners[name], application, stats=self.stats, limits=self.gateway.limits, rates=self.rates,
                    origins=Origins([]),
                )  # fmt: skip
                self.add(door)
        for name, door in self._doors.items():
            http_doors.furnish(door, name, settings)
        self.webhooks.watch([self.gateway.door])

    def drain(self) -> None:
        others = any(row["state"] == "connected" for row in self.router.backend.nodes())
        timeout = self.settings.drain_timeout
        window = min(self.settings.drain_window, timeout) if others else 0.0
        gevent.joinall([gevent.spawn(door.drain, timeout, window) for door in self._doors.values()])

    def reload(self, values: dict[str, Any]) -> None:
        """Apply settings that have changed: limits of requests hold at once, limits of connections for new ones."""
        super().reload(values)
        for name, value in values.items():
            if name in _LIMITS:
                setattr(self.gateway.limits, name, value)
            elif name in ("min_peers", "ready_without_store"):
                setattr(self.gateway.pages, name, value)
            elif name == "allowed_origins":
                self.gateway.door.origins = self.gateway.reader.origins = Origins(value)
            elif name == "reserved_paths":
                self.gateway.reader.reserved = dialects.reserved(self.settings, self.gateway)
            elif name == "ws_deflate":
                self.gateway.reader.deflate = value
        if not _ACCESS.isdisjoint(values):
            self.gateway.permits.become(permits.of(self.settings))
            self.gateway.token_cookie = self.settings.token_cookie
        if "delegate" in values:
            self.gateway.delegate = permits.delegate(self.settings, self.gateway.delegate)
        for dialect in self._dialects:
            dialect.reload(values)
        for name, door in self._doors.items():
            http_doors.furnish(door, name, self.settings)
            if "keepalive" in values:
                door.bound_silence()
            door.heads.clear()


class ZmqWorker(Worker):
    """A worker with the doors for ZeroMQ clients; raises InvalidKey."""

    def __init__(
        self, index: int, settings: Settings, addresses: Addresses, buckets: Buckets,
        listeners: Mapping[str, socket.socket],
    ) -> None:  # fmt: skip
        super().__init__(index, settings, addresses, buckets)
        secret = keys.load_secret("zmq_key", Path(settings.zmq_key)) if settings.zmq_key else None
        self.gateway = ZmqGateway(
            listeners, self.router, gate=Gate(secret and z85.decode(secret), clients.clients(settings.zmq_keys)),
            stats=self.stats, limits=ZmqLimits(**{name: getattr(settings, name) for name in _ZMQ_LIMITS}),
            heartbeat=settings.zmq_heartbeat, permits=permits.of(settings, keyed=secret is not None),
            rates=self.rates, exchange=self.exchange,
        )  # fmt: skip
        self.add(self.gateway)
        self.webhooks.watch(self.gateway.doors)

    def drain(self) -> None:
        self.gateway.drain(self.settings.drain_timeout)

    def reload(self, values: dict[str, Any]) -> None:
        super().reload(values)
        for name, value in values.items():
            if name in _ZMQ_LIMITS:
                setattr(self.gateway.limits, name, value)
                if name == "keepalive":
                    self.gateway.bound_silence()
            elif name == "zmq_keys":
                self.gateway.allow(clients.clients(value))


def run(name: str, node: str, settings: Settings, supervisor: socket.socket, make: Callable[[], Worker]) -> None:
    """Be the worker that ``make`` makes, until told to stop. Over the socket ``supervisor`` the worker says when it is
    ready, or why it can't be, and hears what to reload; when that closes, the supervisor is gone and the worker ends at
    once."""
    log.setup(name, form=settings.log_format, level=settings.log_level)
    audit.setup(settings.audit_log, name, node)
    faults.install()
    stop = gevent.event.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor hears it too, and decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    gevent.signal_handler(signal.SIGTERM, stop.set)
    try:
        worker = make()
    except (InvalidKey, InvalidCertificate, StartError) as error:
        supervisor.sendall(str(error).encode())
        return
    # Messages and connections come and go by the thousands, and leave no cycles. So the garbage collector never looks
    # at the present objects again, and at later ones less often.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    worker.start()
    worker.router.in_force()
    channel = gevent.socket.socket(fileno=supervisor.detach())
    channel.sendall(READY)
    gevent.spawn(_listen, channel, worker)
    stop.wait()
    worker.drain()
    try:
        worker.router.backend.check()  # the messages that were acknowledged last have left this process
    except NotInForce as error:
        logger.error("what was published last may be lost", extra={"reason": str(error)})
    worker.stop()
    audit.close()


def http(
    index: int, settings: Settings, service: ServiceBuilder | None, listeners: Mapping[str, socket.socket],
    addresses: Addresses, buckets: Buckets, supervisor: socket.socket,
) -> None:  # fmt: skip
    """Be worker ``index``, with the services that ``service`` adds."""

    def make() -> HttpWorker:
        worker = HttpWorker(index, settings, addresses, buckets, listeners)
        added = service(worker) if service else None
        if isinstance(added, Service):
            added = [added]
        for child in added if isinstance(added, Iterable) else ():
            worker.add(child)
        return worker

    run(f"worker {index}", addresses.node, settings, supervisor, make)


def zmq(
    settings: Settings, listeners: Mapping[str, socket.socket], addresses: Addresses, buckets: Buckets,
    supervisor: socket.socket,
) -> None:  # fmt: skip
    """Be the worker with the ZeroMQ doors, which is numbered behind the others."""

    def make() -> ZmqWorker:
        return ZmqWorker(settings.workers, settings, addresses, buckets, listeners)

    run("zeromq", addresses.node, settings, supervisor, make)


def _listen(channel: Any, worker: Worker) -> None:
    lines = channel.makefile("rb")
    try:
        for line in lines:
            faults.call("a reload", worker.reload, ujson.loads(line))
    finally:
        os._exit(1)  # the supervisor is gone, or can't be heard any more
