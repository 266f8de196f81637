"""The doors for ZeroMQ clients: SUB hears channels, PUSH feeds them, REQ publishes and reads, and gets answers.

Each door is a socket of ZMTP (`raiden.protocols.zmtp`) on the same connections as HTTP's; `raiden.zeromq.session` has
the session of a connection after its handshake. All doors of a node are in one process of their own, so that a flood of
messages does not wait for HTTP's clients, nor hold these up."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import ClassVar, cast

import gevent

from raiden.access.clients import NOBODY_KNOWN, Client
from raiden.access.permit import OPEN, Permits
from raiden.access.rates import Rates
from raiden.backend import NotInForce
from raiden.connections import client
from raiden.connections.connection import Connection, Gone, Overflow
from raiden.connections.door import Door
from raiden.model.refusals import Unauthorized
from raiden.presence.presence import Presence
from raiden.protocols import zmtp
from raiden.protocols.curve import Curve
from raiden.protocols.zmtp import Event, Failed, Peer, Reply, Zmtp
from raiden.requests.exchange import Exchange
from raiden.router import Router
from raiden.runtime.service import Service
from raiden.runtime.stats import Stats
from raiden.zeromq.push import Pusher
from raiden.zeromq.req import Requester
from raiden.zeromq.session import Common, ZmqLimits, ZmqSession, spoken
from raiden.zeromq.sub import HEARTBEAT, Subscriber

log = logging.getLogger(__name__)

# Seconds. A stop waits at most LINGER for SUB clients to take their messages.
HANDSHAKE_TIMEOUT, LINGER = 5.0, 2.0


class Gate:
    """The clients that may come in, by CURVE key, and the server's own key. Without a key of the server's anyone may
    come in."""

    def __init__(self, secret: bytes | None, clients: Mapping[bytes, Client]) -> None:
        self._secret = secret
        self.clients = dict(clients)

    def curve(self) -> Callable[[bytes], Curve] | None:
        """The function that makes the mechanism of a connection; None: there are no keys."""
        secret = self._secret
        # The list is looked up when a client has proved its key.
        return None if secret is None else lambda metadata: Curve(secret, metadata, lambda key: key in self.clients)

    def client(self, key: bytes) -> Client | None:
        """The client that has the key now; None: nobody any more."""
        return NOBODY_KNOWN if self._secret is None else self.clients.get(key)


class ZmqDoor(Door):
    """The base of the doors: a subclass has its type of ZMTP socket, and the sessions of its clients."""

    transport: ClassVar[str]
    kind: ClassVar[bytes]
    peers: ClassVar[frozenset[bytes]]
    session: ClassVar[type[ZmqSession]]

    def __init__(self, listener: socket.socket, gate: Gate, common: Common) -> None:
        super().__init__(listener, common.limits, common.stats, self.transport, common.rates)
        self._gate = gate
        self._common = common

    def protocol(self, remote: str) -> Zmtp:
        common = self._common
        return Zmtp(self.kind, self.peers, lambda: common.limits.max_body, self._gate.curve(), common.unfinished)

    def opened(self, connection: Connection) -> None:
        connection.send(spoken(connection).greeting)
        self.wheel.schedule(connection, HANDSHAKE_TIMEOUT)

    def due(self, connection: Connection) -> None:
        if connection.closing and connection.is_moving():
            self.wheel.schedule(connection, LINGER)
        elif connection.closing:
            self.close(connection)
        elif connection.session is None:
            self._fail(connection, Failed("the handshake took too long"))

    def readable(self, connection: Connection) -> None:
        received: list[Event] = []
        for event in connection.receive(self.portion):
            if event is Gone:
                self.close(connection)
                return
            if event is Overflow:
                self.stats.slow_consumers += 1
                self._common.say("slow consumer closed", connection=connection.describe())
                self.close(connection)
                return
            if type(event) is Reply:
                connection.send(event.data)
            elif type(event) is Peer:
                peer = self._gate.client(event.key)
                if peer is None:  # its key went while it shook hands
                    self.close(connection)
                    return
                connection.session = self.session(self._common, connection, peer, event.key)
                if self.watcher is not None:
                    self.watcher.came(connection)
            elif type(event) is Failed:
                self._hand_over(connection, received)
                self._fail(connection, event)
                return
            else:
                received.append(cast(Event, event))
        self._hand_over(connection, received)

    def _hand_over(self, connection: Connection, received: list[Event]) -> None:
        if received and not connection.session.received(received):
            self._fail(connection, Failed("it subscribes to more topics than zmq_max_topics"))

    def _fail(self, connection: Connection, failed: Failed) -> None:
        if connection.session is None:
            self.stats.refused_handshakes += 1
        else:
            self.stats.bad_messages += 1
        self._common.say("closed a ZeroMQ client", connection=connection.describe(), reason=failed.why)
        if failed.farewell:  # it is for a client whose key is refused
            if connection.session is None:
                client.refused(connection, Unauthorized(failed.why), "connect", "")
            connection.finish(failed.farewell)
            self.wheel.schedule(connection, LINGER)
        else:
            self.close(connection)

    def reconsider(self) -> None:
        """Close clients that may not be here any more, or have other permissions now; clients that come back are judged
        anew."""
        for connection in list(self.connections):
            session = connection.session
            if session is not None and self._gate.client(session.key) != session.client:
                log.info("closed a ZeroMQ client whose key was changed", extra={"client": session.client.name})
                self.close(connection)

    def drain(self, deadline: float) -> None:
        """Let no more clients in, finish work under way until ``deadline`` (of the monotonic clock), and close all."""
        self.shut()
        for connection in self.connections:
            if connection.session is not None:
                connection.session.drain()
        while time.monotonic() < deadline and any(
            connection.outbox_size or (connection.session is not None and connection.session.waiting)
            for connection in self.connections
        ):
            gevent.sleep(0.01)
        for connection in list(self.connections):
            self.close(connection)


class SubDoor(ZmqDoor):
    """The door for SUB clients, which hear channels."""

    transport: ClassVar[str] = "sub"
    kind: ClassVar[bytes] = b"XPUB"
    peers: ClassVar[frozenset[bytes]] = frozenset({b"SUB", b"XSUB"})
    session: ClassVar[type[ZmqSession]] = Subscriber

    def heartbeats(self, seconds: float) -> None:
        """Send a heartbeat to all clients that subscribe to it, every ``seconds``; endless, for a greenlet."""
        while True:
            gevent.sleep(seconds)
            now = b"%.3f" % time.time()
            for connection in list(self.connections):
                session = connection.session
                if session is not None and session.wants_heartbeats:
                    session.pending.append(zmtp.message(HEARTBEAT, now, b""))
                    session.flush()


class PushDoor(ZmqDoor):
    """The door for PUSH clients, which feed channels."""

    transport: ClassVar[str] = "push"
    kind: ClassVar[bytes] = b"PULL"
    peers: ClassVar[frozenset[bytes]] = frozenset({b"PUSH"})
    session: ClassVar[type[ZmqSession]] = Pusher


class ReqDoor(ZmqDoor):
    """The door for REQ and DEALER clients, which are answered."""

    transport: ClassVar[str] = "req"
    kind: ClassVar[bytes] = b"ROUTER"
    peers: ClassVar[frozenset[bytes]] = frozenset({b"REQ", b"DEALER"})
    session: ClassVar[type[ZmqSession]] = Requester


class ZmqGateway(Service):
    """The doors of a node that are open: a listener for each, by the name of its transport."""

    DOORS: ClassVar[dict[str, type[ZmqDoor]]] = {"sub": SubDoor, "push": PushDoor, "req": ReqDoor}

    def __init__(
        self, listeners: Mapping[str, socket.socket], router: Router, *, gate: Gate, stats: Stats,
        limits: ZmqLimits, heartbeat: float = 0.0, permits: Permits = OPEN,
        rates: Rates | None = None, exchange: Exchange | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.gate = gate
        self.limits = limits
        self._common = Common(router, stats, limits, permits, rates, exchange)
        self.add(Presence(router, limits))
        self._heartbeat = heartbeat
        self._doors = {name: self.DOORS[name](listener, gate, self._common) for name, listener in listeners.items()}
        for door in self._doors.values():
            self.add(door)

    @property
    def doors(self) -> list[ZmqDoor]:
        return list(self._doors.values())

    def do_start(self) -> None:
        self.spawn(self._common.flow.run)
        sub = self._doors.get("sub")
        if self._heartbeat and isinstance(sub, SubDoor):
            self.spawn(sub.heartbeats, self._heartbeat)

    def allow(self, clients: Mapping[bytes, Client]) -> None:
        """Let only these clients come in from now on; clients that are in and are not among them, or have other
        permissions, are closed."""
        self.gate.clients = dict(clients)
        for door in self._doors.values():
            door.reconsider()

    def bound_silence(self) -> None:
        for door in self._doors.values():
            door.bound_silence()

    def drain(self, timeout: float) -> None:
        """Take no more, and finish work under way, for at most ``timeout`` seconds; the SUB door is last."""
        deadline = time.monotonic() + timeout
        for name in ("push", "req"):
            if name in self._doors:
                self._doors[name].drain(deadline)
        if "sub" in self._doors:
            try:
                self._common.router.backend.check()  # messages of the other doors have come back by the backbone
            except NotInForce:
                pass  # the history has them
            self._common.router.sends.send_all()
            self._doors["sub"].drain(min(deadline, time.monotonic() + LINGER))
