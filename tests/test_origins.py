"""Which pages may use a node, and what tells their browsers so."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from raiden.http import origins
from raiden.http.origins import Origins
from raiden.node import config
from raiden.node.config import ConfigError
from raiden.protocols.http import HttpError
from raiden.runtime.seldom import MOST, WINDOW, Seldom
from tests.daemons import Daemon, Stream, wait_for
from tests.test_gateway import ws

JSON = {"Content-Type": "application/json"}
APP = "https://app.example"


def allows(origin: str, host: str | None = None, allowed: tuple[str, ...] = ()) -> bool:
    fields = {"origin": origin} if host is None else {"origin": origin, "host": host}
    try:
        Origins(allowed).check(fields)
    except HttpError as error:
        assert error.status == 403 and "allowed_origins" in error.detail
        return False
    return True


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://a.example", "a.example", True),
        ("http://a.example", "a.example:80", True),
        ("https://a.example", "a.example:443", True),
        ("https://a.example:443", "a.example", True),
        ("http://A.example:8088", "a.EXAMPLE:8088", True),
        ("http://[::1]:8088", "[0:0::1]:8088", True),
        ("http://a.example:443", "a.example", False),
        ("https://a.example", "a.example:80", False),
        ("http://a.example", "a.example:8088", False),
        ("http://a.example", "a.example.", False),
        ("http://b.example", "a.example", False),
        ("app://a.example", "a.example", False),
        ("null", "null", False),
        ("null", "", False),
        ("", "", False),
        ("garbage", "garbage", False),
        ("garbage", "", False),
        ("file://", "", False),
        ("http://", "", False),
        ("http://" + 300 * "a", 300 * "a", False),
        ("http://a.example/", "a.example", False),
    ],
)
def test_the_nodes_own_pages(origin: str, host: str, same: bool) -> None:
    """RFC 6454 section 4, RFC 3986 section 6.2.3: a default port says nothing."""
    assert allows(origin, host) == same


@pytest.mark.parametrize("origin", ["null", "", "garbage", "file://"])
def test_no_origin_is_not_that_of_a_request_without_host(origin: str) -> None:
    assert not allows(origin)


@pytest.mark.parametrize(
    ("entry", "allowed", "others"),
    [
        (APP, [APP, "https://app.example:443", "HTTPS://APP.example"], ["http://app.example", APP + ":1", APP + "/"]),
        ("https://App.example:443", [APP], ["https://app.example:80"]),
        ("https://*.app.example", ["https://a.app.example", "https://b.a.app.example"], [APP, "https://xapp.example"]),
        ("http://[0::1]:5173", ["http://[::1]:5173"], ["http://[::1]"]),
        ("capacitor://localhost", ["capacitor://localhost"], ["http://localhost"]),
        ("*", [APP, "null", "garbage"], []),
    ],
)
def test_listed_pages(entry: str, allowed: list[str], others: list[str]) -> None:
    origins.check_allowed(entry)
    assert all(allows(origin, "n.example", (entry,)) for origin in allowed)
    assert not any(allows(origin, "n.example", (entry,)) for origin in others)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("https://app.example/", f"write it like '{APP}'"),
        ("https://app.example/path?a#b", f"write it like '{APP}'"),
        ("app.example", f"write it like '{APP}'"),
        ("localhost:5173", "write it like 'https://localhost:5173'"),
        ("wss://app.example", f"write it like '{APP}'"),
        ("*.app.example", "write it like 'https://*.app.example'"),
        ("https://*app.example", "write it like 'https://*.example.com'"),
        ("http://a:b", "write it like"),
        ("null", "'*' for any page"),
        ("file:///home/me/index.html", "'*' for any page"),
        ("", "'*' for any page"),
    ],
)
def test_entries_that_no_browser_sends_are_refused(entry: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(None, [f"allowed_origins = {[entry]!r}"], {})
    assert str(error.value).startswith("allowed_origins: ") and says in str(error.value)


def test_who_is_refused_again_and_again_is_told_once_a_minute() -> None:
    now = 0.0
    seldom = Seldom(lambda: now)
    assert [seldom.may_say("a") for _ in range(3)] == [True, False, False]
    assert sum(seldom.may_say(str(number)) for number in range(2 * MOST)) == MOST - 1, "and not of too many"
    now = WINDOW
    assert seldom.may_say("a") and seldom.may_say("b") and not seldom.may_say("a")


# What a browser is told.


def test_what_listed_pages_are_told(start: Callable[..., Daemon]) -> None:
    node = start(allowed_origins=[APP, "*"])
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,traceparent"}
    for origin, told, credentials in ((APP, APP, "true"), ("https://b.example", "*", None), ("null", "*", None)):
        with Stream(node, "/a", {"Origin": origin}) as stream:
            streamed = {name.lower(): value for name, value in stream.response.getheaders()}
        _, polled, _ = node.request("GET", "/a?_wait=0", None, {"Origin": origin})
        _, posted, _ = node.request("POST", "/a", "1", {**JSON, "Origin": origin})
        _, preflight, _ = node.request("OPTIONS", "/a", None, {"Origin": origin, **asked})
        for fields in (streamed, polled, posted, preflight):
            assert fields["access-control-allow-origin"] == told
            assert fields.get("access-control-allow-credentials") == credentials
            assert "Retry-After" in fields["access-control-expose-headers"]
        assert preflight["access-control-allow-headers"] == "content-type,traceparent"
        assert "POST" in preflight["access-control-allow-methods"]
    _, preflight, _ = node.request("OPTIONS", "/a", None, {"Origin": APP})
    assert "Last-Event-ID" in preflight["access-control-allow-headers"]


def test_the_own_page_needs_no_credentials(start: Callable[..., Daemon]) -> None:
    node = start(allowed_origins=[APP])
    _, fields, _ = node.request("POST", "/a", "1", {**JSON, "Origin": node.url})
    assert fields["access-control-allow-origin"] == node.url and "access-control-allow-credentials" not in fields


def test_refused_pages_are_in_the_log(start: Callable[..., Daemon]) -> None:
    node = start(allowed_origins=[APP])
    for origin in 3 * ["https://evil.example"] + ["null"]:
        assert node.request("POST", "/a", "1", {**JSON, "Origin": origin})[0] == 403
    with pytest.raises(InvalidStatus):
        ws(node, "/a", origin="https://evil.example")
    lines = [line for line in node.log().splitlines() if "allowed_origins" in line]
    assert len(lines) == 2 and all("WARNING" in line for line in lines)
    assert "https://evil.example" in lines[0] and "null" in lines[1]


def answer(node: Daemon, data: bytes) -> tuple[int, dict[str, str]]:
    """The head of what is answered to these bytes."""
    with node.connect() as sock:
        sock.sendall(data)
        response = http.client.HTTPResponse(sock)
        response.begin()
        response.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}


CUT_SHORT = {
    "a length": (413, b"POST /a HTTP/1.1", b"Content-Length: 9999\r\n\r\n"),
    "chunks": (413, b"POST /a HTTP/1.1", b"Transfer-Encoding: chunked\r\n\r\n270F\r\n" + b"a" * 9999),
    "a bad chunk": (400, b"POST /a HTTP/1.1", b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "a fragment": (400, b"GET /a#b HTTP/1.1", b"\r\n"),
    "two hosts": (400, b"GET /a HTTP/1.1", b"Host: b\r\n\r\n"),
    "a late body": (408, b"POST /a HTTP/1.1", b"Content-Length: 9\r\n\r\n"),
    "a handshake to publish": (405, b"POST /a HTTP/1.1", b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    "an expectation": (417, b"POST /a HTTP/1.1", b"Content-Length: 1\r\nExpect: x\r\n\r\n"),
    "a coding": (501, b"POST /a HTTP/1.1", b"Transfer-Encoding: gzip\r\n\r\n"),
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Any:
    node = Daemon(tmp_path_factory.mktemp("strict"), allowed_origins=[APP], max_body=1000, request_timeout=1.0)
    yield node
    assert node.stop() == 0


def test_what_is_no_request_tells_nothing_of_the_one_before(strict: Daemon) -> None:
    """A proxy may have other clients' requests on the same connection."""
    health = b"GET /-/health HTTP/1.1\r\nHost: a\r\nOrigin: %b\r\n\r\n" % APP.encode()
    for more in ([b"nonsense\r\n\r\n"], [b"nonsense", b"\r\n\r\n"]):
        with strict.connect() as sock:
            sock.sendall(health + more[0])
            for data in more[1:]:
                sock.sendall(data)
            answers = b"".join(iter(lambda: sock.recv(65536), b""))
        first, second = answers.split(b"HTTP/1.1 400 ")
        assert APP.encode() in first and APP.encode() not in second


@pytest.mark.parametrize("case", CUT_SHORT)
def test_pages_read_why_their_request_was_cut_short(strict: Daemon, case: str) -> None:
    """The head has come, so the answer has what lets the page have it."""
    status, line, rest = CUT_SHORT[case]
    for origin, told in ((APP, APP), ("https://evil.example", None)):
        found, fields = answer(strict, b"%b\r\nHost: a\r\nOrigin: %b\r\n%b" % (line, origin.encode(), rest))
        assert (found, fields.get("access-control-allow-origin")) == (status, told)
        assert fields["vary"] == "Origin" and fields["cache-control"] == "no-store"


def test_any_page_reads_what_came_before_its_head(start: Callable[..., Daemon]) -> None:
    """Where all pages may use the node, it need not be known whose the request was."""
    node = start(allowed_origins=["*"], max_connections=1, max_url=100)
    node.hang_up()

    def refused(data: bytes) -> int:
        status, fields = answer(node, data)
        assert fields["access-control-allow-origin"] == "*" or status == 404
        return status

    wait_for(lambda: refused(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 200)) == 414, "its URL is refused")

    def one_only() -> bool:
        with node.connect(), socket.create_connection((node.host, node.port), 20) as second:
            response = http.client.HTTPResponse(second)
            response.begin()
            response.close()
            assert 1 <= int(response.headers["Retry-After"]) <= 5
            return response.status == 503 and response.headers["Access-Control-Allow-Origin"] == "*"

    wait_for(one_only, "a second connection is refused")
