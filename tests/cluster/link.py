"""A link between two nodes that a test can disturb where TCP can't: it forwards ZeroMQ's frames, and leaves some out.

     the other node's downlink  XSUB ──▶ XPUB [link] XSUB ──▶ XPUB  a node's backbone port

The node advertises the link's address, so all that other nodes hear of it passes here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import zmq

from raiden.backbone.frames import OWN_TOPICS

Disturb = Callable[[bytes], list[bytes]]


def undisturbed(frame: bytes) -> list[bytes]:
    return [frame]


class Link:
    """A thread that forwards to ``address`` until it is closed. Of each frame of a channel, `disturb` says what is
    passed on in its place; what nodes say to each other passes as it is."""

    def __init__(self) -> None:
        self.disturb: Disturb = undisturbed
        self._context = zmq.Context()
        self._front, self._back = self._context.socket(zmq.XPUB), self._context.socket(zmq.XSUB)
        for sock in (self._front, self._back):
            sock.linger = sock.sndhwm = sock.rcvhwm = 0
        port = self._front.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"127.0.0.1:{port}"
        self._closing, self._told = (self._context.socket(zmq.PAIR) for _ in range(2))
        self._closing.bind("inproc://closing")
        self._told.connect("inproc://closing")
        self._thread = threading.Thread(target=self._run, name="link")

    def start(self, address: str) -> None:
        self._back.connect(f"tcp://{address}")
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._closing.send(b"")
            self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        for sock in (self._front, self._back, self._told):
            poller.register(sock, zmq.POLLIN)
        while self._told not in (ready := dict(poller.poll())):
            if self._front in ready:
                self._back.send(self._front.recv())
            if self._back in ready:
                frames: list[bytes] = []
                for frame in self._back.recv_multipart():
                    frames += [frame] if frame[:1] in OWN_TOPICS else self.disturb(frame)
                if frames:
                    self._front.send_multipart(frames)
