"""The supervisor starts the forwarders and the workers as processes, replaces a worker that dies, and passes signals
on.

     supervisor ──fork── backbone     the forwarders, C threads without Python in transit, and the roster
          ├─────fork──── history      the store of the channels' history, if any keeps one
          ├─────fork──── worker 0..N  a router and a gateway each
          └─────fork──── zeromq       a router and the doors for ZeroMQ clients, if any is open

The supervisor stays a plain single-threaded process without ZeroMQ or gevent at work, so that it may fork at any time.
It opens a listening socket for each worker (SO_REUSEPORT) and keeps it: connections that wait there survive a worker's
death. A socket pair to each child says "ready" (or why not) in one direction and what to reload in the other; when it
closes, the child knows that the supervisor is gone, and ends. The supervisor also tells the backbone that the node will
leave, and then that its workers have ended.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ujson

from raiden.access.buckets import Buckets
from raiden.access.rates import TABLE
from raiden.backbone.addresses import Addresses
from raiden.backbone.cluster import GOODBYE
from raiden.node import backbone, config, history, pid_file, systemd, worker
from raiden.node.config import ConfigError
from raiden.node.errors import StartError
from raiden.node.listeners import endpoint, listen
from raiden.node.settings import ServiceBuilder, Settings
from raiden.runtime import audit, descriptors, log
from raiden.runtime.service import READY
from raiden.runtime.shared import Shared

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0
MAX_DEATHS, DEATHS_WITHIN = 5, 30.0


@dataclass
class Child:
    """A process of this node."""

    name: str
    pid: int
    channel: socket.socket
    run: Callable[[socket.socket], None]
    worker: bool = False  # it serves clients: it reloads settings, and stops first
    ready: bool = False


class Supervisor:
    """The supervisor of one node. ``reread`` gives the settings anew for a reload; ``announce`` is called when all is
    ready."""

    def __init__(
        self,
        settings: Settings,
        service: ServiceBuilder | None,
        *,
        reread: Callable[[], tuple[Settings, ServiceBuilder | None]],
        announce: Callable[[str, int, dict[str, str]], None],
    ) -> None:
        self.settings = settings
        self.service = service
        self._reread = reread
        self._announce = announce
        self._children: dict[int, Child] = {}
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._selector = selectors.DefaultSelector()
        # By the name of the port's setting, one for each worker.
        self._listeners: dict[str, list[socket.socket]] = {}
        self._zmq_listeners: dict[str, socket.socket] = {}
        self._folder = ""
        self._node = os.urandom(8).hex()
        # Workers count for the node together.
        shared = Shared(TABLE)
        self._buckets = Buckets(shared.memory, time.monotonic, shared if settings.routers > 1 else None)
        self._reason: str | None = None
        self._stopping = False
        # The time when the node stops, once it was told to (of the monotonic clock).
        self._stop_at: float | None = None
        self._announced = False
        self._wakeup, wakeup = socket.socketpair()
        for sock in (self._wakeup, wakeup):
            sock.setblocking(False)
        self._wakeup_in = wakeup

    def run(self) -> int:
        """Be the node until it is told to stop, and return the exit code. Raises StartError if the node can't start."""
        try:
            audit.setup(self.settings.audit_log, "raiden", self._node, waits=True)
        except OSError as error:
            raise StartError(f"audit_log can't be opened: {error}") from None
        descriptors.raise_limit(self.settings.max_connections)
        for name, kind, port in self.settings.http_ports:
            host = getattr(self.settings, f"{kind}_host")
            self._listeners[name] = listen(kind, host, port, self.settings.workers, setting=name)
        for name, port in self.settings.zmq_ports.items():
            self._zmq_listeners[name] = listen("zmq", self.settings.zmq_host, port, setting=f"zmq_{name}_port")[0]
        self._folder = _private_folder(self.settings)
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        signal.set_wakeup_fd(self._wakeup_in.fileno(), warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGUSR1, log.reopen)  # in the children, too
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        try:
            self._start()
            while not self._stopping:
                self._wait(None if self._stop_at is None else max(0.0, self._stop_at - time.monotonic()))
                self._stopping |= self._stop_at is not None and time.monotonic() >= self._stop_at
            return self._stop()
        finally:
            for child in list(self._children.values()):
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        for warning in config.warnings(self.settings):
            logger.warning(warning)
        self._fork("backbone", self._be_backbone)
        if self.settings.keeps_history:
            self._fork("history", self._be_history)
        deadline = time.monotonic() + START_TIMEOUT
        self._wait_ready(deadline)
        if not self._stopping:
            for index in range(self.settings.workers):
                self._fork(f"worker {index}", functools.partial(self._be_http_worker, index), worker=True)
            if self._zmq_listeners:
                self._fork("zeromq", self._be_zmq_worker, worker=True)
        self._wait_ready(deadline)
        if self._reason:
            raise StartError(self._reason)
        if not self._stopping:
            at = {name: listeners[0].getsockname()[:2] for name, listeners in self._listeners.items()}
            host, port = at.pop("http_port")
            doors = {name: endpoint(listener) for name, listener in self._zmq_listeners.items()}
            self._announce(host, port, doors)
            self._announced = True
            endpoints = {f"zmq_{name}": endpoint for name, endpoint in doors.items()}
            endpoints |= {name.removesuffix("_port"): f"{address}:{port}" for name, (address, port) in at.items()}
            logger.info("ready", extra={"address": f"{host}:{port}", "workers": self.settings.workers, **endpoints})
            systemd.notify("READY=1")

    def _wait_ready(self, deadline: float) -> None:
        while not self._stopping and not all(child.ready for child in self._children.values()):
            if time.monotonic() > deadline:
                raise StartError(f"not ready after {START_TIMEOUT:.0f} s; the log says why")
            self._wait(deadline - time.monotonic())

    # Children.

    def _be_http_worker(self, index: int, channel: socket.socket) -> None:
        mine = {name: listeners[index] for name, listeners in self._listeners.items()}
        self._close_listeners(but=mine.values())
        worker.http(index, self.settings, self.service, mine, self._addresses(), self._buckets, channel)

    def _be_zmq_worker(self, channel: socket.socket) -> None:
        self._close_listeners(but=self._zmq_listeners.values())
        worker.zmq(self.settings, self._zmq_listeners, self._addresses(), self._buckets, channel)

    def _be_backbone(self, channel: socket.socket) -> None:
        self._close_listeners()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        backbone.run(self.settings, self._addresses(), channel, Path(self._folder))

    def _be_history(self, channel: socket.socket) -> None:
        self._close_listeners()
        history.run(self.settings, self._addresses(), channel)

    def _close_listeners(self, but: Collection[socket.socket] = ()) -> None:
        for listener in (*itertools.chain(*self._listeners.values()), *self._zmq_listeners.values()):
            if listener not in but:
                listener.close()

    def _addresses(self) -> Addresses:
        return Addresses.within(self._folder, self._node)

    def _fork(self, name: str, run: Callable[[socket.socket], None], *, worker: bool = False) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                    signal.signal(number, signal.SIG_DFL)
                for child in self._children.values():
                    child.channel.close()
                ours.close()
                self._selector.close()
                pid_file.release()
                run(theirs)
                code = 0
            except BaseException:  # a child must never return into the supervisor's loop
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        theirs.close()
        child = self._children[pid] = Child(name, pid, ours, run, worker)
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue
            if child.channel in self._selector.get_map():
                self._hear(child)  # it may have said why it ends, just now
            self._forget(child)
            if not self._stopping:
                self._replace(child, os.waitstatus_to_exitcode(status))

    def _forget(self, child: Child) -> None:
        try:
            self._selector.unregister(child.channel)
        except KeyError:
            pass  # its end was seen before
        child.channel.close()

    def _replace(self, child: Child, code: int) -> None:
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        logger.error("%s died", child.name, extra={"pid": child.pid, "how": how})
        now = time.monotonic()
        self._deaths.append(now)
        if child.name == "backbone":
            self._give_up("the backbone died, and without it no message passes")
        elif not self._announced and not child.ready:
            self._give_up(f"{child.name} failed to start ({how}); the lines above say why")
        elif len(self._deaths) == MAX_DEATHS and now - self._deaths[0] < DEATHS_WITHIN:
            self._give_up(f"processes died {MAX_DEATHS} times within {DEATHS_WITHIN:.0f} s, the last by {how}")
        else:
            self._fork(child.name, child.run, worker=child.worker)
            logger.info("%s replaced", child.name)

    def _give_up(self, reason: str) -> None:
        self._reason = reason
        self._stopping = True

    # Events.

    def _wait(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                for number in self._wakeup.recv(64):
                    self._handle(number)
            else:
                self._hear(key.data)
        if self._children:
            self._reap()

    def _hear(self, child: Child) -> None:
        try:
            said = child.channel.recv(1024, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it died with a reload unread
            said = b""
        if said == READY:
            child.ready = True
        elif said:
            self._give_up(said.decode())
        else:
            self._selector.unregister(child.channel)  # dying: SIGCHLD follows

    def _handle(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._leave()
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1:
            for child in self._children.values():
                os.kill(child.pid, signal.SIGUSR1)

    def _leave(self) -> None:
        """Stop after `drain_delay`, in which /-/ready is 503 and all else as before; on a second signal, at once."""
        if self._stop_at is not None or not self._announced or not self.settings.drain_delay:
            self._stopping = True
            return
        self._stop_at = time.monotonic() + self.settings.drain_delay
        logger.info("leaving", extra={"stops_in": self.settings.drain_delay})
        self._say_leaving()

    def _say_leaving(self) -> None:
        """Let the backbone tell peers and workers, which say so on `/-/ready`."""
        for child in self._children.values():
            if child.name == "backbone":
                try:
                    child.channel.sendall(b"leave\n")
                except OSError:
                    pass  # it died: nobody is left to be told

    def _reload(self) -> None:
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            settings, _ = self._reread()
            can, cannot = config.changes(self.settings, settings)
            if "audit_log" in can:
                audit.to(settings.audit_log)
        except ConfigError as error:
            logger.error("not reloaded: %s", error)
        except OSError as error:
            logger.error("not reloaded: audit_log can't be opened: %s", error)
        else:
            for name, value in can.items():
                setattr(self.settings, name, value)
            line = ujson.dumps(can).encode() + b"\n"
            for child in self._children.values():
                if child.worker:
                    try:
                        child.channel.sendall(line)
                    except OSError:
                        pass  # it died: its replacement has the new settings
            logging.getLogger().setLevel(settings.log_level)
            logger.info("reloaded", extra={"changed": sorted(can)})
            audit.done("reload", changed=sorted(can), needs_restart=sorted(cannot))
            if cannot:
                logger.warning("needs a restart: %s", ", ".join(sorted(cannot)))
        systemd.notify("READY=1")

    def _stop(self) -> int:
        """Drain the workers, then end the backbone; a process that outlasts the bound is killed."""
        systemd.notify("STOPPING=1")
        logger.info("stopping")
        self._close_listeners()
        workers = [child for child in self._children.values() if child.worker]
        others = [child for child in self._children.values() if not child.worker]
        self._say_leaving()
        for child in workers:
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.settings.drain_timeout + 2.0
        while any(child.pid in self._children for child in workers) and time.monotonic() < deadline:
            self._wait(max(0.0, deadline - time.monotonic()))
        for child in self._children.values():
            if child.worker:
                logger.error("%s did not stop in time: killed", child.name)
        for child in others:
            if child.pid in self._children:
                child.channel.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + GOODBYE + 1.0
        while any(child.pid in self._children for child in others) and time.monotonic() < deadline:
            self._wait(max(0.0, deadline - time.monotonic()))
        logger.info("stopped")
        if self._reason:
            raise StartError(self._reason)
        return 0


def _private_folder(settings: Settings) -> str:
    """A new folder for the sockets by which the node's processes meet, that only this user may enter; raises StartError
    where there can be none, or where its path is too long for a Unix socket's (108 bytes, unix(7))."""
    why = ""
    for find in (tempfile.gettempdir, lambda: settings.data_dir):
        try:
            folder = tempfile.mkdtemp(prefix="raiden-", dir=find())
        except OSError as error:
            why = why or error.strerror or str(error)
            continue
        if Addresses.fit(folder):
            return folder
        os.rmdir(folder)
        why = "its path is too long"
    raise StartError(f"no folder for the sockets of the node's processes: {why}; set TMPDIR to a short, writable one")


def run(settings: Settings, service: ServiceBuilder | None, arguments: Sequence[Any], **announce: Any) -> int:
    """Be a node in this process."""
    log.setup("raiden", form=settings.log_format, level=settings.log_level)
    path, overrides = arguments
    return Supervisor(settings, service, reread=lambda: config.load(path, overrides), **announce).run()
