"""The client for POSTs to an application, and servers that hang, lie, send too much, redirect or break off."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import gevent
import pytest

from raiden.hooks import answer
from raiden.hooks.client import HookFailed, HttpClient
from tests.scripted import OK, Scripted, certificate, says, server_context


def ask(server: Scripted, *, timeout: float = 20.0, **more: Any) -> answer.Answer:
    client = HttpClient(server.url, timeout=timeout, **more)
    try:
        return client.post(b"{}", {"X-Sign": "a"})
    finally:
        client.close()


def test_a_request_and_its_answer() -> None:
    with Scripted(says(OK)) as server:
        found = ask(server)
        assert (found.status, found.headers["content-length"], found.body) == (200, "2", b"ok")
        head, body = server.requests[0]
        assert head.startswith(b"POST /hook?secret=hidden HTTP/1.1\r\n") and body == b"{}"
        assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in head and b"X-Sign: a\r\n" in head


def test_connections_are_kept_and_bounded() -> None:
    with Scripted(says(OK)) as server:
        client = HttpClient(server.url, timeout=20.0, connections=3)
        for _ in range(5):
            client.post(b"{}", {})
        assert server.connections == 1
        with gevent.Timeout(30):
            gevent.joinall([gevent.spawn(client.post, b"{}", {}) for _ in range(30)], raise_error=True)
        assert server.connections <= 3 and len(server.requests) == 35
        client.close()


def test_the_wait_for_a_connection_is_part_of_the_time() -> None:
    def act(sock: socket.socket, _: int) -> bool:
        return server.over.wait(30) and False

    with Scripted(act) as server:
        client = HttpClient(server.url, timeout=0.2, connections=1)
        posts = [gevent.spawn(client.post, b"{}", {}) for _ in range(3)]
        with gevent.Timeout(30):
            gevent.joinall(posts)
        assert all(isinstance(each.exception, HookFailed) and "0.2 s" in str(each.exception) for each in posts)
        client.close()


def test_a_kept_connection_that_was_closed_costs_no_request() -> None:
    with Scripted(says(OK, keep=False)) as server:
        client = HttpClient(server.url, timeout=20.0)
        for _ in range(5):
            assert client.post(b"{}", {}).status == 200
        client.close()
        assert len(server.requests) == 5

    def first_only(sock: socket.socket, number: int) -> bool:
        if number == 1:
            return False  # on the kept connection: it closes without an answer
        sock.sendall(OK)
        return True

    with Scripted(first_only) as server:
        client = HttpClient(server.url, timeout=20.0)
        client.post(b"{}", {})
        assert client.post(b"{}", {}).status == 200 and server.connections == 2
        client.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", 200, b"to the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", 410, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536, 200, b"x" * 65536),
    ],
)
def test_forms_of_an_answer(data: bytes, status: int, body: bytes) -> None:
    with Scripted(says(data, keep=False)) as server:
        found = ask(server)
        assert (found.status, found.body) == (status, body)


def test_no_redirect_is_followed() -> None:
    with Scripted(says(OK)) as other:
        moved = b"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\nLocation: " + other.url.encode() + b"\r\n\r\n"
        with Scripted(says(moved)) as server:
            assert ask(server).status == 307
        assert not other.requests


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed without an answer"), (b"HTTP/1.1 200 OK\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "broke off"), (CHUNKED + b"3\r\nab", "broke off"),
        (b"SSH-2.0-hidden\r\n\r\n", "no HTTP"), (OK + OK, "more than one"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537, "body has more"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * answer.MAX_REST, "head has more"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, "head has more"), (CHUNKED + b"1\r\na\r\n" * 20_000, "head has more"),
    ],
)  # fmt: skip
def test_answers_that_are_refused(data: bytes, reason: str) -> None:
    with Scripted(says(data, keep=False)) as server:
        with pytest.raises(HookFailed, match=reason) as found:
            ask(server)
        assert "hidden" not in str(found.value)


def test_an_answer_of_10_mb_is_not_read() -> None:
    sent = 0

    def act(sock: socket.socket, _: int) -> bool:
        nonlocal sent
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(160):
            sock.sendall(b"x" * 65536)
            sent += 65536
        return False

    with Scripted(act) as server, pytest.raises(HookFailed, match="body has more"):
        ask(server)
    assert sent < 10 << 20


def test_a_server_that_resets() -> None:
    def act(sock: socket.socket, _: int) -> bool:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    with Scripted(act) as server:
        with pytest.raises(HookFailed, match="closed without an answer"):
            ask(server)
        assert len(server.requests) == 1, "on a new connection it is not asked twice"


def test_a_server_that_drips_has_no_more_time_than_others() -> None:
    def act(sock: socket.socket, _: int) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while not server.over.wait(0.02):
            sock.sendall(b"x")
        return False

    with Scripted(act) as server, pytest.raises(HookFailed, match=r"no answer within 0\.3 s"):
        ask(server, timeout=0.3)


def test_a_server_that_is_not_there() -> None:
    with Scripted(says(OK)) as server:
        pass
    with pytest.raises(HookFailed, match="refused"):
        ask(server)
    with pytest.raises(HookFailed):
        HttpClient(f"https://{'a' * 70}.invalid/", timeout=20.0).post(b"", {})


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = certificate(tmp_path)
    with Scripted(says(OK), server_context(good)) as server:
        with pytest.raises(HookFailed, match="certificate is refused"):
            ask(server)
        monkeypatch.setenv("SSL_CERT_FILE", str(good))
        client = HttpClient(server.url, timeout=20.0)
        assert [client.post(b"{}", {}).status for _ in range(3)] == [200] * 3
        client.close()
    for bad in (certificate(tmp_path, expired=True), certificate(tmp_path, "other.example")):
        monkeypatch.setenv("SSL_CERT_FILE", str(bad))
        with Scripted(says(OK), server_context(bad)) as server:
            with pytest.raises(HookFailed, match="certificate is refused"):
                ask(server)
            assert not server.requests


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example/", "ftp://127.0.0.1/", "app.example", "https://", "https://a:b@app.example/", "", 7,
        "https://app.example/\r\nX: y", "https://app.example/ a", "https://app.example:99999/", "https://ä.example/",
        "https://[::1", "http://localhost.example/",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: Any) -> None:
    with pytest.raises(ValueError, match=r"url|port|Port|IPv6"):
        HttpClient(url, timeout=1.0)


def test_http_elsewhere_must_be_allowed() -> None:
    HttpClient("http://app.example/", timeout=1.0, insecure=True)
    HttpClient("http://localhost:1/", timeout=1.0)
    HttpClient("http://[::1]:1/", timeout=1.0)


def test_no_line_is_added_to_a_head() -> None:
    with Scripted(says(OK)) as server:
        client = HttpClient(server.url, timeout=20.0)
        with pytest.raises(ValueError, match="line break"):
            client.post(b"", {"X": "a\r\nY: b"})
        client.close()
    assert not server.requests
