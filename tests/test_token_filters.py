"""Tokens with filters: these hold on each way to get messages, whatever else the client asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.daemons import Daemon, Stream, running
from tests.tokens import JWT_KEYS, bearer, on, token

FILTERS = [{"channel": "game.*", "filters": {"team": ["red", "both"]}}]
RED = token(subscribe=FILTERS, publish=["*"])
# The last of these is what lets a reader wait for the end.
SENT = [{"team": "blue", "n": 1}, {"team": "red", "n": 2}, {"n": 3}, [4], {"team": "blue", "n": 5}, {"team": "both"}]
GOT = [{"team": "red", "n": 2}, {"team": "both"}]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("filters") / "node", workers=2, jwt_keys=JWT_KEYS)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    return "game." + "".join(each if each.isalnum() else "-" for each in request.node.name)


def publish(node: Daemon, channel: str, values: list[Any] = SENT) -> None:
    body = "\n".join(map(json.dumps, values))
    headers = {"Content-Type": "application/x-ndjson", **bearer(token(publish=["*"]))}
    assert node.request("POST", f"/{channel}", body, headers)[0] == 200


def socket(node: Daemon, path: str = "/-/websocket", credential: str = RED) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{node.port}{path}", proxy=None, additional_headers=bearer(credential))


def command(found: ClientConnection, **sent: Any) -> dict[str, Any]:
    """The reply to a command."""
    found.send(json.dumps({"id": 1, **sent}))
    while (reply := json.loads(found.recv(20))).get("id") != 1:
        pass
    assert isinstance(reply, dict)
    return reply


def data(found: ClientConnection, count: int) -> list[Any]:
    """So many next messages."""
    got: list[Any] = []
    while len(got) < count:
        said = json.loads(found.recv(20))
        got += [said["data"]] if "data" in said else []
    return got


@pytest.mark.parametrize("target", ["/{}", "/{}?_since=earliest", "/game.*", "/-/subscribe?channel={}&channel=game.x"])
def test_a_stream(node: Daemon, channel: str, target: str) -> None:
    before = "_since" in target
    if before:
        publish(node, channel)
    with Stream(node, target.format(channel), bearer(RED)) as stream:
        if not before:
            publish(node, channel)
        values = [stream.value() for _ in GOT]
    assert [value["data"] if "cursor" in value else value for value in values] == GOT


def test_a_socket(node: Daemon, channel: str) -> None:
    with socket(node, f"/{channel}") as found:
        publish(node, channel)
        assert [json.loads(found.recv(20)) for _ in GOT] == GOT


def test_polls(node: Daemon, channel: str) -> None:
    publish(node, channel)
    for query in ("_since=earliest", "_last=10"):
        status, _, answer = node.request("GET", f"/{channel}?{query}&_wait=0", headers=bearer(RED))
        assert (status, [item["data"] for item in json.loads(answer)["messages"]]) == (200, GOT)


def test_a_page_of_history(node: Daemon, channel: str) -> None:
    publish(node, channel)
    got, target = [], f"/-/channels/{channel}/history?_limit=1"
    after = ""
    for _ in SENT:
        status, _, answer = node.request("GET", target + after, headers=bearer(RED))
        page = json.loads(answer)
        assert status == 200
        got += [item["data"] for item in page["messages"]]
        if not page["more"]:
            break
        after = f"&_since={page['next']}"
    assert got == GOT and not page["more"]
    _, _, answer = node.request("POST", f"/{channel}", "{}", {"Content-Type": "application/json", **bearer(RED)})
    back, before = [], json.loads(answer)["cursor"]
    for _ in SENT:
        _, _, answer = node.request("GET", f"{target}&_before={before}", headers=bearer(RED))
        page = json.loads(answer)
        back += [item["data"] for item in page["messages"]]
        if not page["more"]:
            break
        before = page["next"]
    assert back == GOT[::-1]


def test_commands(node: Daemon, channel: str) -> None:
    with socket(node) as found:
        assert command(found, cmd="subscribe", channel=channel)["channel"] == channel
        publish(node, channel)
        assert data(found, 2) == GOT
        page = command(found, cmd="history", channel=channel)
        assert [item["data"] for item in page["messages"]] == GOT
        assert command(found, cmd="unsubscribe", channel=channel)
        assert command(found, cmd="subscribe", channel=channel, since="earliest")["recovered"] is True
        assert data(found, 2) == GOT
        assert command(found, cmd="subscribe", channel="elsewhere")["error"]["code"] == 403
        assert command(found, cmd="subscribe", channel="*")["error"]["code"] == 403
        assert command(found, cmd="subscribe", channel=channel, durable="d")["error"]["code"] == 403


def test_its_filters_and_the_clients(node: Daemon, channel: str) -> None:
    """Both hold. Where they contradict each other nothing comes, and others get theirs."""
    with (
        Stream(node, f"/{channel}?team=blue", bearer(RED)),
        Stream(node, f"/{channel}?team=green", bearer(RED)),
        Stream(node, f"/{channel}?team=red&team=blue", bearer(RED)) as narrow,
    ):
        publish(node, channel, [*SENT, {"team": "red", "n": 7}])
        assert [narrow.value(), narrow.value()] == [GOT[0], {"team": "red", "n": 7}]
    soon = bearer(token(subscribe=FILTERS, lasts=-8))  # the leeway is 10 s
    with Stream(node, f"/{channel}?team=blue", soon) as nothing, Stream(node, f"/{channel}", bearer(RED)) as all_:
        publish(node, channel)
        assert [all_.value(), all_.value()] == GOT
        assert nothing.line() == b"", "the end, and nothing before it"


def test_the_longest_entry_counts_and_one_without_filters_before_all(node: Daemon, channel: str) -> None:
    blue = {"channel": channel, "filters": {"team": "blue"}}
    for more, wanted in (([], SENT[0]), (["game.*"], SENT[0]), ([channel], SENT[0])):
        listed = [{"channel": "game.*", "filters": {"team": "red"}}, blue, *more]
        with Stream(node, f"/{channel}", bearer(token(subscribe=listed))) as stream:
            publish(node, channel)
            assert [stream.value(), stream.value()] == ([wanted, SENT[1]] if more else [wanted, SENT[4]])


def test_a_pattern_brings_no_messages_past_the_filters_of_a_longer_entry(node: Daemon, channel: str) -> None:
    wide, narrow = ({"channel": name, "filters": {"team": "red"}} for name in ("game.*", channel))
    other = {"channel": channel, "filters": {"n": 1}}
    for listed, status in (([wide, other], 403), ([wide, other, channel], 200), ([wide, narrow], 200)):
        with Stream(node, "/game.*", bearer(token(subscribe=listed))) as stream:
            assert stream.status == status
    with socket(node, credential=token(subscribe=[wide, other])) as found:
        assert command(found, cmd="subscribe", channel="game.*")["error"]["code"] == 403
        assert "error" not in command(found, cmd="subscribe", channel=channel + ".*")


def test_a_session_gets_the_filters_of_the_token_that_resumes_it(node: Daemon, channel: str) -> None:
    with socket(node) as found:
        session = command(found, cmd="session")["session"]
        command(found, cmd="subscribe", channel=channel)
        publish(node, channel)
        assert data(found, 2) == GOT
    publish(node, channel)
    blue = token(subscribe=[{"channel": "game.*", "filters": {"team": "blue"}}])
    with socket(node, credential=blue) as found:
        reply = command(found, cmd="resume", session=session)
        assert channel in reply["subscriptions"]
        assert all(value["team"] == "blue" for value in data(found, 2))


def test_another_tokens_filters_end_what_had_others(node: Daemon, channel: str) -> None:
    same = token(subscribe=[{"channel": "game.*", "filters": {"team": ["both", "red"]}}], info="another")
    blue = token(subscribe=[{"channel": "game.*", "filters": {"team": ["blue"]}}])
    with socket(node) as found:
        command(found, cmd="subscribe", channel=channel)
        command(found, cmd="subscribe", channel="game.other", filters={"team": "red"})
        assert command(found, cmd="auth", token=same)["expires"] > 0
        publish(node, channel)
        assert data(found, 2) == GOT
        found.send(json.dumps({"id": 2, "cmd": "auth", "token": blue}))
        told = [json.loads(found.recv(20)) for _ in range(3)]
        assert sorted(each["channel"] for each in told if each.get("ended")) == sorted([channel, "game.other"])
        command(found, cmd="subscribe", channel=channel)
        publish(node, channel)
        assert data(found, 2) == [SENT[0], SENT[4]]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"channel": "a"}, "filters"),
        ({"channel": "a", "filters": {"b": "c"}, "more": 1}, "not like"),
        ({"channel": "a", "filters": ["b"]}, "object"),
        ({"channel": "a", "filters": {"b": []}}, "no value"),
        ({"channel": "a", "filters": {"b": [{}]}}, "strings"),
        ({"channel": "a", "filters": {"b": [str(n) for n in range(101)]}}, "at most"),
        ({"channel": 1, "filters": {"b": "c"}}, "no text"),
        ({"channel": "a\n", "filters": {"b": "c"}}, "no channel"),
    ],
)
def test_entries_that_mean_nothing(node: Daemon, entry: Any, why: str) -> None:
    status, _, answer = node.request("GET", "/a", headers=bearer(token(subscribe=["b", entry])))
    assert status == 401 and why in json.loads(answer)["detail"]


def test_only_subscribing_and_reading_can_be_filtered(node: Daemon) -> None:
    entry = {"channel": "a", "filters": {"b": "c"}}
    status, _, answer = node.request("GET", "/a", headers=bearer(token(**{**on("*"), "publish": [entry]})))
    assert status == 401 and "its publish" in json.loads(answer)["detail"]
    status, _, answer = node.request("GET", "/a", headers=bearer(token(subscribe=[entry, entry])))
    assert status == 401 and "twice" in json.loads(answer)["detail"]
