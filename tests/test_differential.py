"""What clients sent is remembered, and no other client's request means anything else by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from raiden import gateway
from raiden.protocols.heads import Heads
from tests.differential import Client, Server, compare


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, Heads(), gateway.path)
    yield server
    server.stop()


def post(channel: str, body: str, *fields: str) -> bytes:
    lines = [f"POST /{channel} HTTP/1.1", "Host: h", "Content-Type: application/json", *fields]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()


def settle() -> None:
    for _ in range(20):
        gevent.sleep(0)


def heard(server: Server) -> list[bytes]:
    settle()
    lines, server.ear.heard = b"".join(server.ear.heard).splitlines(), []
    return lines


@pytest.mark.parametrize("under_way", ["/wait?_wait=9", "/-/nothing"])
def test_who_pipelines_has_no_part_in_what_others_publish(server: Server, under_way: str) -> None:
    """Two requests with one head are read, in two reads, before any of them is served."""
    first, other = Client(server), Client(server)
    first.send(f"GET {under_way} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    first.send(post("first", "1"))
    first.send(post("first", "2"))
    settle()
    other.send(post("wait", '"now"', "X: y"))
    assert b'{"channel":"first","data":2}' in heard(server)
    for number in range(3):
        other.send(post("payroll", str(number)))
        assert heard(server) == [b'{"channel":"payroll","data":%d}' % number]


def test_empty_lines_before_a_request_are_no_head(server: Server) -> None:
    first, other = Client(server), Client(server)
    first.send(b"\r\n\r\nGET /-/a HTTP/1.1\r\nHost: h\r\n\r\n")
    first.send(b"\r\n\r\n" + post("first", "1"))
    settle()
    assert first.got().count(b"HTTP/1.1 ") == 2
    heard(server)
    for _ in range(3):
        other.send(b"\r\n\r\n" + post("other", "2"))
        assert heard(server) == [b'{"channel":"other","data":2}']
        assert other.got().count(b"HTTP/1.1 ") == 1


def test_a_request_is_served_wherever_the_one_before_it_was_cut(server: Server) -> None:
    client = Client(server)
    request = b"GET /-/health HTTP/1.1\r\nHost: h\r\n\r\n"
    for at in range(1, len(request)):
        client.send(request[:at])
        client.send(request[at:] + request)
        settle()
        assert client.got().count(b"HTTP/1.1 ") == 2, at


@pytest.mark.parametrize("start", ["POST http://h/other", "DELETE /other", "PUT /other", "POST *"])
def test_a_key_is_none_of_a_request_that_is_no_handshake(server: Server, start: str) -> None:
    client = Client(server)
    request = post("other", "1", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==").replace(b"POST /other", start.encode())
    answers = []
    for _ in range(3):
        client.send(request)
        messages = heard(server)
        answers.append((client.got(), messages))
    assert answers[0] == answers[1] == answers[2]
    assert all(b'"channel":"other"' in message for message in answers[0][1])


def test_a_server_that_remembers_answers_as_one_that_does_not() -> None:
    assert compare(8000, seed=1) > 800
