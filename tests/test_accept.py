"""What clients accept, and what a subscription is for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from raiden.http import accept
from raiden.http.reader import FORMS
from tests.daemons import Daemon, Stream, wait_for

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (None, "line"),
        ("", "line"),
        ("*/*", "line"),
        ("text/event-stream", "event"),
        ("TEXT/Event-Stream ; q=0.5", "event"),
        ("*/*, text/event-stream", "event"),
        ("text/event-stream;q=0, */*", "line"),
        ("text/event-stream;q=0.1, application/json", "line"),
        ("text/event-stream, application/json", "event"),
        ("application/json, text/event-stream", "line"),
        ("application/json, text/plain, */*", "line"),
        ("application/x-ndjson;q=0, application/*;q=0.4", "line"),  # as application/json
        ("text/*", "event"),
        ("application/octet-stream", "raw"),
        ("application/octet-stream, */*;q=0.1", "raw"),
        (CHROMIUM, "page"),
        ("text/html", "page"),
        ("text/html;q=0.1, */*", "line"),
        ("image/*", None),
        ("text/event-stream;q=0", None),
        ("text/event-stream;q=0.000", None),
        ("text/event-stream;q=2", "line"),  # that says nothing
        ("nonsense", "line"),
        ('image/png;a=",text/event-stream"', None),
        ("image/png, " * 500 + "text/event-stream", None),
    ],
)
def test_the_form_that_fits_best(text: str | None, form: str | None) -> None:
    """RFC 9110 section 12.5.1."""
    assert accept.choose(text, FORMS) == form


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream;q=0, */*;q=0.1", "application/x-ndjson"),
        ("application/octet-stream", "application/octet-stream"),
    ],
)
def test_streams(daemon: Daemon, channel: str, text: str, content_type: str) -> None:
    with Stream(daemon, "/form", {"Accept": text}) as stream:
        assert (stream.status, stream.response.headers["Content-Type"]) == (200, content_type)


@pytest.mark.parametrize("path", ["/a", "/a.*", "/-/subscribe?channel=a"])
def test_what_fits_nothing_is_no_stream(daemon: Daemon, path: str) -> None:
    for method in ("GET", "HEAD"):
        for _ in range(3):
            assert daemon.request(method, path, None, {"Accept": "image/*"})[0] == 406
    status, _, body = daemon.request("GET", "/a.*", None, {"Accept": "application/octet-stream"})
    assert status == 406 and b"of one channel" in body, "bytes of several channels can't be told apart"


def test_who_takes_events_comes_back_after_a_refusal_that_passes(start: Callable[..., Daemon]) -> None:
    """An EventSource gives up for good on any status but 200."""
    node = start(max_channels=1)
    events = {"Accept": "text/event-stream"}
    found = set()
    with Stream(node, "/one"):
        for path in ("/two", "/-/subscribe?channel=two", *["/two"] * 20):
            status, fields, body = node.request("GET", path, None, events)
            assert (status, fields["content-type"]) == (200, "text/event-stream")
            retry, event, data, *rest = body.decode().split("\n")
            assert event == "event: refused" and rest == ["", ""]
            assert json.loads(data.removeprefix("data: "))["status"] == 503
            found.add(int(retry.removeprefix("retry: ")))
        assert len(found) > 1 and all(1000 <= milliseconds <= 5000 for milliseconds in found)
        assert node.request("GET", "/two")[0] == 503
        assert node.request("GET", "/two?_wait=1", None, events)[0] == 503
        assert node.request("GET", "/two?_last=x", None, events)[0] == 400, "what does not pass is told as it is"
    wait_for(lambda: not node.metric("raiden_connections", transport="stream"), "the other is gone")
    with Stream(node, "/two", events) as stream:
        node.publish("two", 2)
        assert stream.line().startswith(b"id: ") and stream.line() == b"data: 2"


# Paths that are no channels.


@pytest.mark.parametrize(
    ("path", "says"),
    [("metrics", "/-/metrics"), ("health", "/-/health"), ("healthz", "/-/health"), ("ready", "/-/ready"),
     ("readyz", "/-/ready"), ("%72eady", "/-/ready"), ("robots.txt", "reserved_paths"),
     (".well-known/security.txt", "reserved_paths")],
)  # fmt: skip
def test_paths_that_probes_ask_for(daemon: Daemon, path: str, says: str) -> None:
    for method, body in (("GET", None), ("POST", "1"), ("DELETE", None), ("GET", None), ("POST", "1")):
        # The same head but for the target is known, with what it publishes to.
        assert daemon.request("POST", "/fine", "1", {"Content-Type": "application/json"})[0] == 200
        status, _, text = daemon.request(method, f"/{path}", body, {"Content-Type": "application/json"} if body else {})
        assert status == 404 and says.encode() in text
    assert daemon.request("HEAD", f"/{path}")[0] == 404


def test_no_icon(daemon: Daemon) -> None:
    for fields in ({}, {"Accept": "image/avif,image/webp,*/*;q=0.8"}):
        assert daemon.request("GET", "/favicon.ico", None, fields)[::2] == (204, b"")


def test_a_reserved_path_can_be_a_channel(start: Callable[..., Daemon]) -> None:
    node = start(reserved_paths=["x/*"])
    for path in ("metrics", "favicon.ico", "x"):
        node.publish(path, 1)
        with Stream(node, f"/{path}?_last=1") as stream:
            assert stream.value() == 1
    assert node.request("GET", "/x/y")[0] == 404
    node.post_json("/-/publish", {"channels": ["x/y"], "data": 2})
    assert node.json("/-/subscribe?channel=x/y&_wait=1&_last=1")["messages"][0]["data"] == 2
