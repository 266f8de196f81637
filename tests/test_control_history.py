"""The pages of a channel's history, by HTTP and on ``/-/websocket``; and what a node says while its store is away."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.daemons import Daemon, Stream, post, running, wait_for
from tests.multiplex import Client
from tests.stores import RedisServer

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
MANY = 2500
LIMITS = (1, 7, 100, 999, 1000)
NUMBERS = [
    "123456789012345678901234567890", "-9223372036854775809", "1.10", "0.1000000000000000055511151231257827", "1e400",
    "1E-7", "-0.0", '{"a":[12345678901234567.890,{"b":1.0}]}',
]  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    store = "sqlite" if request.param == "sqlite" else request.getfixturevalue("shared_server").url
    yield from running(
        tmp_path_factory.mktemp("node"), workers=2, store=store, max_body=1 << 24,
        channels={"*": {"history_size": 100_000}, "short": {"history_size": 5}, "none": {"history_size": 0}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def cursors(node: Daemon) -> list[str]:
    """Those of the messages of the channel `long`, which are their numbers."""
    node.request("DELETE", "/long")
    return [cursor for begin in range(0, MANY, 500) for cursor in post(node, "long", *range(begin, begin + 500))]


def page(node: Daemon, channel: str, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = node.json(f"/-/channels/{quote(channel, safe='')}/history{query}")
    assert found["channel"] == channel
    return found


Read = Callable[[str, str | None, int], dict[str, Any]]


@pytest.fixture(params=["http", "websocket"])
def read(request: pytest.FixtureRequest, node: Daemon) -> Iterator[Read]:
    """Reads a page of `long`: ``since`` or ``before``, a cursor if any, a limit."""
    if request.param == "http":

        def by_http(way: str, cursor: str | None, limit: int) -> dict[str, Any]:
            told = f"&_{way}={cursor}" if cursor else f"&_last={limit}" if way == "before" else ""
            return page(node, "long", f"?_limit={limit}{told}")

        yield by_http
    else:
        with Client(node) as client:
            yield lambda way, cursor, limit: client.ask(cmd="history", channel="long", limit=limit, **{way: cursor})


@pytest.mark.parametrize("limit", LIMITS)
def test_forwards(read: Read, cursors: list[str], limit: int) -> None:
    """All messages once, in their order; ``more`` is true but for the last page."""
    # All by few would be as many requests: the end is what differs.
    found: list[str] = cursors[: max(0, MANY - 50 * limit)]
    more = True
    while more:
        told = read("since", found[-1] if found else None, limit)
        messages = told["messages"]
        assert [each["data"] for each in messages] == list(range(len(found), len(found) + len(messages)))
        assert told["cursor"] == cursors[-1] and "gap" not in told
        found += [each["cursor"] for each in messages]
        more = told["more"]
        assert len(messages) == limit if more else 0 < len(messages) <= limit
    assert found == cursors
    assert read("since", found[-1], limit) == {"channel": "long", "messages": [], "cursor": cursors[-1], "more": False}


@pytest.mark.parametrize("limit", LIMITS)
def test_backwards(read: Read, cursors: list[str], limit: int) -> None:
    """Pages from the newest on; each is in order."""
    found: list[str] = cursors[50 * limit :]
    more = True
    while more:
        told = read("before", found[0] if found else None, limit)
        messages = told["messages"]
        end = MANY - len(found)
        assert [each["data"] for each in messages] == list(range(end - len(messages), end))
        assert told["cursor"] == cursors[-1] and "gap" not in told
        found = [each["cursor"] for each in messages] + found
        more = told["more"]
        assert len(messages) == limit if more else 0 < len(messages) <= limit
    assert found == cursors
    told = read("before", found[0], limit)
    assert (told["messages"], told["more"]) == ([], False)


def test_the_defaults(node: Daemon, cursors: list[str]) -> None:
    assert page(node, "long") == page(node, "long", "?_since=earliest&_limit=100")
    assert [each["cursor"] for each in page(node, "long", "?_last=3")["messages"]] == cursors[-3:]
    assert page(node, "never") == {"channel": "never", "messages": [], "cursor": None, "more": False}
    with Client(node) as client:
        told = client.ask(cmd="history", channel="long")
        assert told == page(node, "long")
        assert client.ask(cmd="history", channel="long", before=None) == page(node, "long", "?_last=100")


def test_a_gap_is_told(node: Daemon) -> None:
    node.request("DELETE", "/short")
    cursors = post(node, "short", *range(12))
    epoch = cursors[0].partition(":")[0]
    told = page(node, "short", f"?_since={cursors[2]}")
    assert told["gap"] == {"recovered": False, "missing": {"epoch": epoch, "first": 4, "last": 7}}
    assert [each["data"] for each in told["messages"]] == [7, 8, 9, 10, 11]
    assert "gap" not in page(node, "short"), "the earliest that there is was asked for"
    for place, there in (("abc:3", 5), (f"{epoch}:13", 0), (f"{epoch}:9223372036854775807", 0)):
        told = page(node, "short", f"?_since={place}")
        assert told["gap"] == {"recovered": False, "missing": None} and len(told["messages"]) == there
    with Client(node) as client:
        assert client.ask(cmd="history", channel="short", since=cursors[2]) == page(
            node, "short", f"?_since={cursors[2]}"
        )


@pytest.mark.parametrize(
    "query",
    ["_since=x", "_since=", "_since=a:b", "_since=a:9223372036854775808", "_since=a:1,b:2", "_before=", "_before=x",
     "_before=earliest", "_limit=0", "_limit=1001", "_limit=-1", "_limit=x", "_limit=1e2", "_last=0", "_last=1001",
     "_last=", "_since=%ff"],
)  # fmt: skip
def test_refused_pages(node: Daemon, query: str) -> None:
    status, headers, body = node.request("GET", f"/-/channels/long/history?{query}")
    assert (status, headers["content-type"]) == (400, "application/problem+json") and json.loads(body)["detail"]


@pytest.mark.parametrize(
    "options",
    [{"since": "x"}, {"since": 7}, {"since": ["a:1"]}, {"since": "a:9223372036854775808"}, {"before": "earliest"},
     {"before": 5}, {"limit": 0}, {"limit": 1001}, {"limit": "9"}, {"limit": 1.5}, {"limit": None}, {"channel": "a*"},
     {"channel": ""}],
)  # fmt: skip
def test_refused_commands(node: Daemon, options: dict[str, Any]) -> None:
    with Client(node) as client:
        assert client.code(**{"cmd": "history", "channel": "long", **options}) == 400


def test_where_there_is_no_history(node: Daemon, start: Callable[..., Daemon]) -> None:
    assert node.request("GET", "/-/channels/none/history")[0] == 404
    assert node.request("GET", "/-/channels/a*/history")[0] == 400
    assert node.request("POST", "/-/channels/a/history")[0] == 405
    other = start(store="none")
    status, _, body = other.request("GET", "/-/channels/a/history")
    assert status == 404 and "history" in json.loads(body)["detail"]


def test_names_are_percent_decoded(node: Daemon) -> None:
    for name in ("caf\u00e9/a b", "x/history", "a?b=c"):
        node.request("DELETE", f"/{quote(name)}")
        post(node, name, 1)
        assert [each["data"] for each in page(node, name)["messages"]] == [1]


def test_numbers_keep_their_digits(node: Daemon) -> None:
    """By whichever door they came in, and by whichever they are read."""
    for number, text in enumerate(NUMBERS):
        channel = f"digits.{number}"
        node.request("DELETE", f"/{channel}")
        with Client(node) as client, Stream(node, f"/{channel}") as stream:
            assert node.request("POST", f"/{channel}", text, JSON)[0] == 200
            assert node.request("POST", "/-/publish", f'{{"channels":["{channel}"],"data":{text}}}', JSON)[0] == 200
            client.ws.send(f'{{"id":"p","cmd":"publish","channel":"{channel}","data":{text}}}')
            assert '"id":"p","cursor"' in client.ws.recv(20)
            assert [stream.line() for _ in range(3)] == [text.encode()] * 3
            client.ws.send(f'{{"id":"h","cmd":"history","channel":"{channel}"}}')
            told = client.ws.recv(20)
        body = node.request("GET", f"/-/channels/{channel}/history")[2].decode()
        assert told == '{"id":"h",' + body[1:]
        assert body.count(f'{{"data":{text},"cursor":') == 3, body


def test_bytes_and_text(node: Daemon) -> None:
    node.request("DELETE", "/kinds")
    node.request("POST", "/kinds", b"\0\xff", {"Content-Type": "application/octet-stream"})
    node.request("POST", "/kinds", 'a"b', {"Content-Type": "text/plain"})
    assert [each["data"] for each in page(node, "kinds")["messages"]] == [{"base64": "AP8="}, 'a"b']


def test_pages_end_with_a_megabyte(node: Daemon) -> None:
    """However many messages were asked for; a client may take its time to read one."""
    node.request("DELETE", "/large")
    text = "x" * 100_000
    cursors = [cursor for n in range(0, 30, 10) for cursor in post(node, "large", *[text] * 10)]
    found: list[str] = []
    while True:
        told = page(node, "large", "?_limit=1000" + (f"&_since={found[-1]}" if found else ""))
        assert 0 < len(told["messages"]) < 13
        found += [each["cursor"] for each in told["messages"]]
        if not told["more"]:
            break
    assert found == cursors


# While the store is away.


def ready(node: Daemon) -> tuple[int, str]:
    status, _, body = node.request("GET", "/-/ready")
    return status, json.loads(body).get("detail", "")


def test_a_store_that_is_away(own_server: RedisServer, start: Callable[..., Daemon]) -> None:
    """The node is alive and not ready, and says why; what needs no history goes on; nobody need do anything when the
    store is back."""
    node = start(store=own_server.url, workers=2, channels={"*": {}, "free.*": {"history_size": 0}}, position_check=0.5)
    (before,) = post(node, "a", 1)
    with Stream(node, "/free.a") as free, Stream(node, "/a") as kept, Client(node) as client:
        for _ in range(2):
            own_server.kill()
            status, why = ready(node)
            assert status == 503 and "the store of the history does not answer" in why
            assert node.json("/-/health") == {"status": "ok"}
            for path in ("/a", "/b"):
                status, headers, body = node.request("POST", path, "2", JSON)
                assert status == 503 and 1 <= int(headers["retry-after"]) <= 5 and json.loads(body)["detail"]
            status, _, body = node.request("GET", "/b?_last=1", None, {"Accept": "text/event-stream"})
            assert status == 200 and b"event: refused" in body and b'"status":503' in body
            assert node.request("POST", "/free.a", "3", JSON)[0] == 202
            assert free.value() == 3
            assert client.ask(cmd="publish", channel="a", data=1)["error"]["code"] == 503
            assert "error" not in client.ask(cmd="publish", channel="free.b", data=1)
            assert node.request("GET", "/-/channels/a/history")[0] == 503
            assert client.code(cmd="history", channel="a") == 503
            assert client.code(cmd="session") == 503
            assert node.request("GET", "/b")[0] == 503
            own_server.start()
            wait_for(lambda: ready(node)[0] == 200, "it is ready again")
            assert node.request("POST", "/a", "4", JSON)[0] == 200
            assert kept.value() == 4
    assert page(node, "a", f"?_since={before}")["messages"][0]["data"] == 4


def test_metrics_of_the_history(start: Callable[..., Daemon], tmp_path: Path) -> None:
    node = start(workers=2)
    wait_for(lambda: node.metric("raiden_history_bytes") > 0, "the size of the history was measured")
    size = sum(path.stat().st_size for path in node.folder.glob("history.sqlite*"))
    assert 0 < node.metric("raiden_history_bytes") <= size
    before = node.metric("raiden_history_bytes")
    post(node, "a", *["x" * 10_000] * 50)
    wait_for(lambda: node.metric("raiden_history_bytes") > before, "it has grown")
    body = node.request("GET", "/-/metrics")[2].decode()
    for worker in "01":
        assert f'raiden_history_waiting{{worker="{worker}"}}' in body
    assert body.count("raiden_history_bytes{") == 1, "one figure a node"
    os.kill(node.pid, 0)
