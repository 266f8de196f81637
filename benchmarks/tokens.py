"""What tokens cost: the CPU of a worker for a connection and for a publish, with none, with one token that all clients
show, and with a token of each client's own that the worker has not seen yet; as ratios, in turns.

    python benchmarks/tokens.py --rounds 5 --connections 2000 --publishes 20000
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jwt

from tests.daemons import ROOT, Daemon

KEY = "a key of thirty-two bytes, for HS"
# Bytes that are sent before their answers are waited for.
AT_ONCE = 20
HANDSHAKE = (
    "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "{}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
POST = 'POST /a HTTP/1.1\r\nHost: a\r\n{}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"n":123}}'


def token(number: int, round_: int) -> str:
    now = int(time.time())
    claims = {"sub": f"user-{number}-{round_}", "iat": now, "exp": now + 3600, "publish": ["a", "chat.*"]}
    return jwt.encode({**claims, "subscribe": ["a", "inbox.{sub}", "rooms.*"]}, KEY)


def field(credential: str) -> str:
    return f"Authorization: Bearer {credential}\r\n" if credential else ""


def worker_of(node: Daemon) -> int:
    return node.workers()["worker 0"]


def seconds_of(pid: int) -> float:
    """The CPU that a process has taken, by the scheduler's own count, which is in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def connections(node: Daemon, credentials: Sequence[str]) -> float:
    """Microseconds of the worker for each of some connections, which all stay."""
    pid = worker_of(node)
    with ExitStack() as stack:
        before, opened = seconds_of(pid), list[socket.socket]()
        for credential in credentials:
            opened.append(stack.enter_context(node.connect()))
            opened[-1].sendall(HANDSHAKE.format(field(credential)).encode())
            if len(opened) % AT_ONCE == 0:
                for each in opened[-AT_ONCE:]:
                    assert each.recv(4096).startswith(b"HTTP/1.1 101")
        return (seconds_of(pid) - before) / len(credentials) * 1e6


def publishes(node: Daemon, credentials: Sequence[str]) -> float:
    """Microseconds of the worker for each of some publishes, on one connection."""
    pid, requests = worker_of(node), [POST.format(field(each)).encode() for each in credentials]
    with node.connect() as publisher:
        before = seconds_of(pid)
        for at in range(0, len(requests), AT_ONCE):
            publisher.sendall(b"".join(requests[at : at + AT_ONCE]))
            got = b""
            while got.count(b"HTTP/1.1 202") < min(AT_ONCE, len(requests) - at):
                piece = publisher.recv(65536)
                assert piece and b"HTTP/1.1 4" not in piece, piece[:300]
                got += piece
        return (seconds_of(pid) - before) / len(requests) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--publishes", type=int, default=20000)
    parser.add_argument(
        "--root", type=Path, help="the checkout that runs, as a compiled one; this one unless it is said"
    )
    options = parser.parse_args()
    settings: dict[str, Any] = {"workers": 1, "store": "none", "max_connections": 18000}
    settings |= {"max_connections_per_address": 18000, "root": options.root or ROOT}
    keys: dict[str, Any] = {"jwt_keys": [{"alg": "HS256", "key": KEY}]}
    with tempfile.TemporaryDirectory() as folder:
        nodes = [Daemon(Path(folder, "open"), **settings), Daemon(Path(folder, "guarded"), **settings, **keys)]
        works: dict[str, tuple[Callable[[Daemon, Sequence[str]], float], int]] = {
            "connect": (connections, options.connections), "publish": (publishes, options.publishes),
        }  # fmt: skip
        for name, (work, count) in works.items():
            rows: list[tuple[float, float, float]] = []
            for round_ in range(options.rounds):
                one, own = token(0, -1), [token(number, round_) for number in range(count)]
                if work is publishes:
                    own = own[:: max(1, count // 100)] * 100  # a hundred publishers
                rows.append((work(nodes[0], [""] * count), work(nodes[1], [one] * count), work(nodes[1], own[:count])))
                print(f"{name}: none {rows[-1][0]:.1f} us, one token {rows[-1][1]:.1f} us, own {rows[-1][2]:.1f} us")
            for which, place in (("one token", 1), ("own tokens", 2)):
                ratios = [row[0] / row[place] for row in rows]
                print(f"{name}: {statistics.median(ratios):.2f} of the rate without, with {which}")
        for node in nodes:
            node.stop()


if __name__ == "__main__":
    main()
