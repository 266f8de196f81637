"""What a ZeroMQ client may do to a session that libzmq would not do, and what happens when all is full."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from raiden.protocols.zmtp import COMMAND, Zmtp, frame, message
from tests.daemons import Daemon, running, wait_for

Start = Callable[..., Daemon]
Socket = zmq.Socket[bytes]

DOORS: dict[str, Any] = {"zmq_sub_port": 0, "zmq_push_port": 0, "zmq_req_port": 0}
CHANNELS = {"live.*": {"history_size": 0}, "*": {"history_size": 1000}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), workers=1, channels=CHANNELS, **DOORS)


@pytest.fixture
def connect() -> Iterator[Callable[..., Socket]]:
    """Connects libzmq's sockets to a node's doors."""
    with zmq.Context() as context:

        def connect(node: Daemon, door: str, kind: int, **options: int) -> Socket:
            sock = context.socket(kind)
            sock.linger, sock.rcvtimeo, sock.sndtimeo = 0, 20_000, 20_000
            for name, value in options.items():
                setattr(sock, name, value)
            sock.connect(node.doors()[door])
            return sock

        yield connect
        context.destroy(linger=0)


def raw(node: Daemon, door: str, kind: bytes) -> socket.socket:
    """A connection that has shaken hands, as a socket of this kind."""
    host, _, port = node.doors()[door].removeprefix("tcp://").rpartition(":")
    sock = socket.create_connection((host, int(port)), 20)
    greeting = Zmtp(kind, frozenset(), int, None).greeting
    sock.sendall(greeting + frame(b"\5READY\x0bSocket-Type%b%b" % (len(kind).to_bytes(4, "big"), kind), COMMAND))
    with sock.makefile("rb") as stream:
        answer = stream.read(len(greeting) + 2)
        stream.read(answer[-1])
    return sock


def in_force(sub: Socket, text: bytes = b"1") -> None:
    sub.subscribe(b"-/in-force/" + text)
    assert sub.recv_multipart() == [b"-/in-force/" + text, b"", b""]


def test_a_channel_without_a_name_is_refused_wherever_it_comes(node: Daemon, connect: Callable[..., Socket]) -> None:
    """First, and behind so much that what is alike is cut."""
    before = node.metric("raiden_bad_messages_total")
    sub = connect(node, "SUB", zmq.SUB)
    sub.subscribe(b"")
    in_force(sub)
    with raw(node, "PUSH", b"PUSH") as pusher:
        pusher.sendall(message(b"", b'"%b"' % (5000 * b"x")) * 3 + message(b"a", b"1"))
        assert sub.recv_multipart()[:2] == [b"a", b"1"]
    assert node.metric("raiden_bad_messages_total") == before + 3


@pytest.mark.parametrize(("door", "kind"), [("PUSH", b"PUSH"), ("REQ", b"DEALER")])
def test_who_subscribes_where_nothing_is_heard_is_ignored(node: Daemon, door: str, kind: bytes) -> None:
    with raw(node, door, kind) as client:
        client.sendall(frame(b"\x09SUBSCRIBEa", COMMAND) + frame(b"\6CANCELa", COMMAND))
        client.sendall(frame(b"\4PING\0\0x", COMMAND))
        with client.makefile("rb") as stream:
            assert stream.read(8) == frame(b"\4PONGx", COMMAND)
    wait_for(lambda: node.metric("raiden_connections", transport=door.lower()) == 0, "its end is noticed")
    assert "Traceback" not in node.log(), node.log()


def test_requests_are_answered_while_the_backbone_takes_nothing(start: Start, connect: Callable[..., Socket]) -> None:
    node = start(workers=1, channels=CHANNELS, backbone_high_water=1000, **DOORS)
    workers = node.workers()
    push, dealer = connect(node, "PUSH", zmq.PUSH), connect(node, "REQ", zmq.DEALER)
    dealer.send_multipart([b"", b"ping"])
    assert dealer.recv_multipart() == [b"", b"200", b""]
    os.kill(workers["backbone"], signal.SIGSTOP)
    try:
        for number in range(300):
            push.send_multipart([b"live.%d" % (number % 7), b"1"])
        for _ in itertools.repeat(None, 100_000):
            dealer.send_multipart([b"", b"publish", b"live.x", 10_000 * b"1"])
            if dealer.recv_multipart()[1] == b"503":
                break
        else:
            pytest.fail("the backbone took all")
        end = time.monotonic() + 3.0  # some questions of how far the workers are, which have a second each
        pause = threading.Event()
        while time.monotonic() < end:
            pause.wait(0.005)
            dealer.send_multipart([b"", b"ping"])
            assert dealer.poll(5000), "it is deaf"
            assert dealer.recv_multipart() == [b"", b"200", b""]
    finally:
        os.kill(workers["backbone"], signal.SIGCONT)


def test_many_pages_under_way_wait_for_who_takes_them(
    node: Daemon, connect: Callable[..., Socket], channel: str
) -> None:
    """Far more than an outbox has room for, and short answers amid them."""
    slow = node.metric("raiden_slow_consumers_total")
    for number in range(20):
        node.publish(channel, f"{number:100000}")
    dealer = connect(node, "REQ", zmq.DEALER, rcvhwm=1, rcvbuf=4096)
    requests = [b"%d" % number for number in range(40)]
    for name in requests:
        dealer.send_multipart([name, b"", b"history", channel.encode()])
        dealer.send_multipart([name, b"", b"ping"])
    pages: list[bytes] = []
    pongs: list[bytes] = []
    while len(pages) + len(pongs) < 80:
        name, _, status, summary, *rest = dealer.recv_multipart()
        assert status == b"200"
        (pages if summary else pongs).append(name)
        assert not summary or len(rest) == 2 * 11, "a page ends with what goes over a megabyte"
    assert pongs == pages == requests
    assert node.metric("raiden_slow_consumers_total") == slow


def test_who_reads_slowly_is_told_when_its_subscriptions_hold(start: Start) -> None:
    """Messages are dropped by then, whatever their size."""
    node = start(workers=1, channels=CHANNELS, max_outbox=20_000, **DOORS)
    with raw(node, "SUB", b"SUB") as slow:
        slow.sendall(message(b"\1live.") + message(b"\1-/in-force/1"))
        stream = slow.makefile("rb")
        first = message(b"-/in-force/1", b"", b"")
        assert stream.read(len(first)) == first
        for size in (100_000, 1):
            before = node.metric("raiden_dropped_total")
            for number in range(1000):
                node.publish("live.x", f"{1:{size}}")
                if number % 20 == 19 and node.metric("raiden_dropped_total") > before:
                    break
        slow.sendall(message(b"\1live.y") + message(b"\1-/in-force/2"))
        tail = b""
        while b"-/in-force/2" not in tail:
            tail = tail[-100:] + stream.read1(1 << 20)
