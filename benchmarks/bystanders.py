"""Quiet clients of a node, and how long each of them waits while something else happens to that node.

They run in a process of their own (`Bystanders` starts it): two publishers that keep a pace, one on a channel without
history and one on a channel with it, and subscribers of these by every transport. A publish and its deliveries count
from when it was sent.

Beside them a process that echoes bytes is asked at the same pace. What that takes is the machine's share: nothing of
the node is in it.
"""

from __future__ import annotations

import base64
import gc
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.tools import ROOT, Failed

QUIET, KEPT = "bystanders.quiet", "bystanders.kept"  # channels: without history, and with it
PACE, PACE_KEPT = 0.01, 0.02  # seconds from one publish to the next
PATIENCE = 30.0  # seconds
MACHINE = "machine"  # the kind of the echo's samples; all others are the node's
PUBLISHING = ("publish", "publish with history")
WEBSOCKET = "WebSocket"
PONG = b"\x8a\x80" + bytes(4)  # unasked, as a heartbeat (RFC 6455 section 5.5.3)

_SENT = re.compile(rb'"sent": ?([\d.]+)')


class Sample(NamedTuple):
    kind: str
    at: float  # time.monotonic() when it ended
    seconds: float


class Bystanders:
    """The clients of the node at a port, from when each of them has heard a message until `stop`."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.bystanders", str(port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
        )
        self.pid = self._process.pid
        assert self._process.stdout
        if self._process.stdout.readline() != "up\n":
            self._process.kill()
            raise Failed("the bystanders don't hear each other")

    def kill(self) -> None:
        """End them, whatever they do."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> tuple[list[Sample], list[tuple[float, str]]]:
        """What they have measured, and when they were refused or cut off, and how."""
        try:
            told = json.loads(self._process.communicate(timeout=2 * PATIENCE)[0])
        finally:
            self._process.kill()
        return [Sample(*sample) for sample in told["samples"]], [(at, why) for at, why in told["refused"]]


# The process.


class Measured:
    """What all clients have measured; `over` tells them to end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.over = threading.Event()
        self.samples: list[Sample] = []
        self.refused: list[tuple[float, str]] = []
        self.heard: set[str] = set()

    def add(self, kind: str, since: float) -> None:
        now = time.monotonic()
        self.samples.append(Sample(kind, now, now - since))

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def open(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.sock = self.connect()
        return connection

    def keep(self, kind: str, life: Callable[[str], None]) -> None:
        """One life after the other, until it is over; the end of one is noted."""
        while not self.over.is_set():
            try:
                life(kind)
            except (OSError, http.client.HTTPException) as error:
                if not self.over.is_set():
                    self.refused.append((time.monotonic(), f"{kind}: {error!r}"))
                    self.over.wait(0.1)

    def paced(self, pace: float, work: Callable[[], None]) -> None:
        """Do a work at a pace; it begins later where the one before has taken longer."""
        due = time.monotonic()
        while not self.over.is_set():
            due = max(due + pace, time.monotonic())
            self.over.wait(due - time.monotonic())
            work()

    # Publishers.

    def publish(self, kind: str, channel: str, pace: float) -> None:
        connection = self.open()

        def post() -> None:
            since = time.monotonic()
            body = json.dumps({"sent": since})
            connection.request("POST", f"/{channel}", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            self.add(kind, since)
            if answer.status not in (200, 202):
                self.refused.append((time.monotonic(), f"{kind}: {answer.status} {text[:100]!r}"))

        self.paced(pace, post)

    # Subscribers.

    def take(self, kind: str, data: bytes) -> None:
        now = time.monotonic()
        for sent in _SENT.findall(data):
            self.samples.append(Sample(kind, now, now - float(sent)))
            self.heard.add(kind)

    def stream(self, kind: str, head: bytes) -> None:
        with self.connect() as sock:
            sock.sendall(head)
            rest = b""
            alive = time.monotonic()
            while not self.over.is_set():
                if kind == WEBSOCKET and time.monotonic() > alive + 5.0:
                    alive = time.monotonic()
                    sock.sendall(PONG)
                data = sock.recv(65536)
                if not data:
                    raise ConnectionResetError("the stream has ended")
                # A message ends with a newline or is a frame of its own; "}" ends each.
                whole, brace, rest = (rest + data).rpartition(b"}")
                self.take(kind, whole + brace)

    def poll(self, kind: str, channel: str) -> None:
        connection = self.open()
        since = ""
        while not self.over.is_set():
            connection.request("GET", f"/{channel}?_wait=25{since}")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status not in (200, 204):
                raise ConnectionResetError(f"{answer.status} {body[:100]!r}")
            cursor = answer.getheader("Raiden-Cursor")  # where the channel has history
            since = f"&_since={cursor}" if cursor else ""
            self.take(kind, body)

    # The machine.

    def echo(self, kind: str, sock: socket.socket) -> None:
        def ask() -> None:
            since = time.monotonic()
            sock.sendall(b".")
            sock.recv(1)
            self.add(kind, since)

        self.paced(PACE, ask)


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *fields, "", "")).encode()


def handshake(path: str, *fields: str) -> bytes:
    """The request that opens a WebSocket (RFC 6455 section 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
    return get(path, *upgrade, *fields)


def echoing() -> socket.socket:
    """A socket whose other end is a process that sends back what comes."""
    here, there = socket.socketpair()
    if not os.fork():
        here.close()
        while data := there.recv(64):
            there.sendall(data)
        os._exit(0)
    there.close()
    return here


def main() -> int:
    # What is measured is the node: here, no collection of all samples, and no thread that keeps others for 5 ms.
    gc.disable()
    sys.setswitchinterval(0.0005)
    measured = Measured(int(sys.argv[1]))
    echo = echoing()
    lives: dict[str, Callable[[str], None]] = {
        "event stream": lambda kind: measured.stream(kind, get(f"/{QUIET}", "Accept: text/event-stream")),
        WEBSOCKET: lambda kind: measured.stream(kind, handshake(f"/{QUIET}")),
        "stream with history": lambda kind: measured.stream(kind, get(f"/{KEPT}")),
        "long-poll with history": lambda kind: measured.poll(kind, KEPT),
        PUBLISHING[0]: lambda kind: measured.publish(kind, QUIET, PACE),
        PUBLISHING[1]: lambda kind: measured.publish(kind, KEPT, PACE_KEPT),
        MACHINE: lambda kind: measured.echo(kind, echo),
    }
    for kind, life in lives.items():
        threading.Thread(target=measured.keep, args=(kind, life), daemon=True).start()
    until = time.monotonic() + PATIENCE
    while len(measured.heard) < 4 and time.monotonic() < until:
        time.sleep(0.05)
    print("up" if len(measured.heard) == 4 else measured.refused, flush=True)
    sys.stdin.read()  # until whoever started this closes it
    measured.over.set()
    time.sleep(0.5)
    told: dict[str, Any] = {"samples": measured.samples, "refused": measured.refused}
    print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
