"""ZeroMQ clients for tests: libzmq's sockets, and a raw ZMTP client for what libzmq would not send."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from raiden.protocols import zmtp
from raiden.protocols.zmtp import COMMAND
from tests.daemons import Daemon, wait_for

TIMEOUT = 20.0
OPEN: dict[str, Any] = {"zmq_sub_port": 0, "zmq_push_port": 0, "zmq_req_port": 0}
TEXT, BYTES = b"text/plain", b"application/octet-stream"
GREETING = zmtp.Zmtp(b"PUSH", frozenset(), int, None).greeting

_marks = itertools.count(1)


class Pair(NamedTuple):
    """A client's key pair, or a node's, as Z85."""

    public: bytes
    secret: bytes

    @classmethod
    def make(cls) -> Pair:
        return cls(*zmq.curve_keypair())

    @property
    def name(self) -> str:
        return self.public.decode()


class Clients:
    """libzmq's sockets to the doors of a node; all end with `close`. With ``server`` they speak CURVE."""

    def __init__(self, node: Daemon, *, server: bytes | None = None) -> None:
        self.node = node
        self.server = server
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # Started before anything of the node is replaced.
        self._doors = node.doors()

    def socket(self, door: str, kind: int, *, key: Pair | None = None, **options: int) -> zmq.Socket[bytes]:
        """A socket that connects to a door; nothing of it outlasts `close`."""
        sock = self.context.socket(kind)
        sock.linger = 0
        sock.rcvtimeo = sock.sndtimeo = int(TIMEOUT * 1000)
        sock.reconnect_ivl = 20
        for name, value in options.items():
            setattr(sock, name, value)
        if key is not None and self.server is not None:
            sock.curve_serverkey, sock.curve_publickey, sock.curve_secretkey = self.server, key.public, key.secret
        sock.connect(self._doors[door])
        return sock

    def sub(self, *topics: str | bytes, key: Pair | None = None, **options: int) -> zmq.Socket[bytes]:
        """A SUB whose subscriptions are in force, what may be of them."""
        sock = self.socket("SUB", zmq.SUB, key=key, **options)
        for topic in topics:
            sock.subscribe(topic)
        in_force(sock)
        return sock

    def push(self, **options: Any) -> zmq.Socket[bytes]:
        return self.socket("PUSH", zmq.PUSH, **options)

    def req(self, **options: Any) -> zmq.Socket[bytes]:
        return self.socket("REQ", zmq.REQ, **options)

    def dealer(self, **options: Any) -> zmq.Socket[bytes]:
        return self.socket("REQ", zmq.DEALER, **options)

    def close(self) -> None:
        self.context.destroy(linger=0)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_force(sub: zmq.Socket[bytes]) -> list[list[bytes]]:
    """Wait until all that the socket subscribed to is in force; what has come meanwhile."""
    topic = b"-/in-force/%d" % next(_marks)
    sub.subscribe(topic)
    came = []
    while (frames := sub.recv_multipart())[0] != topic:
        came.append(frames)
    assert frames[1:] == [b"", b""], frames
    sub.unsubscribe(topic)
    return came


def take(sub: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    return [sub.recv_multipart() for _ in range(count)]


def payloads(sub: zmq.Socket[bytes], count: int) -> list[bytes]:
    return [frames[1] for frames in take(sub, count)]


def silent(*subs: zmq.Socket[bytes]) -> bool:
    """Nothing more is on its way to the sockets, as far as this node knows."""
    return all(in_force(sub) == [] for sub in subs)


def ask(req: zmq.Socket[bytes], *frames: bytes | str) -> list[bytes]:
    """The answer to a request."""
    req.send_multipart([each.encode() if isinstance(each, str) else each for each in frames])
    return req.recv_multipart()


def refusal(answer: Sequence[bytes]) -> tuple[int, str]:
    """The status and the detail of an answer that is a refusal in good form."""
    status, problem = answer
    told = json.loads(problem)
    assert told["status"] == int(status) >= 400 and told["title"] and told["detail"], told
    return told["status"], told["detail"]


def page(answer: Sequence[bytes]) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """The summary of a page of history, and its messages: cursor and payload."""
    assert answer[0] == b"200", answer
    return json.loads(answer[1]), [
        (cursor.decode(), payload) for cursor, payload in zip(answer[2::2], answer[3::2], strict=True)
    ]


class Monitor:
    """What happens to a socket's connection."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        # An address that pyzmq makes is of the socket's descriptor, and another one may have had that.
        self._socket = sock.get_monitor_socket(addr=f"inproc://monitor-{next(_marks)}")
        self.seen: list[int] = []

    def saw(self, event: int, timeout: float = TIMEOUT) -> bool:
        """Wait for an event."""
        while event not in self.seen:
            if not self._socket.poll(int(timeout * 1000)):
                return False
            self.seen.append(recv_monitor_message(self._socket)["event"])
        return True

    def forget(self) -> None:
        self.seen.clear()


class Raw:
    """A ZMTP client on a plain socket, with the mechanism NULL."""

    def __init__(self, endpoint: str, kind: bytes | None = None, *, minor: int = 1, receive: int | None = None) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self.socket = socket.socket()
        if receive is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._came = b""
        if kind is not None:
            self.send(GREETING[:11] + bytes((minor,)) + GREETING[12:] + ready(kind))
            assert self._exactly(64) == GREETING
            flags, body = self.frame()
            assert flags == COMMAND and body.startswith(b"\5READY"), body

    def send(self, data: bytes) -> bool:
        """False: the node has closed the connection."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def _exactly(self, size: int) -> bytes:
        while len(self._came) < size:
            came = self.socket.recv(1 << 16)
            assert came, f"closed where {size} bytes were to come"
            self._came += came
        found, self._came = self._came[:size], self._came[size:]
        return found

    def frame(self) -> tuple[int, bytes]:
        flags, size = self._exactly(2)
        if flags & zmtp.LONG:
            size = int.from_bytes(bytes((size,)) + self._exactly(7), "big")
        return flags & ~zmtp.LONG, self._exactly(size)

    def message(self) -> list[bytes]:
        """The next message; commands are left out."""
        frames = []
        while True:
            flags, content = self.frame()
            if not flags & COMMAND:
                frames.append(content)
                if not flags & zmtp.MORE:
                    return frames

    def half_close(self) -> None:
        """Say that nothing more will come."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the node was faster

    def closed(self) -> bool:
        """Wait until the node has closed the connection."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def command(name: bytes, data: bytes = b"") -> bytes:
    """A command as a frame."""
    return zmtp.frame(bytes((len(name),)) + name + data, COMMAND)


def ready(kind: bytes) -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def carried(node: Daemon) -> dict[str, int]:
    """How many subscribers each channel and pattern has."""
    return {name: row["subscribers"] for name, row in node.json("/-/channels")["channels"].items()}


def wait_for_metric(node: Daemon, name: str, least: float, **labels: str) -> None:
    wait_for(lambda: node.metric(f"raiden_{name}", **labels) >= least, f"{name} is {least}")
