"""Parameters and members that nobody knows, or that were meant otherwise, are told; none is silently a filter."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from raiden.sessions import multiplex
from raiden.sessions.asks import Command
from tests.daemons import Daemon, Stream, post
from tests.multiplex import Client

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("GET /a?_wiat=25", "unknown parameter _wiat; did you mean _wait?"),
        ("GET /a?_Since=earliest", "did you mean _since?"),
        ("GET /-/subscribe?channel=a&_lats=1", "did you mean _last?"),
        ("GET /a?_wait=1&_durable=d&_ackwait=1", "did you mean _ack_wait?"),
        ("GET /a?_before=x", "unknown parameter _before"),
        ("GET /-/channels/a/history?_limt=1", "did you mean _limit?"),
        ("GET /-/channels/a/history?_wait=1", "unknown parameter _wait"),
        ("GET /-/channels?_prefx=a", "did you mean _prefix?"),
        ("POST /a?_key=1", "unknown parameter _key"),
        ("POST /a?_token=x", "_token is for subscribing only: send the token as Authorization: Bearer TOKEN"),
        ("DELETE /a?_all=1", "unknown parameter _all"),
        ("POST /-/publish?_key=1", "unknown parameter _key"),
        ("GET /a?last=10", "write _last, or to filter by that field _filter.last"),
        ("GET /a?since=earliest", "write _since"),
        ("GET /-/subscribe?channel=a&wait=5", "write _wait"),
        ("GET /a?_wrap=true", "_wrap is 1 or 0"),
        ("GET /a?_raw=yes", "_raw is 1 or 0"),
        ("GET /a?_wait=1.", "_wait=0.5"),
        ("GET /a?_wait=-1", "_wait=0.5"),
        ("GET /a?_since=latest", "'latest' is no cursor: pass one as it was received, like 'k3x9:41:8c1f02d9e7ab', or"),
        ("GET /a?_since=latest", "or 'earliest'; leave it out to begin with what comes next"),
        ("GET /-/subscribe?channel=a&channel=b&_since=earliest,earliest", "give it once, by itself"),
        ("GET /a?_wait=1&_durable=d&_since=latest", "or 'earliest'"),
        ("GET /-/channels/a/history?_since=latest", "or 'earliest'"),
    ],
)
def test_what_is_refused(daemon: Daemon, target: str, says: str) -> None:
    method, _, path = target.partition(" ")
    for _ in range(2):
        status, _, body = daemon.request(method, path, "1" if method == "POST" else None, JSON)
        assert status == 400 and says in json.loads(body)["detail"]


def test_what_libraries_add_is_ignored(daemon: Daemon, channel: str) -> None:
    (cursor,) = post(daemon, channel, 1)
    for path in (f"/{channel}?_=123&_last=1&_wait=5", f"/-/channels/{channel}/history?_=123"):
        assert daemon.json(path)["messages"][0]["cursor"] == cursor
    assert daemon.request("POST", f"/{channel}?_=123", "2", JSON)[0] == 200


def test_a_fraction_of_a_second(daemon: Daemon, channel: str) -> None:
    assert daemon.request("GET", f"/{channel}?_wait=0.05")[0] == 204
    assert daemon.request("GET", f"/{channel}", None, {"Prefer": "wait=0"})[0] == 204


@pytest.mark.parametrize("name", ["lastEventId", "evs_last_event_id", "last_event_id", "Last-Event-ID"])
def test_what_came_last_by_the_query(daemon: Daemon, channel: str, name: str) -> None:
    """Libraries that can't set a header say so; like the header, it goes before ``_since``."""
    first, _ = post(daemon, channel, 1, 2)
    with Stream(daemon, f"/{channel}?_since=earliest&{name}={first}") as stream:
        assert stream.value() == 2
        post(daemon, channel, 3)
        assert stream.value() == 3
    (other,) = post(daemon, f"{channel}.b", 1)
    path = f"/-/subscribe?channel={channel}&channel={channel}.b&{name}={first},{other}"
    assert [message["data"] for message in daemon.json(f"{path}&_wait=5")["messages"]] == [2, 3]
    with Stream(daemon, f"/{channel}?{name}=") as stream:
        post(daemon, channel, {"a": 4})
        assert stream.value() == {"a": 4}, "the first time there is none"
    with Stream(daemon, f"/{channel}?{name}=x") as stream:
        post(daemon, channel, {"a": 5}, {name: "x"})
        assert stream.value() == {name: "x"}, "what is no cursor is a filter"


def test_filters_by_any_name(daemon: Daemon, channel: str) -> None:
    with (
        Stream(daemon, f"/{channel}?_filter.last=10&_filter._odd=a") as stream,
        Stream(daemon, f"/-/subscribe?channel={channel}&_filter.channel=x") as other,
    ):
        post(daemon, channel, {"last": 10}, {"last": 10, "_odd": "a"}, {"channel": "x"})
        assert stream.value() == {"last": 10, "_odd": "a"}
        assert other.value() == {"channel": "x"}


def test_members_of_commands(daemon: Daemon, channel: str) -> None:
    assert set(get_args(Command)) == multiplex._DO.keys(), "something that a command may ask for is never done"
    with Client(daemon) as client:
        for command, says in (
            ({"cmd": "subscribe", "channel": channel, "sinc": "earliest"}, "did you mean since?"),
            ({"cmd": "subscribe", "channel": channel, "filter": {"a": 1}}, "did you mean filters?"),
            ({"cmd": "publish", "channel": channel, "data": 1, "idempotency": "k"}, "publish has no 'idempotency'"),
            ({"cmd": "ping", "now": 1}, "ping has no 'now'"),
            ({"cmd": "subscrbe", "channel": channel}, "did you mean subscribe?"),
            ({"cmd": "subscribe", "channel": channel, "since": "latest"}, "or 'earliest'"),
        ):
            error = client.ask(**command)["error"]
            assert error["code"] == 400 and says in error["message"]
        assert "error" not in client.ask(cmd="subscribe", channel=channel, since="earliest", filters={"sinc": 1})


def test_members_of_what_is_published_to_many(daemon: Daemon, channel: str) -> None:
    status, _, body = daemon.post_json("/-/publish", {"channel": [channel], "data": 1})
    assert status == 400 and b"did you mean channels?" in body
