"""HTTP without sockets: the same events for the same bytes, however they are cut."""

from __future__ import annotations

import json
import random
import tracemalloc
from email.utils import parsedate_to_datetime

import pytest
import webob

from raiden.protocols.heads import Heads, Repeated
from raiden.protocols.http import HttpError, Request, problem, serialize, stream_bytes
from raiden.protocols.limits import HttpLimits
from raiden.protocols.parser import CONTINUE, RequestParser

GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n"
# Of an environ: what is not equal where requests are.
UNLIKE = ("wsgi.input", "raiden.head")
SMALL = HttpLimits(max_url=40, max_header=120, max_headers=5, max_body=20)


def post(body: bytes, *fields: str) -> bytes:
    return head("POST /a HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields) + body


def head(*lines: str) -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def chunked(*fields: str) -> bytes:
    return head("POST /a HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", *fields)


def described(event: object) -> object:
    if event is CONTINUE:
        return "continue"
    if isinstance(event, HttpError):
        return event.status
    if isinstance(event, Repeated):
        event = event.request()
    assert isinstance(event, Request)
    assert event.environ["wsgi.input"].getvalue() == event.raw_body
    environ = {key: value for key, value in event.environ.items() if key not in UNLIKE}
    return event.method, event.raw_body, environ


def parse(data: bytes, limits: HttpLimits | None = None) -> list[object]:
    """The events of the bytes, which are the same whole, cut in two anywhere and byte by byte, whether or not their
    heads are known."""
    limits = limits or HttpLimits()
    known = Heads()

    def events(pieces: list[bytes], heads: Heads | None = None) -> list[object]:
        parser = RequestParser(limits, "1.2.3.4", heads)
        found: list[object] = []
        for piece in pieces:
            found += [event.request() if isinstance(event, Repeated) else event for event in parser.feed(piece)]
            last = found[-1] if found else None
            if isinstance(last, HttpError) or (isinstance(last, Request) and last.upgrade):
                break
        return found

    whole = events([data])
    expected = [described(event) for event in whole]
    cuts = [[data[:at], data[at:]] for at in range(1, len(data))] if len(data) < 1000 else []
    for pieces in [[data], [data[i : i + 1] for i in range(len(data))], *cuts]:
        assert [described(event) for event in events(pieces)] == expected
        assert [described(event) for event in events(pieces, known)] == expected
    return whole


def one(data: bytes, limits: HttpLimits | None = None) -> Request:
    (request,) = parse(data, limits)
    assert isinstance(request, Request)
    return request


def refused(data: bytes, limits: HttpLimits | None = None) -> int:
    """The status of the refusal, which is the last event."""
    error = parse(data, limits)[-1]
    assert isinstance(error, HttpError) and error.close and error.detail
    return error.status


def test_a_request() -> None:
    request = one(head("GET /a%20/%C3%A4?b=%26&b HTTP/1.1", "Host: x:1", "X-A: 1", "x-a:  2", "Content-Type: text/a"))
    assert (request.method, request.raw_body, request.remote_addr) == ("GET", b"", "1.2.3.4")
    assert (request.path_info, request.query_string) == ("/a /ä", "b=%26&b")
    assert request.environ["raiden.path"] == "/a%20/%C3%A4"
    assert (request.headers["X-A"], request.content_type) == ("1,2", "text/a")
    assert request.raw_headers[1:3] == (("X-A", "1"), ("x-a", "2"))
    assert request.keep_alive and not request.upgrade and not request.http10


def test_body() -> None:
    request = one(post(b"a\r\n\r\nGET"))
    assert (request.raw_body, request.body, request.content_length) == (b"a\r\n\r\nGET",) * 2 + (8,)


def test_chunked_body() -> None:
    request = one(chunked() + b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: a\r\n\r\n")
    assert (request.raw_body, request.content_length) == (b"hello!", 6)
    assert "X-Trailer" not in request.headers


def handshake(key: str, *fields: str, line: str = "GET /a HTTP/1.1") -> bytes:
    return head(line, "Host: a", "Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}", *fields)


def ends(request: Request) -> bool:
    """Nothing that comes after it is HTTP, or answered."""
    return request.upgrade or not request.keep_alive


KEYS = ["AAAAAAAAAAAAAAAAAAAAAA==", "dGhlIHNhbXBsZSBub25jZQ==", "", "AAAAAAAAAAAAAAAAAAAAAB==", "short=="]


def test_heads_that_were_read_before() -> None:
    """Requests with heads that are known, and such as look like them, are what they are to a parser that knows none."""
    bodies = [b"1", b"22", b"\r\n\r\n", b"x\r\n\r\ny", post(b"1"), b"z" * 3000]
    targets = [
        "/a",
        "/b",
        "/",
        "/%41%zz",
        "/a?b=c?d",
        "/a*'\"",
        "//a",
        "/a#b",
        "*",
        "http://h/a?b",
        "/\xe4",
        "/-/publish",
    ]
    fields = [(), ("Connection: keep-alive",), ("Connection: close",), ("Expect: 100-continue",), ("X: 1",), ("X: 2",)]
    others = [GET, chunked() + b"1\r\n1\r\n0\r\n\r\n"]
    last = [b"", *(handshake(key) for key in KEYS), handshake(KEYS[0], f"Sec-WebSocket-Key: {KEYS[1]}")]
    last += [handshake(KEYS[0]) + b"rest", handshake(KEYS[1], line="POST /a HTTP/1.1"), handshake(KEYS[1], "X: 1")]
    last += [head("GET /a HTTP/1.1", "Host: a", f"Sec-WebSocket-Key: {key}") for key in KEYS]
    rng = random.Random(1)
    known, repeated = Heads(), 0
    for _ in range(3000):
        requests = [post(rng.choice(bodies), *rng.choice(fields)) for _ in range(3)]
        requests.insert(rng.randrange(4), rng.choice(others))
        requests = [part.replace(b"/a ", rng.choice(targets).encode("latin-1") + b" ", 1) for part in requests]
        data = b"".join(requests) + rng.choice(last)
        at = rng.randrange(len(data))
        knowing, plain = RequestParser(HttpLimits(), "a", known), RequestParser(HttpLimits(), "a")
        for piece in (data[:at], data[at:]):
            events = list(knowing.feed(piece))
            repeated += sum(isinstance(event, Repeated) for event in events)
            expected = list(plain.feed(piece))
            assert [described(event) for event in events] == [described(event) for event in expected]
            if any(isinstance(e, HttpError) or (isinstance(e, Request) and ends(e)) for e in expected):
                break
    assert repeated > 1500


def test_a_handshake_with_a_known_head() -> None:
    heads = Heads()
    for key in KEYS[:2]:
        parser = RequestParser(HttpLimits(), "a", heads)
        (event,) = parser.feed(handshake(key) + b"rest")
        assert isinstance(event, Repeated) == (key != KEYS[0])
        request = event.request() if isinstance(event, Repeated) else event
        assert isinstance(request, Request) and request.upgrade
        assert parser.rest() == b"rest" and parser.idle
        assert request.fields["sec-websocket-key"] == request.headers["Sec-WebSocket-Key"] == key
        assert ("Sec-WebSocket-Key", key) in request.raw_headers


def test_a_known_head_is_refused_once_the_limits_say_so() -> None:
    limits, heads, data = HttpLimits(), Heads(), post(b"x" * 100)
    events = [event for _ in range(2) for event in RequestParser(limits, "a", heads).feed(data)]
    assert [type(event) for event in events] == [Request, Repeated]
    limits.max_body = 99
    assert [described(event) for event in RequestParser(limits, "a", heads).feed(data)] == [413]
    limits.max_body, limits.max_url = 100, 1
    assert [described(event) for event in RequestParser(limits, "a", heads).feed(data)] == [414]
    limits.max_url, limits.max_headers = 10, 1
    heads.clear()
    assert [described(event) for event in RequestParser(limits, "a", heads).feed(data)] == [431]


def test_pipelined_requests() -> None:
    requests = parse(GET + post(b"1") + chunked() + b"1\r\n2\r\n0\r\n\r\n" + b"\r\n" + GET)
    assert [(r.method, r.raw_body) for r in requests if isinstance(r, Request)] == [
        ("GET", b""),
        ("POST", b"1"),
        ("POST", b"2"),
        ("GET", b""),
    ]


def test_pipelined_requests_are_valid_up_to_the_first_that_is_not() -> None:
    first, second, error = parse(GET * 2 + b"nonsense\r\n\r\n" + GET)
    assert isinstance(first, Request) and isinstance(second, Request)
    assert isinstance(error, HttpError) and error.status == 400


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True)],
)
def test_keep_alive(version: str, connection: str, keep_alive: bool) -> None:
    request = one(head(f"GET / HTTP/{version}", "Host: a", f"Connection: {connection or 'x'}"))
    assert (request.keep_alive, request.http10) == (keep_alive, version == "1.0")


def test_idle_between_requests() -> None:
    parser = RequestParser(HttpLimits(), "")
    assert parser.idle
    assert list(parser.feed(GET[:1])) == [] and not parser.idle
    assert len(list(parser.feed(GET[1:]))) == 1 and parser.idle
    assert list(parser.feed(post(b"12")[:-1])) == [] and not parser.idle


def test_expectations() -> None:
    waits, request = parse(post(b"1", "Expect: 100-Continue"))
    assert waits is CONTINUE and isinstance(request, Request) and request.raw_body == b"1"
    assert parse(chunked("Expect: 100-continue")) == [CONTINUE]
    one(post(b"", "Expect: 100-continue"))  # has no body to wait for
    one(head("POST / HTTP/1.0", "Content-Length: 1", "Expect: 100-continue") + b"1")
    assert refused(post(b"1", "Expect: tea")) == 417
    assert parse(post(b"1" * 21, "Expect: 100-continue"), SMALL)[0] is not CONTINUE


def test_limits_hold_and_reach_as_far_as_they_say() -> None:
    url = "/" + "a" * 39
    assert one(head(f"GET {url} HTTP/1.1", "Host: a"), SMALL).path == url
    assert refused(head(f"GET {url}a HTTP/1.1", "Host: a"), SMALL) == 414
    many = [f"A{i}: 1" for i in range(4)]
    assert len(one(head("GET / HTTP/1.1", "Host: a", *many), SMALL).raw_headers) == 5
    assert refused(head("GET / HTTP/1.1", "Host: a", *many, "B: 1"), SMALL) == 431
    large = "A: " + "a" * 114  # with `Hosta`, 120 characters
    assert one(head("GET / HTTP/1.1", "Host: a", large), SMALL).headers["A"] == large[3:]
    assert refused(head("GET / HTTP/1.1", "Host: a", large + "a"), SMALL) == 431
    assert one(post(b"1" * 20), SMALL).raw_body == b"1" * 20
    assert refused(post(b"1" * 21), SMALL) == 413


def test_limits_of_what_has_no_end() -> None:
    assert refused(b"GET /" + b"a" * 300, SMALL) == 414
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 300, SMALL) == 431
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a" * 300, SMALL) == 431
    assert refused(chunked() + b"b\r\n01234567890\r\n" * 2, SMALL) == 413
    assert refused(chunked() + b"0\r\n" + b"A: b\r\n" * 12, SMALL) == 413


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, head("GET / HTTP/1.1", "Host: a", "Host: a")),
        (400, head("GET / HTTP/1.1", "Host: a b")),
        (400, head("GET / HTTP/1.1", "Host: a", "A : b")),
        (400, head("GET / HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 1") + b"1"),
        (400, head("POST / HTTP/1.1", "Host: a", "Content-Length: -1")),
        (400, head("GET /#a HTTP/1.1", "Host: a")),
        (400, head("GET a HTTP/1.1", "Host: a")),
        (400, chunked("Content-Length: 1") + b"0\r\n\r\n"),
        (400, chunked() + b"x\r\n"),
        (400, b"get / HTTP/1.1\r\n"),
        (501, head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked")),
        (405, head("CONNECT a:1 HTTP/1.1", "Host: a:1")),
    ],
)
def test_refusals(status: int, data: bytes) -> None:
    assert refused(data) == status


def test_upgrades() -> None:
    fields = ("Host: a", "Connection: Upgrade", "Upgrade: WebSocket")
    request = one(head("GET /a HTTP/1.1", *fields) + b"\x81\0")
    assert request.upgrade
    parser = RequestParser(HttpLimits(), "")
    (whole,) = parser.feed(head("GET /a HTTP/1.1", *fields) + b"\x81\0")
    assert isinstance(whole, Request) and whole.upgrade and parser.rest() == b"\x81\0"
    assert refused(head("POST /a HTTP/1.1", *fields)) == 405
    assert refused(head("GET /a HTTP/1.1", *fields, "Content-Length: 1") + b"1") == 400


@pytest.mark.parametrize("offer", ["h2c", "TLS/1.0", "h2c, websocket", "HTTP/3.0"])
def test_an_offer_to_upgrade_that_is_no_websocket_s_is_ignored(offer: str) -> None:
    """RFC 9110 section 7.8: the request is served, with its body, and so is what follows."""
    fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offer}", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    body = b"2\r\n12\r\n1\r\n3\r\n0\r\n\r\n"
    sized = post(b"1" * 300, *fields)
    requests = parse(head("GET /a HTTP/1.1", "Host: a", *fields) + sized + chunked(*fields) + body + sized + GET)
    assert [(r.method, r.raw_body) for r in requests if isinstance(r, Request)] == [
        ("GET", b""), ("POST", b"1" * 300), ("POST", b"123"), ("POST", b"1" * 300), ("GET", b"")
    ]  # fmt: skip
    assert all(isinstance(r, Request) and r.keep_alive and not r.upgrade for r in requests)
    waits, request = parse(post(b"1", *fields, "Expect: 100-continue"))
    assert waits is CONTINUE and isinstance(request, Request) and request.raw_body == b"1"
    old = one(head("POST / HTTP/1.0", "Content-Length: 1", *fields[:2]) + b"1")
    assert old.http10 and old.raw_body == b"1"
    assert refused(post(b"1" * 21, *fields[:2]), SMALL) == 413


def test_what_is_not_asked_for_stays_as_bytes() -> None:
    """Of thousands of pipelined requests, one is made at a time."""
    data = GET * 2000
    parser = RequestParser(HttpLimits(), "", Heads(0))
    tracemalloc.start()
    try:
        for number in range(2000):
            event = next(parser.feed(b"" if number else data))
            assert isinstance(event, Request) and parser.waiting == len(data) - (number + 1) * len(GET)
            assert tracemalloc.get_traced_memory()[0] < 2 * len(data)
    finally:
        tracemalloc.stop()
    assert list(parser.feed(b"")) == [] and parser.idle


def test_a_body_takes_what_it_is_long() -> None:
    """Also in the smallest chunks, and nothing of it once it was taken."""
    parser, size = RequestParser(HttpLimits(), ""), 200_000
    list(parser.feed(chunked()))
    tracemalloc.start()
    try:
        for _ in range(size // 2000):
            assert list(parser.feed(b"2\r\n12\r\n" * 1000)) == []
        assert tracemalloc.get_traced_memory()[0] < 1.5 * size
        (request,) = parser.feed(b"0\r\n\r\n")
        assert isinstance(request, Request) and request.raw_body == b"12" * (size // 2)
        del request
        assert tracemalloc.get_traced_memory()[0] < 0.1 * size
    finally:
        tracemalloc.stop()


def test_white_space_around_values_is_none_of_theirs() -> None:
    """RFC 9110 section 5.5."""
    assert one(head("GET / HTTP/1.1", "Host: a \t", "A: b ")).headers["A"] == "b"


def test_a_head_is_not_charged_for_what_came_before_it() -> None:
    parser = RequestParser(SMALL, "")
    (first,) = parser.feed(post(b"1" * 20, "A: " + "a" * 90) + GET[:-6])
    assert isinstance(first, Request)
    assert list(parser.feed(GET[-6:-5])) == []
    (second,) = parser.feed(GET[-5:])
    assert isinstance(second, Request)


def test_a_trailer_without_end_is_refused() -> None:
    assert refused(chunked() + b"0\r\nA: " + b"a" * 1000, SMALL) == 413


def split(data: bytes) -> tuple[str, dict[str, str], bytes]:
    start, _, body = data.partition(b"\r\n\r\n")
    status, *lines = start.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


def test_serialize() -> None:
    response = webob.Response(body=b"hello", content_type="text/plain", charset="utf-8")
    status, fields, body = split(serialize(response, keep_alive=True, http10=False))
    assert (status, body) == ("HTTP/1.1 200 OK", b"hello")
    assert fields["Content-Length"] == "5" and fields["Content-Type"] == "text/plain; charset=utf-8"
    assert parsedate_to_datetime(fields["Date"]).tzinfo and "Connection" not in fields
    assert split(serialize(response, keep_alive=False, http10=False))[1]["Connection"] == "close"
    assert split(serialize(response, keep_alive=True, http10=True))[1]["Connection"] == "keep-alive"
    _, fields, body = split(serialize(response, keep_alive=True, http10=False, head=True))
    assert (fields["Content-Length"], body) == ("5", b"")


@pytest.mark.parametrize("http10", [False, True])
def test_the_head_of_a_stream(http10: bool) -> None:
    data = stream_bytes((("Content-Type", "text/event-stream"), ("X", "1")), http10=http10)
    assert data.endswith(b"\r\n\r\n")
    status, fields, _ = split(data)
    assert status.endswith("200 OK") and "Content-Length" not in fields and fields["Date"]
    assert (fields["Content-Type"], fields["X"]) == ("text/event-stream", "1")
    framing = fields.get("Transfer-Encoding"), fields.get("Connection")
    assert framing == ((None, "close") if http10 else ("chunked", None))


def test_problems() -> None:
    status, fields, body = split(
        serialize(problem(HttpError(429, "später", headers={"Retry-After": "1"})), keep_alive=True, http10=False)
    )
    assert status == "HTTP/1.1 429 Too Many Requests"
    assert (fields["Content-Type"], fields["Retry-After"]) == ("application/problem+json", "1")
    assert json.loads(body) == {"status": 429, "title": "Too Many Requests", "detail": "später"}
