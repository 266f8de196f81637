"""WebSockets whose messages are packed: a client that sends a thousand times as much as it puts on its way."""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from tests.daemons import Daemon, memory

HANDSHAKE = (
    b"GET /-/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def packed(text: bytes) -> bytes:
    """A frame with a message, as a client sends it (RFC 7692)."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
    return b"\xc1\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data


@pytest.mark.parametrize("together", [False, True], ids=["behind the handshake", "with the handshake"])
def test_who_sends_much_more_than_it_puts_on_its_way_is_read_in_portions(
    start: Callable[..., Daemon], together: bool
) -> None:  # fmt: skip
    node = start(workers=1)
    pid = node.workers()["worker 0"]
    # 60 messages fit into a read; all together they would be 54 MB, and take more than a second.
    messages = packed(b"[" * 900_000) * 60
    with ExitStack() as stack:
        other = stack.enter_context(connect(f"ws://{node.host}:{node.port}/-/websocket", proxy=None, compression=None))

        def ping(number: int) -> None:
            other.send(json.dumps({"id": number, "cmd": "ping"}))
            assert json.loads(other.recv(60))["id"] == number

        ping(1)
        before = memory(pid)
        attackers = []
        for _ in range(3):
            sock = stack.enter_context(socket.create_connection((node.host, node.port)))
            if together:
                attackers.append(threading.Thread(target=sock.sendall, args=(HANDSHAKE + messages,)))
                continue
            sock.sendall(HANDSHAKE)
            assert b" 101 " in sock.recv(4096)
            attackers.append(threading.Thread(target=sock.sendall, args=(messages,)))
        for attacker in attackers:
            attacker.start()
        most = 0
        for number in range(2, 12):
            ping(number)
            most = max(most, memory(pid))
        for attacker in attackers:
            attacker.join()
        assert most - before < 40_000_000


def answers_in_order(sock: socket.socket, count: int) -> None:
    """Send so many packed commands with the handshake, in one go, and get their answers in order."""
    commands = [packed(json.dumps({"id": number, "cmd": "ping"}).encode()) for number in range(count)]
    sent = threading.Thread(target=sock.sendall, args=(HANDSHAKE + b"".join(commands),))
    sent.start()
    file = sock.makefile("rb")
    while file.readline() != b"\r\n":
        pass
    for number in range(count):
        first, size = file.read(2)
        assert first == 0x81 and size < 126  # too short to be packed
        assert json.loads(file.read(size))["id"] == number
    sent.join()


def test_what_comes_with_the_handshake_is_taken_in_order(start: Callable[..., Daemon]) -> None:
    node = start(workers=1)
    with node.connect() as sock:
        answers_in_order(sock, 3000)
