"""The PROXY protocol: a proxy tells the client's address before all else, on the ports that expect it."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raiden.protocols.proxies import Source
from raiden.protocols.proxy_header import MOST, SIGNATURE, read
from tests.certificates import NAME, Authority
from tests.daemons import PATIENCE, Daemon, wait_for
from tests.test_access_log import entries
from tests.test_clients import running, tool
from tests.test_daemon import free_port

REQUEST = b"GET /a?_wait=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# The entry of a client that came by TLS 1.3: what is known of it, and that its certificate was not verified.
BY_TLS = b"\x20\0\x0f\x01\0\0\0\x01\x21\0\x07TLSv1.3"


def header(
    address: str = "203.0.113.9", *, command: int = 0x21, entries: bytes = b"", family: int | None = None
) -> bytes:
    found = ipaddress.ip_address(address)
    if family is None:
        family = 0x11 if found.version == 4 else 0x21
    body = found.packed * 2 + struct.pack("!HH", 4711, 443) + entries
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (header(), Source("203.0.113.9")),
        (header("2001:db8::9"), Source("2001:db8::9")),
        (header("::ffff:203.0.113.9"), Source("203.0.113.9")),
        (header(entries=b"\x04\0\x02ab" + BY_TLS), Source("203.0.113.9", "https")),
        (header(entries=b"\x20\0\x05\0\0\0\0\x01"), Source("203.0.113.9", "http")),
        (header(entries=b"\x20\xff\xff"), Source("203.0.113.9")),
        (header(entries=b"\x04"), Source("203.0.113.9")),
        (header(command=0x20), None),
        (header(family=0x31), None),
        (SIGNATURE + b"\x20\0\0\0", None),
    ],
)
def test_whole_and_byte_by_byte(data: bytes, source: Source | None) -> None:
    assert read(data) == (source, len(data))
    assert read(data + REQUEST) == (source, len(data))
    assert all(read(data[:end]) is None for end in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n", b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n", b"\x16\x03\x01", SIGNATURE[:11] + b"x",
        header(command=0x11), header(command=0x22), SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 11) + b"x" * 11,
        SIGNATURE + struct.pack("!BBH", 0x21, 0x21, 35) + b"x" * 35,
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, MOST + 1),
    ],
)  # fmt: skip
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read(data)


class Introduced(Daemon):
    """A node whose port expects a header; ``told`` is what these clients begin with, ``context`` their TLS."""

    told = header()
    source = "127.0.0.1"
    context: ssl.SSLContext | None = None

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        sock = socket.create_connection((self.host, self.port), timeout, (self.source, 0))
        sock.sendall(self.told)
        return sock if self.context is None else self.context.wrap_socket(sock, server_hostname=NAME)


def introduced(folder: Path, **settings: Any) -> Introduced:
    told: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"], "proxy_protocol": ["http_port"]}
    told |= {"access_log": True, "log_format": "json"}
    return Introduced(folder, **{**told, **settings})


def ended(sock: socket.socket) -> bool:
    sock.settimeout(PATIENCE)
    try:
        return sock.recv(1000) == b""
    except ConnectionError:
        return True


def test_connections_count_by_the_told_address(tmp_path: Path) -> None:
    node = introduced(tmp_path, rates={"connect": (0.01, 3)})
    try:
        for address in ("198.51.100.1", "198.51.100.2"):  # both by the same proxy
            node.told = header(address)
            for _ in range(3):
                assert node.request("GET", "/-/health")[0] == 200
            with node.connect() as fourth:
                assert ended(fourth)
    finally:
        node.stop()


def test_the_address_is_the_told_one(tmp_path: Path) -> None:
    node = introduced(tmp_path, request_timeout=2, max_connections_per_address=3)
    try:
        # The field counts only where the proxy asks for itself, since the clients are no proxies.
        for told, remote in (
            (header(), "203.0.113.9"), (header("2001:db8::9"), "2001:db8::9"), (header(command=0x20), "1.1.1.1"),
        ):  # fmt: skip
            node.told, before = told, len(entries(node))
            for _ in range(2):
                assert node.request("GET", "/a?_wait=0", headers={"X-Forwarded-For": "1.1.1.1"})[0] == 204
            wait_for(lambda: len(entries(node)) == before + 2, "both are logged")  # noqa: B023
            assert [entry["remote"] for entry in entries(node)[before:]] == [remote] * 2
        # In pieces, and with the first request in the same segment.
        with socket.create_connection((node.host, node.port)) as sock:
            for byte in header():
                sock.sendall(bytes([byte]))
            sock.sendall(REQUEST)
            assert sock.recv(100).startswith(b"HTTP/1.1 204")
        with socket.create_connection((node.host, node.port)) as sock:
            sock.sendall(header() + REQUEST)
            assert sock.recv(100).startswith(b"HTTP/1.1 204")
        # Connections of one client are bounded, however many come from the proxy.
        node.told = header("198.51.100.1")
        socks = [node.connect() for _ in range(3)]
        with node.connect() as fourth:
            assert ended(fourth)
        node.told = header("198.51.100.2")
        assert node.request("GET", "/-/health")[0] == 200
        for sock in socks:
            sock.close()
    finally:
        assert node.stop() == 0
    assert "Traceback" not in node.log()


def test_nobody_else_gets_in(tmp_path: Path) -> None:
    node = introduced(tmp_path, request_timeout=1)
    try:
        for begin in (REQUEST, b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n" + REQUEST, header()[:20], b""):
            with socket.create_connection((node.host, node.port)) as sock:
                sock.sendall(begin)
                assert ended(sock)
        with socket.create_connection((node.host, node.port), source_address=("127.0.0.2", 0)) as sock:
            sock.sendall(header() + REQUEST)
            assert ended(sock)
        assert node.request("GET", "/-/health")[0] == 200
        assert "none of trusted_proxies" in node.log() and "does not begin with the header" in node.log()
    finally:
        assert node.stop() == 0


def test_a_header_that_nobody_expects_is_no_request(start: Callable[..., Daemon]) -> None:
    with start(trusted_proxies=["127.0.0.1"], store="none").connect() as sock:
        sock.sendall(header() + REQUEST)
        assert sock.recv(100).startswith(b"HTTP/1.1 400")


def test_tls_behind_a_header(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue(NAME)
    Introduced.context = ssl.create_default_context(cafile=authority.file)
    node = introduced(tmp_path / "node", tls_cert=cert, tls_key=key, http_redirect_port=0)
    try:
        assert node.request("GET", "/a?_wait=0", headers={"Origin": f"https://{NAME}", "Host": NAME})[0] == 204
        assert node.request("GET", "/a?_wait=0", headers={"Origin": f"http://{NAME}", "Host": NAME})[0] == 403
        wait_for(lambda: len(entries(node)) == 2, "both are logged")
        assert {entry["remote"] for entry in entries(node)} == {"203.0.113.9"}
    finally:
        Introduced.context = None
        assert node.stop() == 0


def test_haproxy(tmp_path: Path) -> None:
    """It tells the address of a client that speaks TLS with it, and asks whether the node is ready by itself."""
    program, port = tool("haproxy"), free_port()
    node = introduced(tmp_path)
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 150s\n  timeout server 150s\n"
        f"listen raiden\n  bind 127.0.0.1:{port}\n  option httpchk GET /-/ready\n"
        f"  server node1 127.0.0.1:{node.port} send-proxy-v2 check-send-proxy check inter 1s\n"
    )
    try:
        with running(program, "-db", "-f", str(config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):

            def is_up() -> bool:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, 20, source_address=("127.0.0.2", 0))
                    connection.request("GET", "/a?_wait=0")
                    status = connection.getresponse().status
                    connection.close()
                    return status == 204
                except (OSError, http.client.HTTPException):
                    return False

            wait_for(is_up, "haproxy passes connections on")
            assert [each["remote"] for each in entries(node) if each["target"] == "/a?_wait=0"] == ["127.0.0.2"]
    finally:
        assert node.stop() == 0
