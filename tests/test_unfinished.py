"""What has not come whole: how much of it a worker holds, and for how long."""

from __future__ import annotations

import gc
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from raiden.protocols.limits import HttpLimits
from raiden.protocols.parser import RequestParser
from raiden.protocols.unfinished import Unfinished
from raiden.protocols.websocket import Deflate, WebSocket
from tests.daemons import Daemon, memory, running, wait_for
from tests.data.malformed import HOST, JSON, KEY, POST, VERSION, head, websocket
from tests.zeromq import GREETING, ready

# Six clients hold so much of something that has not come whole; that is too much for all of them together.
PART, MOST, CLIENTS = 150_000, 500_000, 6

# What opens something of a size, which is answered, and how it begins.
BEGINNINGS: dict[str, Callable[[int], tuple[bytes, bytes]]] = {
    "body": lambda size: (b"", head(POST, HOST, JSON, f"Content-Length: {size}")),
    "chunk": lambda size: (b"", head(POST, HOST, JSON, "Transfer-Encoding: chunked") + b"%x\r\n" % size),
    "frame": lambda size: (websocket(KEY, VERSION), b"\x81\xff" + size.to_bytes(8, "big") + bytes(4)),
    # The first fragment is half of it.
    "fragment": lambda size: (websocket(KEY, VERSION), b"\x01\xff" + (size // 2).to_bytes(8, "big") + bytes(4)),
    "zeromq": lambda size: (GREETING + ready(b"PUSH"), b"\2" + size.to_bytes(8, "big")),
}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), zmq_push_port=0, max_unfinished=MOST)


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def masked(first: int, data: bytes, *, more: int = 0) -> bytes:
    """A frame of a client, whose mask changes nothing; ``more`` bytes of it are still to come."""
    return bytes((first, 0xFF)) + (len(data) + more).to_bytes(8, "big") + bytes(4) + data


def begin(node: Daemon, kind: str, whole: int = 2 * PART, part: int = PART) -> socket.socket:
    """A client that has sent a part of something."""
    if kind == "zeromq":
        host, port = node.doors()["PUSH"].removeprefix("tcp://").rsplit(":", 1)
        sock = socket.create_connection((host, int(port)), 20)
    else:
        sock = node.connect()
    opening, beginning = BEGINNINGS[kind](whole)
    if opening:
        sock.sendall(opening)
        sock.recv(4096)
    with suppress(ConnectionError):
        sock.sendall(beginning + b"x" * part)
    return sock


def said(sock: socket.socket) -> bytes:
    """All that has come so far, or b'closed'."""
    sock.setblocking(False)
    try:
        return sock.recv(65536) or b"closed"
    except BlockingIOError:
        return b""
    except ConnectionError:
        return b"closed"


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_what_all_hold_together_is_bounded(bounded: Daemon, clients: ExitStack, kind: str) -> None:
    node = bounded
    logged = node.log().count("max_unfinished")
    socks = [clients.enter_context(closing(begin(node, kind))) for _ in range(CLIENTS)]
    answers = wait_for(lambda: [answer for answer in map(said, socks) if answer], "one is refused")
    if kind in ("body", "chunk"):
        assert answers[0].startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in answers[0]
    elif kind == "zeromq":
        assert answers[0] == b"closed" or answers[0].startswith(b"\x04\x1a\x05READY")
        wait_for(lambda: node.log().count("max_unfinished") > logged, "the log says so")
    else:
        assert answers[0][:1] == b"\x88" and answers[0][2:4] == (1013).to_bytes(2, "big")
    assert node.request("GET", "/-/health")[0] == 200
    clients.close()
    # It is given back.
    status = wait_for(lambda: node.post_json("/a", "x" * PART)[0] == 200, "there is room again")
    assert status


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_who_is_refused_is_held_no_longer(start: Callable[..., Daemon], clients: ExitStack, kind: str) -> None:
    """40 clients send at the same pace and don't leave when they are refused. One after the other is, and what it had
    makes room for the others: that would come to three times the bound."""
    most, part, step = 16_000_000, 4_000_000, 100_000
    node = start(zmq_push_port=0, max_unfinished=most, max_body=2 * part, max_ws_message=2 * part, max_outbox=2 * part)
    worker = node.workers()["zeromq" if kind == "zeromq" else "worker 0"]
    before = memory(worker)
    socks = [clients.enter_context(closing(begin(node, kind, whole=2 * part, part=0))) for _ in range(40)]
    for _ in range(part // step):
        for sock in socks:
            with suppress(ConnectionError):
                sock.sendall(b"x" * step)
    assert node.request("GET", "/-/health")[0] == 200
    assert memory(worker) - before < 2.2 * most


def test_fields_count_with_what_they_take() -> None:
    """100 fields of three bytes are less than their objects."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"%d: %d\r\n" % (n, n) for n in range(10, 99))
    body = head.replace(b"GET", b"POST") + b"Content-Length: 100\r\n\r\n12"
    for data in (head, body):
        unfinished = Unfinished()
        parsers = [RequestParser(HttpLimits(), "a", None, unfinished) for _ in range(100)]
        tracemalloc.start()
        try:
            for parser in parsers:
                assert list(parser.feed(data)) == []
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken / 1.3 < unfinished.size < taken * 1.3


@pytest.mark.parametrize("kind", ["frame", "fragments", "inflated", "not UTF-8"])
def test_a_websocket_that_has_failed_holds_nothing(kind: str) -> None:
    """Not even in a cycle, when it is to forget."""
    text = b"\xff" if kind == "not UTF-8" else b"x" * 900_000
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = deflater.compress(text * 50) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4]
    data = {
        "frame": masked(0x81, text, more=1),
        "fragments": masked(0x01, text) + masked(0x00, text),
        "inflated": masked(0xC1, small),
        "not UTF-8": masked(0x01, b"x" * 900_000) + masked(0x00, text),
    }[kind]
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        sockets = [WebSocket(Deflate(True, True, 15, 15), max_message=1_000_000) for _ in range(5)]
        for socket in sockets:
            for _ in socket.feed(data):
                pass
            socket.forget()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("kind", ["frame", "fragment"])
def test_a_message_that_has_begun_must_come(start: Callable[..., Daemon], clients: ExitStack, kind: str) -> None:
    """However many pongs come meanwhile. Another one, whose bytes come slowly, but do, is taken; amid a frame, its
    client can't pong."""
    node = start(request_timeout=1.0, keepalive=0.5)
    opening, beginning = BEGINNINGS[kind](2 * PART)
    stalled, slow = (clients.enter_context(closing(node.connect())) for _ in range(2))
    for sock in (stalled, slow):
        sock.sendall(opening)
        sock.recv(4096)
    stalled.sendall(b"\x01\x81\0\0\0\0x")
    left = 2 * PART if kind == "frame" else PART
    # These buy 20 seconds.
    slow.sendall(beginning + b"x" * 80_000)
    left -= 80_000
    answers = b""

    def closed() -> bool:
        nonlocal answers, left
        with suppress(ConnectionError):
            stalled.sendall(b"\x8a\x80\0\0\0\0")
        slow.sendall(b"x" * min(left, 10))
        left -= min(left, 10)
        answers += said(stalled)
        return b"\x88" in answers

    began = time.monotonic()
    wait_for(closed, "the stalled one is closed")
    assert time.monotonic() - began >= 1.0
    at = answers.index(b"\x88")
    assert answers[at + 2 : at + 4] == (1008).to_bytes(2, "big")
    slow.sendall(b"x" * left + (b"" if kind == "frame" else b"\x80\x80\0\0\0\0"))
    # It subscribes to the channel, too.
    wait_for(lambda: b"x" * 1000 in said(slow), "its message has come")


def test_pipelined_requests_wait_as_bytes(start: Callable[..., Daemon], clients: ExitStack) -> None:
    """Behind a long-poll, 30 clients send 120 KB of small requests each."""
    node = start()
    poll = b"GET /a?_wait=30 HTTP/1.1\r\nHost: a\r\n\r\n"
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n"
    worker = node.workers()["worker 0"]
    before = memory(worker)
    socks = [clients.enter_context(closing(node.connect())) for _ in range(30)]
    for number, sock in enumerate(socks):
        sock.sendall(poll + b"".join([request % (1000 * number + each) for each in range(3000)]))
    wait_for(lambda: node.json("/-/channels")["channels"]["a"]["subscribers"] == 30, "all wait")
    assert node.request("GET", "/-/health")[0] == 200
    assert memory(worker) - before < 30 * 200_000
