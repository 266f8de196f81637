"""The node's two forwarders: ZeroMQ proxies that run in C, each in a real thread of a process of their own.

     worker -PUSH-> PULL -[uplink]-> PUB -ipc-> every worker's SUB
     every peer's uplink -> XSUB -[downlink]-> XPUB -ipc-> every worker's SUB

A message crosses exactly one uplink and at most one downlink; a downlink never feeds an uplink, so nothing circulates.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import zmq


class Addresses(NamedTuple):
    """Where the workers of a node meet its forwarders: ``ipc://`` endpoints in a folder that only the node's user may
    enter."""

    publish: str
    uplink: str
    downlink: str

    @classmethod
    def within(cls, folder: str | Path) -> Addresses:
        return cls(*(f"ipc://{folder}/{name}" for name in cls._fields))


class Forwarders:
    """The uplink and the downlink. ``high_water`` is in messages a socket; ``max_message`` in bytes a frame."""

    def __init__(self, addresses: Addresses, *, high_water: int = 100_000, max_message: int = 64 << 20) -> None:
        self._context = zmq.Context()
        self._high_water = high_water
        self._max_message = max_message
        pull = self._bound(zmq.PULL, addresses.publish)
        pub = self._bound(zmq.PUB, addresses.uplink)
        xsub = self._socket(zmq.XSUB)
        xpub = self._bound(zmq.XPUB, addresses.downlink)
        self._pairs = {"uplink": (pull, pub), "downlink": (xsub, xpub)}

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

    def _bound(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._socket(kind)
        socket.bind(address)
        return socket

    def start(self) -> None:
        """Forward until the process ends."""
        for name, pair in self._pairs.items():
            threading.Thread(target=zmq.proxy, args=pair, name=name, daemon=True).start()
