"""Filters with operators, paths and attributes, on each way to ask for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.daemons import Daemon, Stream, post, running
from tests.multiplex import Client
from tests.tokens import JWT_KEYS, bearer, token

SENT: list[Any] = [
    {"n": 5}, {"n": 10, "order": {"status": "paid"}}, {"n": "12", "order": {"status": "open"}}, [10],
    {"n": 10.5, "order.status": "paid", "order": {"status": "open"}}, {"last": True, "n": 99, "order": {"status": ""}},
]  # fmt: skip
ALL = range(6)
# Queries, the same as an object, and the messages that they let through.
ASKED: dict[str, tuple[dict[str, Any], list[int]]] = {
    "n>=10": ({"n>=": 10}, [1, 4, 5]),
    "n>10": ({"n>": 10}, [4, 5]),
    "n%3E10=": ({"n>": [10]}, [4, 5]),
    "n<=10": ({"n<=": "10"}, [0, 1]),
    "n<10": ({"n<": 10.0}, [0]),
    "n>=10&n<11": ({"n>=": 10, "n<": 11}, [1, 4]),
    "n!=10": ({"n!=": 10}, [0, 2, 4, 5]),
    "n!=10&n!=5": ({"n!=": [10, 5]}, [2, 4, 5]),
    "order": ({"order!=": []}, [1, 2, 4, 5]),
    "order.status=paid": ({"order.status": "paid"}, [1, 4]),
    "_filter.order.status=paid&n%3E10": ({"order.status": ["paid"], "n>": 10}, [4]),
    "order.status=": ({"order.status": ""}, [5]),
}


@pytest.fixture(scope="module")
def sent(daemon: Daemon) -> str:
    assert len(post(daemon, "orders", *SENT)) == len(SENT)
    return "orders"


@pytest.mark.parametrize("query", ASKED)
def test_queries(daemon: Daemon, sent: str, query: str) -> None:
    expected = [SENT[at] for at in ASKED[query][1]]
    for path in (f"/{sent}?_since=earliest&_wait=0&{query}", f"/-/channels/{sent}/history?{query}"):
        assert [message["data"] for message in daemon.json(path)["messages"]] == expected
    with Stream(daemon, f"/live?{query}") as stream:
        post(daemon, "live", *SENT)
        assert [stream.value() for _ in expected] == expected


@pytest.mark.parametrize("query", ASKED)
def test_commands(daemon: Daemon, sent: str, query: str) -> None:
    filters, passing = ASKED[query]
    expected = [SENT[at] for at in passing]
    with Client(daemon) as client:
        assert "error" not in client.ask(cmd="subscribe", channel=sent, filters=filters, since="earliest")
        assert [client.push()["data"] for _ in expected] == expected
        page = client.ask(cmd="history", channel=sent, filters=filters)
        assert [message["data"] for message in page["messages"]] == expected


def test_a_session_has_its_filters_again(daemon: Daemon, channel: str) -> None:
    filters = {"n>=": 2, "order.status!=": ["x"], "flag!=": []}
    with Client(daemon) as first:
        session = first.ask(cmd="session")["session"]
        first.ask(cmd="subscribe", channel=channel, filters=filters)
    wanted = {"n": 2, "order": {"status": "y"}, "flag": 0}
    with Client(daemon) as second:
        assert channel in second.ask(cmd="resume", session=session)["subscriptions"]
        post(daemon, channel, {**wanted, "n": 1}, {"n": 3}, {**wanted, "order": {"status": "x"}}, wanted)
        assert second.push()["data"] == wanted


@pytest.mark.parametrize(
    "query",
    ["n>=x", "n>", "n<=", "n>1&n>2", "a..b=1", ".a=1", "a.=1", ".", "=1", ".".join("a" * 17) + "=1", "_event>=1",
     "_tag.=1", "_evnt=1"],
)  # fmt: skip
def test_bad_filters_are_refused(daemon: Daemon, query: str) -> None:
    for path in (f"/a?_wait=0&{query}", f"/-/channels/a/history?{query}"):
        status, _, body = daemon.request("GET", quote(path, safe="/?&=._"))
        assert status == 400 and json.loads(body)["detail"], path


@pytest.mark.parametrize(
    "filters",
    [{"n>=": "x"}, {"n>=": True}, {"n<": []}, {"n<": [1, 2]}, {"a..b": 1}, {"": 1}, {">=": 1}, {"_event<": 1},
     {"n": []}, {"n": {}}],
)  # fmt: skip
def test_bad_filters_of_commands_are_refused(daemon: Daemon, filters: Any) -> None:
    with Client(daemon) as client:
        assert client.code(cmd="subscribe", channel="a", filters=filters) == 400


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("guarded") / "node", jwt_keys=JWT_KEYS)


def test_a_token_narrows_what_is_asked_for(guarded: Daemon, channel: str) -> None:
    entry = {"channel": "*", "filters": {"n>=": 10, "order.status!=": "open", "order.status": ["paid", "open"]}}
    credential = bearer(token(subscribe=[entry], publish=["*"]))
    body = "\n".join(map(json.dumps, SENT))
    guarded.request("POST", f"/{channel}", body, {"Content-Type": "application/x-ndjson", **credential})
    for query, passing in (("", [1, 4]), ("n>=0", [1, 4]), ("n>=10.5", [4]), ("n<10", []), ("order.status!=paid", [])):
        path = f"/{channel}?_since=earliest&_wait=0&{query}"
        status, _, answer = guarded.request("GET", path, None, credential)
        messages = [message["data"] for message in json.loads(answer)["messages"]] if status == 200 else []
        assert messages == [SENT[at] for at in passing], query
    for bad in ({"n>=": "x"}, {"a..b": 1}):
        wrong = bearer(token(subscribe=[{"channel": "*", "filters": bad}]))
        assert guarded.request("GET", f"/{channel}?_wait=0", None, wrong)[0] == 401
