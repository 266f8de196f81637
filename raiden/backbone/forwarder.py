"""The node's forwarders: ZeroMQ proxies that run in C, each in a real thread of a process of their own.

     worker -PUSH-> PULL -[uplink]-> PUB -ipc-> every worker's SUB
                                      +-inproc-> XSUB -[outlink]-> XPUB =tcp=> every peer's downlink
                                      roster's XPUB -ipc-^
     every peer's outlink =tcp=> XSUB -[downlink]-> XPUB -ipc-> every worker's SUB

A message crosses exactly one uplink and, to reach another node, one outlink and one downlink; a downlink never feeds an
uplink, so nothing circulates. Subscriptions travel the other way by themselves. The outlink stands between the uplink
and the peers because a PUB does not tell its subscriptions, and an XPUB with a PULL behind it has nowhere to send them:
behind the outlink both the uplink and this node's roster (`cluster.py`) hear the peers' subscriptions. The outlink
costs a message to a peer some 20 us, and a message that stays in the node nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

import zmq

from raiden.access.keys import Keys
from raiden.backbone.addresses import Addresses

log = logging.getLogger(__name__)

# Milliseconds. A peer that is silent for HEARTBEAT_TIMEOUT is disconnected, so that it is found again soon after a
# network's failure, when TCP's own retransmissions have backed off for long. The connecting side asks, and tells the
# other when to give up.
HEARTBEAT, HEARTBEAT_TIMEOUT = 1000, 3000
RECONNECT, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT = 100, 700, 2000
# Bytes that a peer may send to the outlink at once: subscriptions are all that it takes.
MAX_SUBSCRIPTION = 8192


def link_options(socket: zmq.Socket[bytes], keys: Keys | None, *, connects: bool = True) -> None:
    """Set the options of a socket between nodes; where it connects, the peer's key is set before each connect."""
    socket.ipv6 = True
    socket.linger = 0
    socket.handshake_ivl = HANDSHAKE_TIMEOUT
    if connects:
        socket.reconnect_ivl = RECONNECT
        socket.connect_timeout = CONNECT_TIMEOUT
        socket.heartbeat_ivl = HEARTBEAT
        socket.heartbeat_timeout = socket.heartbeat_ttl = HEARTBEAT_TIMEOUT
    if keys:
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret


class Forwarders:
    """The uplink, the outlink and the downlink. ``bind`` is the address of the outlink, as ``tcp://host:port``;
    ``high_water`` is in messages a socket; ``max_message`` in bytes a frame. Raises zmq.ZMQError where it can't bind.
    """

    def __init__(
        self, addresses: Addresses, *, bind: str, keys: Keys | None = None, high_water: int = 100_000,
        max_message: int = 64 << 20,
    ) -> None:  # fmt: skip
        self._context = zmq.Context()
        self._high_water = high_water
        self._max_message = max_message
        pull = self._bound(zmq.PULL, addresses.publish)
        pub = self._bound(zmq.PUB, addresses.uplink, "inproc://uplink")
        inner = self._socket(zmq.XSUB)
        inner.connect("inproc://uplink")
        inner.connect(addresses.roster)
        outer = self._socket(zmq.XPUB)
        outer.maxmsgsize = MAX_SUBSCRIPTION
        link_options(outer, keys, connects=False)
        if keys:
            outer.curve_server = True
            outer.zap_domain = b"nodes"
            self._guard(keys)
        outer.bind(bind)
        self.endpoint = outer.get_string(zmq.LAST_ENDPOINT)
        self._peers = self._socket(zmq.XSUB)
        link_options(self._peers, keys)
        xpub = self._bound(zmq.XPUB, addresses.downlink)
        control = self._bound(zmq.PAIR, "inproc://control")
        self._control = self._socket(zmq.PAIR)
        self._control.connect("inproc://control")
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads = [
            threading.Thread(target=zmq.proxy, args=(pull, pub), name="uplink", daemon=True),
            threading.Thread(target=zmq.proxy, args=(inner, outer), name="outlink", daemon=True),
            threading.Thread(target=self._steered, args=(self._peers, xpub, control), name="downlink", daemon=True),
        ]

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.maxmsgsize = self._max_message
        socket.sndhwm = self._high_water
        socket.rcvhwm = self._high_water
        if kind in (zmq.XPUB, zmq.XSUB, zmq.PUB):
            # Subscriptions are messages too, and above the mark they would be cut short (libzmq issue 2258).
            socket.setsockopt(zmq.RCVHWM if kind != zmq.XSUB else zmq.SNDHWM, 0)
        return socket

    def _bound(self, kind: int, *addresses: str) -> zmq.Socket[bytes]:
        socket = self._socket(kind)
        for address in addresses:
            socket.bind(address)
        return socket

    def _guard(self, keys: Keys) -> None:
        """Let only nodes in that have a listed key (ZAP, RFC 27 of ZeroMQ)."""
        from zmq.auth.thread import ThreadAuthenticator  # it imports asyncio, and only nodes with keys need it

        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("nodes", _AllowList(keys.allowed))

    def start(self) -> None:
        """Forward until the process ends."""
        for thread in self._threads:
            thread.start()

    def connect(self, endpoint: str, key: bytes = b"") -> None:
        """Hear the messages of the peer at ``endpoint``; ``key`` is its public key, where there are keys. A second
        connect to the same endpoint would duplicate its messages (libzmq issue 788)."""

        def connect() -> None:
            if key:
                self._peers.curve_serverkey = key
            self._peers.connect(endpoint)

        self._steer(connect)

    def disconnect(self, endpoint: str) -> None:
        self._steer(lambda: self._peers.disconnect(endpoint))

    def _steer(self, job: Callable[[], None]) -> None:
        """Run a job in the downlink's thread, which its sockets belong to, while its proxy stands still. That takes
        some 0.5 ms, and messages that come meanwhile wait in the sockets."""
        done = threading.Event()
        failure: list[Exception] = []

        def run() -> None:
            try:
                job()
            except zmq.ZMQError as error:
                failure.append(error)
            done.set()

        self._jobs.append(run)
        self._control.send(b"TERMINATE")
        done.wait()
        if failure:
            raise failure[0]

    def _steered(self, front: zmq.Socket[bytes], back: zmq.Socket[bytes], control: zmq.Socket[bytes]) -> None:
        while True:
            zmq.proxy_steerable(front, back, None, control)
            while self._jobs:
                self._jobs.popleft()()


class _AllowList:
    """The answers for ZAP whether a key is listed; the first refusal of each key is logged."""

    MAX_REFUSED = 1000

    def __init__(self, allowed: frozenset[bytes]) -> None:
        self._allowed = allowed
        self._refused: set[bytes] = set()

    def callback(self, domain: str, key: bytes) -> bool:
        if key in self._allowed:
            return True
        if key not in self._refused and len(self._refused) < self.MAX_REFUSED:
            self._refused.add(key)
            log.warning("refused a node: add its key to node_keys if it is one", extra={"key": key.decode()})
        return False
