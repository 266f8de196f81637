"""WebSockets whose messages are packed: a client that sends a thousand times as much as it puts on its way."""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections.abc import Callable
from contextlib import ExitStack

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


def test_who_sends_much_more_than_it_puts_on_its_way_is_read_in_portions(start: Callable[..., Daemon]) -> None:
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
