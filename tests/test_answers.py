"""The fields that all answers have, whichever way they are made."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from raiden.protocols import http
from tests.daemons import Daemon, Stream

JSON = {"Content-Type": "application/json"}
PAGES = [
    "/-/health", "/-/ready", "/-/nodes", "/-/channels", "/-/channels/a", "/-/channels/a/history", "/-/metrics",
    "/-/nothing", "/a*b*/%00", "/a?_last=x", "/a?_wait=0", "/a?_wait=0&_durable=d",
]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_no_answer_is_kept(daemon: Daemon, path: str) -> None:
    for method in ("GET", "HEAD"):
        for _ in range(3):
            _, fields, _ = daemon.request(method, path)
            assert fields["cache-control"].startswith("no-store") and fields["vary"] == "Origin"


def test_no_answer_to_a_publish_is_kept(daemon: Daemon, channel: str) -> None:
    for path in (f"/{channel}", "/-/publish", "/*"):
        for body in ("1", f'{{"channels":["{channel}"],"data":1}}', "x"):
            for _ in range(3):
                _, fields, _ = daemon.request("POST", path, body, JSON)
                assert (fields["cache-control"], fields["vary"]) == ("no-store", "Origin")


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson", "application/octet-stream"])
def test_streams_are_passed_on_as_they_come(daemon: Daemon, channel: str, accept: str) -> None:
    with Stream(daemon, f"/{channel}", {"Accept": accept}) as stream:
        assert stream.response.headers["Cache-Control"] == "no-store, no-transform"
        assert stream.response.headers["Vary"] == "Origin"


@pytest.mark.parametrize("query", ["_wait=1", "_wait=1&_durable=d", "_wait=1&_last=1"])
def test_head_of_a_long_poll(daemon: Daemon, channel: str, query: str) -> None:
    """RFC 9110 section 8.6: no other Content-Length than GET's; and it is not known yet."""
    daemon.publish(channel, 1)
    status, fields, body = daemon.request("HEAD", f"/{channel}?{query}")
    _, got, _ = daemon.request("GET", f"/{channel}?{query}&_since=earliest")
    assert (status, body) == (200, b"") and "content-length" not in fields
    assert {name: fields[name] for name in ("content-type", "cache-control", "vary")} == {
        name: got[name] for name in ("content-type", "cache-control", "vary")
    }
    assert "no-transform" in fields["cache-control"]


def test_who_is_refused_for_now_comes_back_at_different_times(start: Callable[..., Daemon]) -> None:
    node = start(max_channels=1)
    with Stream(node, "/one"):
        answers = [node.request("GET", "/two") for _ in range(40)]
    assert {status for status, *_ in answers} == {503}
    found = {int(fields["retry-after"]) for _, fields, _ in answers}
    first, last = http.RETRY_AFTER
    assert len(found) > 1 and found <= set(range(first, last + 1))


def test_what_a_url_can_not_have_is_told(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall("GET /caf\u00e9 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ") and b"write what a URL can't have as %20, %C3%A4" in answer


def test_the_date_follows_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for now, expected in (
        (86_400.0, "Fri, 02 Jan 1970 00:00:00 GMT"),
        (86_400.9, "Fri, 02 Jan 1970 00:00:00 GMT"),
        (0.0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (1.5, "Thu, 01 Jan 1970 00:00:01 GMT"),
    ):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert http.date() == expected
