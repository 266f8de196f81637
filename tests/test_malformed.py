"""Malformed requests against a real daemon: each is refused in good form, and nobody else notices."""

from __future__ import annotations

import json
import random
import re
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from typing import BinaryIO, NamedTuple, Protocol

import pytest

from tests.data.malformed import CASES, CHUNKED, HOST, JSON, KEY, POST, VERSION, Case, get, head, post, websocket

TIMEOUT = 10.0
HEALTH = get("/-/health")
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [^\r\n]*\r\n")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r\n")

# A body larger than this is not sent byte by byte, but in so many pieces.
MAX_BYTEWISE, PIECES = 4096, 1000

FUZZ_SEEDS = 300
VALID = [
    HEALTH,
    get("/fuzz"),
    get("/fuzz?_since=earliest&kind=a", "Accept: text/event-stream"),
    get("/-/subscribe?channel=fuzz&channel=fuzz.*&_last=3"),
    post("/fuzz", '{"kind": "a"}', JSON),
    post("/fuzz", "hello", "Expect: 100-continue"),
    post("/fuzz", "hello", "Connection: Upgrade", "Upgrade: h2c"),
    post("/-/publish", '{"channels": ["fuzz"], "data": 1}', JSON),
    head(POST.replace("/a", "/fuzz"), HOST, CHUNKED) + b"5;a=b\r\nhello\r\n0\r\nX: a\r\n\r\n",
    websocket(KEY, VERSION, line="GET /fuzz HTTP/1.1") + b"\x81\x85\0\0\0\0hello",
    websocket(KEY, VERSION, line="GET /-/websocket HTTP/1.1"),
]
HOSTILE = [b"\r\n", b"\r\n\r\n", b"\xff", b"9" * 20, b"a" * 9000, *(bytes((byte,)) for byte in b"\0\r\n\t :%?-")]


class Daemon(Protocol):
    """What these tests need of the fixture."""

    host: str
    port: int

    def log(self) -> str: ...


class Answer(NamedTuple):
    """A response; ``fields`` by their names in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def last(self) -> bool:
        return "close" in self.fields.get("connection", "").lower()


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.create_connection((daemon.host, daemon.port), TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def feed(sock: socket.socket, data: bytes, *, bytewise: bool) -> bool:
    """Send, but stop as soon as the server answers or closes; return whether everything was sent."""
    size = len(data)
    if bytewise:
        size = -(-size // PIECES) if size > MAX_BYTEWISE else 1
    for start in range(0, len(data), size):
        if bytewise and select.select([sock], [], [], 0)[0]:
            return False
        try:
            sock.sendall(data[start : start + size])
        except OSError:  # what the server has said meanwhile can still be read
            return False
    return True


def read_answer(stream: BinaryIO) -> Answer | None:
    """The next response, or None at EOF; of one without a length, such as a subscription's, only the head."""
    line = stream.readline()
    if not line:
        return None
    start = STATUS_LINE.fullmatch(line)
    assert start, line
    fields = {}
    while (line := stream.readline()) != b"\r\n":
        field = FIELD.fullmatch(line)
        assert field, line
        fields[field[1].decode().lower()] = field[2].decode("latin-1")
    size = int(fields.get("content-length", 0))
    body = stream.read(size)
    assert len(body) == size
    return Answer(int(start[1]), fields, body)


def check_problem(answer: Answer) -> None:
    """RFC 9457, with the members that Raiden promises."""
    assert answer.fields["content-type"].partition(";")[0] == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    assert problem["title"]
    assert problem["detail"]


def check_health(daemon: Daemon) -> None:
    with connect(daemon) as sock, sock.makefile("rb") as stream:
        sock.sendall(HEALTH)
        answer = read_answer(stream)
    assert answer is not None
    assert answer.status == 200


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Cut out, double, overwrite or splice in a few pieces."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        end = start + chance.choice((0, 1, 1, 2, 8, 40))
        other = chance.choice(VALID)
        pieces = (b"", data[start:end] * 2, chance.randbytes(1), chance.choice(HOSTILE), other[start:end], other)
        data = data[:start] + chance.choice(pieces) + data[end:]
    return data


@pytest.fixture(scope="module")
def bystander(daemon: Daemon) -> Iterator[HTTPResponse]:
    """A subscription that lasts as long as this module."""
    connection = HTTPConnection(daemon.host, daemon.port, timeout=TIMEOUT)
    connection.request("GET", "/bystander")
    response = connection.getresponse()
    assert response.status == 200
    yield response
    response.close()
    connection.close()


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_refused(daemon: Daemon, case: Case, bytewise: bool) -> None:
    with connect(daemon) as sock, sock.makefile("rb") as stream:
        complete = feed(sock, case.request, bytewise=bytewise)
        answer = read_answer(stream)
        assert answer is not None
        assert answer.status in case.status
        if answer.status >= 400:
            check_problem(answer)
        if case.closes or answer.last:
            assert stream.read() == b""
        elif complete and "content-length" in answer.fields:
            sock.sendall(HEALTH)
            following = read_answer(stream)
            assert following is not None
            assert following.status == 200
    check_health(daemon)


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("seed", range(FUZZ_SEEDS))
def test_mutated(daemon: Daemon, seed: int) -> None:
    chance = random.Random(seed)
    with connect(daemon) as sock, sock.makefile("rb") as stream, suppress(ConnectionError):
        feed(sock, mutate(chance.choice(VALID), chance), bytewise=False)
        sock.shutdown(socket.SHUT_WR)  # there is no more to wait for
        read_answer(stream)
    check_health(daemon)


def test_bystander_got_nothing_else(daemon: Daemon, bystander: HTTPResponse) -> None:
    with connect(daemon) as sock, sock.makefile("rb") as stream:
        sock.sendall(post("/bystander", '"the end"', JSON))
        answer = read_answer(stream)
    assert answer is not None
    assert answer.status in (200, 202)
    line = b"\n"
    while line == b"\n":  # a keep-alive
        line = bystander.readline()
    assert json.loads(line) == "the end"


def test_no_traceback(daemon: Daemon) -> None:
    assert "Traceback" not in daemon.log()
