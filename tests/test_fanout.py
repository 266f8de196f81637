"""Many subscribers, one of whom does not read."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

from tests.daemons import Daemon, wait_for

SUBSCRIBERS, MESSAGES, BATCH = 2500, 1000, 20
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def message(number: int) -> bytes:
    return b'[%d,"%b"]' % (number, b"x" * 500)


def frame(payload: bytes) -> bytes:
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


def subscriber(node: Daemon, path: bytes = b"/crowd", receive_buffer: int | None = None) -> socket.socket:
    """A WebSocket whose handshake has been answered."""
    sock = socket.socket()
    sock.settimeout(20)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((node.host, node.port))
    sock.sendall(HANDSHAKE % path)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)  # not a byte of what follows
    assert head.startswith(b"HTTP/1.1 101")
    return sock


def publish(node: Daemon, stalled: socket.socket) -> None:
    connection = HTTPConnection(node.host, node.port, timeout=60)
    for start in range(0, MESSAGES, BATCH):
        body = b"\n".join(message(n) for n in range(start, start + BATCH))
        connection.request("POST", "/crowd", body, {"Content-Type": "application/x-ndjson"})
        response = connection.getresponse()
        assert response.status == 202, response.read()
        response.read()
        if start != MESSAGES // 2:
            continue

        def closed() -> bool:
            # Only the stalled one gets these, until they are more than the kernel takes for a connection and than it
            # is forgiven for one turn.
            connection.request("POST", "/ballast", b"x" * 1_000_000, {"Content-Type": "text/plain"})
            connection.getresponse().read()
            return node.metric("raiden_slow_consumers_total") == 1

        wait_for(closed, "the stalled one is closed and counted")
        assert b"\x0f\xa1slow consumer" in rest_of(stalled)[-60:]  # at once: it is not kept for long
    connection.close()


def rest_of(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def test_one_that_does_not_read_disturbs_nobody(start: Callable[..., Daemon]) -> None:
    node = start(max_outbox=256 * 1024, store="none", keepalive=600.0)  # no ping comes between
    stalled = subscriber(node, b"/-/subscribe?channel=crowd&channel=ballast", receive_buffer=4096)
    others = {sock.fileno(): sock for sock in (subscriber(node) for _ in range(SUBSCRIBERS - 1))}
    expected = b"".join(frame(message(n)) for n in range(MESSAGES))
    got = dict.fromkeys(others, 0)
    poller = select.epoll()
    for fd, sock in others.items():
        sock.setblocking(False)
        poller.register(fd, select.EPOLLIN)
    pool = ThreadPoolExecutor(1)
    published = pool.submit(publish, node, stalled)
    left = len(others)
    while left:
        events = poller.poll(30)
        if not events:
            published.result(timeout=0)  # says so if it is that which failed
            raise AssertionError(f"{left} subscribers wait for more")
        for fd, _ in events:
            data = others[fd].recv(1 << 18)
            at = got[fd]
            # All of them, in order, none twice: the bytes are those that were published.
            assert data and data == expected[at : at + len(data)]
            got[fd] = at + len(data)
            left -= got[fd] == len(expected)
    published.result()
    pool.shutdown()
    poller.close()
    for sock in (stalled, *others.values()):
        sock.close()
    assert "slow consumer closed" in node.log()


def test_the_kernel_keeps_little_for_one_that_does_not_read(start: Callable[..., Daemon]) -> None:
    """What waits for it is shared with the others, and not copied for each."""
    node = start(store="none", keepalive=600.0)
    stalled = subscriber(node, receive_buffer=4096)
    before = node.metric("raiden_bytes_out_total")
    connection = HTTPConnection(node.host, node.port, timeout=60)
    answers = 0

    def closed() -> bool:
        nonlocal answers
        connection.request("POST", "/crowd", b"x" * 60_000, {"Content-Type": "text/plain"})
        connection.getresponse().read()
        _, _, page = node.request("GET", "/-/metrics")
        answers += len(page)
        return b"raiden_slow_consumers_total 1.0" in re.sub(rb"\{.*?\}", b"", page)

    wait_for(closed, "it is closed")
    # More than 2 MB where the kernel takes what it can.
    assert 60_000 < node.metric("raiden_bytes_out_total") - before - answers < 500_000
    connection.close()
    stalled.close()
