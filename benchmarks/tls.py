"""What TLS costs: memory of an idle subscriber, CPU of its connection and of a delivery to it, beside nginx's TLS.

    .venv/bin/python -m benchmarks.tls [--count 10000] [--source]

Each server has so many subscribers by server-sent events, who are idle, and then get `MESSAGES` messages of `SIZE`
bytes. Memory is the proportional share (PSS) of all processes of the server; kernel memory is not counted. Compared are
Raiden without TLS, Raiden with TLS, Nchan with nginx's TLS, and nginx's TLS before Raiden. All run one after the other,
with the same client, the same certificate (P-256), and one process for connections. `--source` runs Raiden without
compiling it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import CLIENTS, COMPILED, NCHAN, NCHAN_LOCATIONS, nginx, no_raiden
from benchmarks.processes import cpu_of, tree
from benchmarks.tools import ROOT, Failed
from tests.certificates import NAME, Authority
from tests.daemons import Daemon

MESSAGES, SIZE = 20, 128
# Connections that are opened and closed before memory is looked at: the first ones make what all share.
WARM = 100
CERTIFICATE = "ssl_certificate {0}; ssl_certificate_key {1}; ssl_protocols TLSv1.2 TLSv1.3; "
BEFORE_RAIDEN = """
    location / {{
        proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 600s;
        proxy_set_header Host $http_host; proxy_set_header Connection "";
    }}
"""


class Server(NamedTuple):
    """A running server: its port, the processes that have started all others of it, and the paths to subscribe and to
    publish."""

    port: int
    roots: list[int]
    subscribe: str = "/a"
    publish: str = "/a"


class Node(Daemon):
    """A node to which only the benchmark connects."""

    def open(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port)


@contextmanager
def raiden(folder: Path, root: Path, cert: tuple[str, str] | None = None) -> Iterator[Server]:
    secured: dict[str, Any] = {} if cert is None else {"tls_cert": cert[0], "tls_key": cert[1]}
    node = Node(folder, root=root, store="none", keepalive=600.0, allowed_hosts=[NAME], **secured)
    try:
        yield Server(node.port, [node.pid])
    finally:
        node.stop()


@contextmanager
def nginx_before_raiden(folder: Path, root: Path, cert: tuple[str, str]) -> Iterator[Server]:
    with raiden(folder / "node", root) as node:
        locations = BEFORE_RAIDEN.format(port=node.port)
        with nginx(folder / "nginx", http=CERTIFICATE.format(*cert), locations=locations, tls="ssl") as (port, pid):
            yield Server(port, [pid, *node.roots])


@contextmanager
def nchan(folder: Path, cert: tuple[str, str]) -> Iterator[Server]:
    settings = "nchan_shared_memory_size 512M; " + CERTIFICATE.format(*cert)
    locations = NCHAN_LOCATIONS.format(keep="nchan_store_messages off;")
    with nginx(
        folder, modules=f"load_module {NCHAN};", http=settings, locations=locations, tls="ssl"
    ) as (port, pid):  # fmt: skip
        yield Server(port, [pid], "/sub/a", "/pub/a")


def pss(pids: list[int]) -> int:
    """Bytes of memory that these processes take together."""
    rows = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(1024 * int(found[1]) for row in rows if (found := re.search(r"(?m)^Pss:\s+(\d+)", row)))


class Clients:
    """Subscribers of a server, and a publisher; ``context``: by TLS."""

    def __init__(self, server: Server, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._context = context
        self._head = (
            f"GET {server.subscribe} HTTP/1.1\r\nHost: {NAME}\r\nAccept: text/event-stream\r\n\r\n"
        ).encode()  # fmt: skip

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._server.port), 60)
        return sock if self._context is None else self._context.wrap_socket(sock, server_hostname=NAME)

    def subscribe(self) -> socket.socket:
        sock = self._connect()
        sock.sendall(self._head)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        if not head.startswith(b"HTTP/1.1 200"):
            raise Failed(f"no subscription: {head!r}")
        return sock

    def publish(self, body: bytes) -> None:
        head = f"POST {self._server.publish} HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\n"
        with self._connect() as sock:
            sock.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            if not sock.recv(4096).startswith(b"HTTP/1.1 20"):
                raise Failed("a message was not accepted")


def measure(server: Server, context: ssl.SSLContext | None, count: int) -> dict[str, float]:
    clients = Clients(server, context)
    for sock in [clients.subscribe() for _ in range(WARM)]:
        sock.close()
    time.sleep(1)
    pids = [pid for root in server.roots for pid in tree(root)]
    before, cpu = pss(pids), cpu_of(*pids)
    socks = [clients.subscribe() for _ in range(count)]
    connecting = cpu_of(*pids) - cpu
    time.sleep(2)
    idle = pss(pids) - before
    cpu = cpu_of(*pids)
    for number in range(MESSAGES):
        clients.publish(json.dumps(f"{number:0{SIZE - 2}}").encode())
        time.sleep(0.2)
    for sock in socks:
        got = b""
        while got.count(b"data: ") < MESSAGES:
            got += sock.recv(65536)
    delivering = cpu_of(*pids) - cpu
    for sock in socks:
        sock.close()
    return {
        "kb_each": round(idle / 1024 / count, 1),
        "connect_us": round(1e6 * connecting / count),
        "delivery_us": round(1e6 * delivering / (count * MESSAGES), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="subscribers")
    parser.add_argument("--source", action="store_true", help="run Raiden without compiling it")
    options = parser.parse_args()
    root = ROOT if options.source else COMPILED
    if why := no_raiden(root):
        raise Failed(why)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder)
        cert, context = authority.issue(NAME), ssl.create_default_context(cafile=authority.file)
        runs: list[tuple[str, AbstractContextManager[Server], ssl.SSLContext | None]] = [
            ("raiden, no TLS", raiden(folder / "plain", root), None),
            ("raiden", raiden(folder / "tls", root, cert), context),
            ("nginx before raiden", nginx_before_raiden(folder / "before", root, cert), context),
        ]
        if NCHAN.exists():
            runs.append(("nchan", nchan(folder / "nchan", cert), context))
        found: dict[str, dict[str, float]] = {}
        for label, running, used in runs:
            with running as server:
                # A proxy has two connections for each.
                count = min(options.count, CLIENTS // 2 - WARM) if "before" in label else options.count
                found[label] = measure(server, used, count)
            print(json.dumps({"system": label, "subscribers": count, **found[label]}), flush=True)
        for label in found:
            ratios = {name: round(found["raiden"][name] / value, 2) for name, value in found[label].items() if value}
            print(f"raiden with TLS / {label}: {ratios}")


if __name__ == "__main__":
    main()
