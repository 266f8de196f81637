"""Clients of dialects about which a delegate is asked: what their tokens don't settle."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.application import Application
from tests.callers import JSON, ONLY_ELSEWHERE, Door, judge
from tests.collecting import Collecting
from tests.daemons import Daemon, wait_for
from tests.dialects import streams
from tests.dialects.cable import EXTENDED, PLAIN, Cable, public, turbo
from tests.dialects.centrifuge_client import Client as Centrifuge
from tests.dialects.test_permits import (
    CABLE,
    CENTRIFUGE_PUBLISHING,
    CENTRIFUGE_READING,
    MAKING,
    READING,
    SETTINGS,
    WRITING,
    by_emulation,
    history,
    named,
    publish,
)
from tests.test_leaving import DELEGATE
from tests.tokens import KEY, bearer, token

RED = {"team": ["red"]}
TEAMS = [{"team": team, "n": number} for number, team in enumerate(["red", "blue", "red"])]
REDS = [each for each in TEAMS if each["team"] == "red"]


class Rules:
    """The decisions of the application, by the names of channels and the cookie of the client. ``hold`` keeps answers
    about channels with "slow" in their names; ``now`` are answers that have changed, by channel."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.hold.set()
        self.now: dict[str, Any] = {}

    def decide(self, question: dict[str, Any]) -> Any:
        channel, cookie = question.get("channel", ""), question["client"]["headers"].get("cookie", "")
        if question["event"] == "connect":
            if cookie == "away":
                return 500, {}
            return {"allow": cookie != "bad", "reason": "not you", "info": {"from": "the delegate"} if cookie else None}
        if channel in self.now:
            return self.now[channel]
        if "slow" in channel:
            self.hold.wait(20)
        if "away" in channel:
            return 500, {}
        if question["event"] == "publish" and "changed" in channel:
            return {"allow": True, "data": {"was": question["data"]}}
        told: dict[str, Any] = {"allow": "allowed" in channel, "status": 401 if "to-log-in" in channel else 403}
        if "filtered" in channel:
            told["filters"] = RED
        if "for-a-while" in channel:
            told["ttl"] = 1
        return told


@pytest.fixture(scope="module")
def rules() -> Rules:
    return Rules()


@pytest.fixture(scope="module")
def application(rules: Rules) -> Iterator[Application]:
    with Application(rules.decide) as found:
        yield found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, application: Application) -> Iterator[Daemon]:
    found = Daemon(
        tmp_path_factory.mktemp("delegating"), workers=1, keepalive=1, max_outbox=1 << 20,
        channels={"*": {}, "closed.*": {"subscribe": "nobody", "publish": "nobody", "history": "nobody"}},
        delegate={"url": application.url, "timeout": 30, "headers": ["cookie"]}, **SETTINGS,
    )  # fmt: skip
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()


def cookie(value: str) -> dict[str, Any]:
    return {"additional_headers": {"Cookie": value}}


DELEGATED: dict[str, tuple[str | None, int]] = {
    "allowed": (None, 200),
    "allowed besides a token": (token(**ONLY_ELSEWHERE), 200),
    "refused": (None, 403),
    "to log in": (None, 403),
    "refused besides a token": (token(**ONLY_ELSEWHERE), 403),
    "away": (None, 503),
}
# These are settled without a question.
SETTLED: dict[str, tuple[str | None, int]] = {
    "allowed but with nonsense": ("nonsense", 401),
    "right": (token(), 200),
}
# A delegate is not asked about these: callers without a token for them are refused.
UNASKED = ("presence", "presence_stats", "whisper", "join")


def told(got: int) -> int:
    """The status of an outcome: who can't be answered now is told to come back."""
    return 503 if got == 100 else got


@pytest.mark.parametrize("caller", DELEGATED | SETTLED)
@pytest.mark.parametrize("door", CENTRIFUGE_PUBLISHING | CENTRIFUGE_READING)
def test_centrifuge(node: Daemon, application: Application, door: str, caller: str) -> None:
    channel = named("centrifuge", door, caller)
    credential, status = (DELEGATED | SETTLED)[caller]
    if door in CENTRIFUGE_READING:
        publish(node, channel)
    if door in UNASKED and caller in DELEGATED:
        status = 403
    do: Door = (CENTRIFUGE_PUBLISHING | CENTRIFUGE_READING)[door]
    judge(told(do(node, channel, credential)), status)
    asked = [each for event in ("subscribe", "publish") for each in application.of(event, channel)]
    assert bool(asked) == (caller in DELEGATED and door not in UNASKED)
    sub = None if credential is None else "ann"
    assert all(each["client"]["sub"] == sub for each in asked)
    if door in CENTRIFUGE_PUBLISHING:
        assert bool(history(node, channel)) == (status == 200), "a refusal comes before any effect"


@pytest.mark.parametrize("caller", DELEGATED | SETTLED)
@pytest.mark.parametrize("door", ["subscribe", "subscribe with history", "history", "whisper", "join"])
def test_cable(node: Daemon, application: Application, door: str, caller: str) -> None:
    channel = named("cable", door, caller)
    credential, status = (DELEGATED | SETTLED)[caller]
    publish(node, channel)
    if caller == "away":
        with Cable(node, EXTENDED) as client:
            client.send("subscribe", public(channel))
            assert client.next() == {"type": "disconnect", "reason": "unavailable", "reconnect": True}
        return
    got = CABLE[door](node, channel, credential)
    if door == "join" and caller in DELEGATED:
        status = 403  # a delegate is not asked who may be present
    judge(got, status)
    asked = application.of("subscribe", channel)
    assert bool(asked) == (caller in DELEGATED) and all(each["history"] for each in asked)
    assert not application.of("publish", channel)


def test_what_is_for_nobody_or_signed_is_not_asked(node: Daemon, application: Application) -> None:
    with Centrifuge(node) as client, Cable(node, EXTENDED) as cable, Cable(node, PLAIN) as plain:
        client.connected()
        for action in ("subscribe", "publish", "history"):
            told = client.ask(**{action: {"channel": "closed.allowed", "data": 1}})
            assert told["error"]["code"] == 103
        cable.send("subscribe", public("closed.allowed"))
        assert cable.next()["type"] == "reject_subscription"
        cable.subscribe(turbo("refused.signed"))
        plain.subscribe(public("allowed.plain"))
    assert not application.of("subscribe", "closed.allowed") and not application.of("publish", "closed.allowed")
    assert not application.of("subscribe", "refused.signed")
    assert [each["history"] for each in application.of("subscribe", "allowed.plain")] == [False]
    assert not application.of("subscribe", "")


@pytest.mark.parametrize("caller", DELEGATED | SETTLED)
@pytest.mark.parametrize("door", WRITING | MAKING | READING)
def test_streams(node: Daemon, application: Application, door: str, caller: str) -> None:
    channel = named("streams", door, caller)
    credential, status = (DELEGATED | SETTLED)[caller]
    if caller == "to log in":
        status = 401
    if door == "delete" and caller in DELEGATED:
        status = 401 if credential is None else 403
    if door not in MAKING:
        streams.put(node, channel, "a", **bearer(KEY))
    judge((WRITING | MAKING | READING)[door](node, channel, credential), status)
    event = "subscribe" if door in READING else "publish"
    asked = [each for each in application.of(event, channel) if each["client"]["sub"] != "server"]
    assert bool(asked) == (caller in DELEGATED and door != "delete")
    left = streams.read(node, channel, **bearer(KEY))
    if status != 200:
        untouched = (404, b"") if door in MAKING else (200, b"a")
        assert (left.status, left.body if left.status == 200 else b"") == untouched and not left.closed


def test_what_an_answer_says_of_streams(node: Daemon, application: Application) -> None:
    made = {"Content_Type": "application/json"}
    name = "allowed.changed.stream"
    assert streams.ask(node, "PUT", name, **made).status == 201
    assert application.of("publish", name)[0]["data"] is None
    assert streams.add(node, name, "[1, 2]", "application/json").status == 204
    assert json.loads(streams.read(node, name, **bearer(KEY)).body) == [{"was": 1}, {"was": 2}]
    for query in ("?offset=-1", "?offset=-1&live=long-poll", "?offset=-1&live=sse"):
        streams.ask(node, "PUT", "allowed.filtered.stream", "1", **made)
        answer = streams.ask(node, "GET", "allowed.filtered.stream" + query)
        assert answer.status == 403 and b"whole" in answer.body, query
    fork = {"Stream_Forked_From": "/v1/stream/refused.source", "Content_Type": "text/plain"}
    streams.put(node, "refused.source", "a", **bearer(KEY))
    assert streams.ask(node, "PUT", "allowed.fork", **fork).status == 403
    assert streams.read(node, "allowed.fork", **bearer(KEY)).status == 404


def test_a_stream_read_as_events_is_a_connection(node: Daemon, rules: Rules, application: Application) -> None:
    name = "allowed.for-a-while.events"
    streams.put(node, name, "a", **bearer(KEY))
    with streams.Events(node, name, headers={"Cookie": "bad"}) as refused:
        assert refused.status == 403
    with streams.Events(node, name, headers={"Cookie": "good"}) as reader:
        assert reader.pair()[0] == "a"
        rules.now[name] = {"allow": False}
        while reader.event() is not None:
            pass
    wait_for(lambda: told_of(application, "unsubscribe", "good"), "it is told")
    wait_for(lambda: told_of(application, "disconnect", "good"), "it is told")
    with streams.Events(node, "allowed.none", headers={"Cookie": "none"}) as refused:
        assert refused.status == 404
    wait_for(lambda: told_of(application, "disconnect", "none"), "it is told")


def test_an_answer_that_changes_before_a_stream_is_read_counts(
    node: Daemon, rules: Rules, application: Application
) -> None:  # fmt: skip
    name = "allowed.for-a-while.late"
    streams.put(node, name, "a", **bearer(KEY))
    ended = threading.Event()

    def read() -> None:
        with streams.Events(node, name, headers={"Cookie": "late"}) as reader:
            while reader.status == 200 and reader.event() is not None:
                pass
        ended.set()

    history = node.workers()["history"]
    os.kill(history, signal.SIGSTOP)
    try:
        threading.Thread(target=read, daemon=True).start()
        wait_for(lambda: application.of("subscribe", name), "the delegate is asked")
        rules.now[name] = {"allow": False}
        wait_for(lambda: len(application.of("subscribe", name)) > 1, "the delegate is asked again")
    finally:
        os.kill(history, signal.SIGCONT)
    assert ended.wait(10)


def told_of(application: Application, event: str, cookie: str) -> bool:
    return any(each["client"]["headers"].get("cookie") == cookie for each in application.of(event))


# Connections.


def test_who_may_connect(node: Daemon, application: Application) -> None:
    with Centrifuge(node, **cookie("good")) as client:
        own = client.connected()["client"]
        client.subscribed("allowed.info")
        client.ask(publish={"channel": "allowed.info", "data": 1})
        assert client.push()["pub"]["info"] == {"client": own, "conn_info": {"from": "the delegate"}}
    wait_for(lambda: [each for each in application.of("disconnect") if each["client"]["id"] == own], "it is told")
    wait_for(lambda: application.of("unsubscribe", "allowed.info"), "it is told")
    assert [each["client"]["id"] for each in application.of("unsubscribe", "allowed.info")] == [own]
    with Centrifuge(node, **cookie("bad")) as client:
        client.send('{"id": 1, "connect": {}}')
        assert client.closed() == (3507, "permission denied")
    with Centrifuge(node, **cookie("away")) as client:
        assert client.ask(connect={})["error"]["code"] == 100
        assert client.closed()[0] == 3000
    with Cable(node, EXTENDED, headers={"Cookie": "bad"}) as cable:
        assert cable.welcome == {"type": "disconnect", "reason": "unauthorized", "reconnect": False}
    with Cable(node, EXTENDED, headers={"Cookie": "away"}) as cable:
        assert cable.welcome == {"type": "disconnect", "reason": "server_restart", "reconnect": True}
    with Cable(node, EXTENDED, headers={"Cookie": "good"}) as cable:
        assert cable.welcome["type"] == "welcome"
        for identifier in (public("allowed.b"), json.dumps({"channel": "$pubsub", "stream_name": "allowed.b", "n": 1})):
            cable.subscribe(identifier)
        cable.send("unsubscribe", public("allowed.b"))
        cable.settle()
        assert not application.of("unsubscribe", "allowed.b"), "the other one is still there"
    wait_for(lambda: application.of("unsubscribe", "allowed.b"), "it is told")
    assert len(application.of("unsubscribe", "allowed.b")) == 1


# What an answer says besides.


def test_messages_that_are_changed(node: Daemon) -> None:
    with Centrifuge(node) as client:
        client.connected()
        client.subscribed("allowed.changed")
        assert client.ask(publish={"channel": "allowed.changed", "data": 1})["publish"] == {}
        assert client.push()["pub"]["data"] == {"was": 1}


def test_filters_of_answers_hold(node: Daemon) -> None:
    name = "allowed.filtered"
    for value in TEAMS:
        publish(node, name, value)
    with Centrifuge(node) as client, Cable(node, EXTENDED) as cable:
        client.connected()
        told = client.ask(history={"channel": name, "limit": 10})["history"]["publications"]
        assert [each["data"] for each in told] == REDS
        told = client.subscribed(name, recover=True)
        assert told["recovered"] and [each["data"] for each in told["publications"]] == REDS
        cable.send("subscribe", public(name), history={"since": 1})
        assert cable.next()["type"] == "confirm_subscription"
        assert [cable.message() for _ in REDS] == REDS
        assert cable.next()["type"] == "confirm_history"
        cable.send("history", public(name), history={"since": 1})
        assert [cable.message() for _ in REDS] == REDS
        assert cable.next()["type"] == "confirm_history"
        for value in TEAMS:
            publish(node, name, value)
        assert [client.push()["pub"]["data"] for _ in REDS] == REDS
        assert [cable.message() for _ in REDS] == REDS


@pytest.mark.parametrize("answer", ["refused", "narrowed"])
def test_an_answer_whose_time_is_over(node: Daemon, rules: Rules, answer: str) -> None:
    name = f"allowed.for-a-while.{answer}"
    with Centrifuge(node) as client, Cable(node, EXTENDED) as cable:
        client.connected()
        client.subscribed(name)
        cable.subscribe(public(name))
        narrowed = {"allow": True, "filters": RED}
        rules.now[name] = narrowed if answer == "narrowed" else {"allow": False, "reason": "no more"}
        ended = client.push()
        assert (ended["channel"], ended["unsubscribe"]["code"]) == (name, 2500 if answer == "narrowed" else 2000)
        if answer == "narrowed":
            assert cable.next() == {"type": "disconnect", "reason": "remote", "reconnect": True}
        else:
            assert cable.next() == {"type": "reject_subscription", "identifier": public(name)}
            cable.settle()


# While the application thinks.


def test_commands_keep_their_order_and_hold_up_nobody(node: Daemon, rules: Rules, application: Application) -> None:
    rules.hold.clear()
    try:
        with ExitStack() as stack:
            client, other = (stack.enter_context(Centrifuge(node)) for _ in range(2))
            cable, another = (stack.enter_context(Cable(node, EXTENDED)) for _ in range(2))
            client.connected()
            other.connected()
            sent = [
                client.command(publish={"channel": "allowed.slow", "data": 1}),
                client.command(subscribe={"channel": "allowed.slow.too"}),
                client.command(publish={"channel": "allowed.quick", "data": 2}),
                client.command(history={"channel": "allowed.quick", "limit": 10}),
            ]
            cable.send("subscribe", public("allowed.slow.cable"))
            cable.send("subscribe", turbo("signed"))
            cable.send("ping")
            wait_for(lambda: application.of("publish", "allowed.slow"), "it is asked")
            wait_for(lambda: application.of("subscribe", "allowed.slow.cable"), "it is asked")
            assert "subscribe" in other.ask(subscribe={"channel": "allowed.other"})
            another.subscribe(public("allowed.other"))
            other.pinged()
            other.pinged()  # a second has gone by, and the first client's pongs wait behind its commands
            assert not history(node, "allowed.slow") and not history(node, "allowed.quick")
            rules.hold.set()
            replies = [client.reply(number) for number in sent]
            assert replies[0]["publish"] == {} and "subscribe" in replies[1] and replies[2]["publish"] == {}
            assert [each["data"] for each in replies[3]["history"]["publications"]] == [2]
            kinds = [cable.next() for _ in range(3)]
            assert [each["type"] for each in kinds] == ["confirm_subscription"] * 2 + ["pong"]
            assert kinds[0]["identifier"] == public("allowed.slow.cable")
    finally:
        rules.hold.set()


def test_who_goes_while_it_is_asked_leaves_nothing(node: Daemon, rules: Rules, application: Application) -> None:
    rules.hold.clear()
    name = "allowed.slow.gone"
    try:
        with Centrifuge(node) as client, Cable(node, EXTENDED) as cable:
            client.connected()
            client.command(subscribe={"channel": name})
            cable.send("subscribe", public(f"{name}.too"))
            wait_for(lambda: application.of("subscribe", name), "it is asked")
            wait_for(lambda: application.of("subscribe", f"{name}.too"), "it is asked")
    finally:
        rules.hold.set()
    headers = bearer(KEY)

    def left() -> dict[str, Any]:
        found = json.loads(node.request("GET", "/-/channels", headers=headers)[2])["channels"]
        return {each: row for each, row in found.items() if each.startswith(name) and row["subscribers"]}

    wait_for(lambda: not left(), "nothing is left")


def test_no_cycle_is_left(tmp_path: Path) -> None:
    """Connections leave no cycle that a delegate has let in, has refused, or is asked about as they go."""
    node = Collecting(tmp_path, DELEGATE, channels={"*": {"manage": "anyone"}}, **SETTINGS)
    streams.put(node, "s", "a", **bearer(KEY))

    def live(number: int) -> None:
        with Centrifuge(node) as client, Cable(node, EXTENDED) as cable:
            client.connected()
            client.subscribed("a")
            client.ask(publish={"channel": "a", "data": number})
            client.ask(history={"channel": "a", "limit": 5})
            cable.subscribe(public("a"), history={"since": 1})
            if number % 2:
                client.command(subscribe={"channel": "b"})
                cable.send("subscribe", public("b"))
        assert by_emulation("/connection/http_stream", subscribe={"channel": "a"})(node, "a", None) == 200
        for query in ("?offset=-1", "?offset=-1&live=long-poll"):
            assert streams.ask(node, "GET", f"s{query}").status == 200
        assert streams.add(node, "s", "b").status == 204
        for name in ("s", "none"):
            with streams.Events(node, name) as reader:
                assert reader.status == (200 if name == "s" else 404)
        for path in ("/connection/websocket", "/cable"):
            assert node.request("GET", path)[0] in (400, 426), "it is no handshake"

    node.collected()
    for number in range(6):
        live(number)
    gone = ("centrifuge", "cable", "streams")
    wait_for(lambda: not any(node.metric("raiden_connections", transport=each) for each in gone), "all have gone")
    assert node.collected() == ""
    assert node.stop() == 0


def test_who_is_revoked_while_it_is_asked_is_let_out(node: Daemon, rules: Rules, application: Application) -> None:
    rules.hold.clear()
    try:
        with Centrifuge(node) as client, Cable(node, EXTENDED, jid=token("eve", **ONLY_ELSEWHERE)) as cable:
            client.connected(token=token("eve", **ONLY_ELSEWHERE))
            client.command(publish={"channel": "allowed.slow.eve", "data": 1})
            cable.send("subscribe", public("allowed.slow.eve"))
            wait_for(lambda: application.of("publish", "allowed.slow.eve"), "it is asked")
            wait_for(lambda: application.of("subscribe", "allowed.slow.eve"), "it is asked")
            manager = {**JSON, **bearer(KEY)}
            assert node.request("POST", "/-/revoke", '{"sub": "eve"}', manager)[0] == 200
            rules.hold.set()
            assert client.closed()[0] == 3500
            assert cable.next()["reason"] == "unauthorized"
            with pytest.raises(ConnectionClosed):
                cable.next()
    finally:
        rules.hold.set()
    assert not history(node, "allowed.slow.eve")
