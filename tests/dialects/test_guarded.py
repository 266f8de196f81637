"""What tokens and settings say of the dialects' clients, held while these last: filters, the end of tokens, revocations
on all nodes, rates, the audit log, origins, hosts, and the port for those who look after a node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Daemon, wait_for
from tests.dialects import streams
from tests.dialects.cable import EXTENDED, KEY, Cable, public, turbo
from tests.dialects.centrifuge_client import Client as Centrifuge
from tests.dialects.pusher_client import APP, call
from tests.dialects.pusher_client import Client as Pusher
from tests.dialects.test_permits import API_KEY, SETTINGS, publish
from tests.multiplex import two_nodes
from tests.stores import RedisServer
from tests.test_audit import lines
from tests.test_control_port import At
from tests.tokens import KEY as NODE_KEY
from tests.tokens import SECRET, bearer, token

JSON = {"Content-Type": "application/json"}
MANAGER = {**JSON, **bearer(NODE_KEY)}
RED = [{"channel": "*", "filters": {"team": "red"}}]
TEAMS = [{"team": team, "n": number} for number, team in enumerate(["red", "blue", "red", "green"])]
REDS = [each for each in TEAMS if each["team"] == "red"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(
        tmp_path_factory.mktemp("guarded"), workers=2, jwt_leeway=0, presence_linger=0.1,
        centrifuge_subscribers=["history", "presence"], **SETTINGS,
    )  # fmt: skip
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()


# Filters of tokens.


def data(publications: list[Any]) -> list[Any]:
    return [each["data"] for each in publications]


def test_filters_hold_for_centrifuge(node: Daemon, channel: str) -> None:
    for value in TEAMS:
        publish(node, channel, value)
    for claims in ({"subscribe": RED}, {"subscribe": RED, "channels": [channel]}):
        with Centrifuge(node) as client:
            mine = client.connected(token=token(**claims), subs={channel: {"recover": True, "offset": 0}})
            found = mine["subs"][channel] if "channels" in claims else client.subscribed(channel, recover=True)
            assert found["recovered"] and data(found["publications"]) == REDS
            told = client.ask(history={"channel": channel, "limit": 10})["history"]
            assert data(told["publications"]) == REDS, "a subscriber reads no more than it hears"
            for value in TEAMS:
                publish(node, channel, value)
            assert [client.push()["pub"]["data"] for _ in REDS] == REDS
            node.request("DELETE", f"/{channel}", headers=MANAGER)
            for value in TEAMS:
                publish(node, channel, value)


def test_filters_hold_for_cable(node: Daemon, channel: str) -> None:
    for value in TEAMS:
        publish(node, channel, value)
    with Cable(node, EXTENDED, jid=token(subscribe=RED)) as client:
        client.send("subscribe", public(channel), history={"since": 1})
        client.next()
        assert [client.message() for _ in REDS] == REDS
        assert client.next()["type"] == "confirm_history"
        for value in TEAMS:
            publish(node, channel, value)
        assert [client.message() for _ in REDS] == REDS
        client.settle()
    # A past with other filters than the subscription has is not sent.
    with Cable(node, EXTENDED, jid=token(subscribe=["*"], history=RED)) as client:
        client.send("subscribe", public(channel), history={"since": 1})
        assert [client.next()["type"] for _ in range(2)] == ["confirm_subscription", "reject_history"]


def test_joins_are_not_told_where_nobody_sees_who_is_there(start: Callable[..., Daemon]) -> None:
    node = start(channels={"*": {}, "unseen.*": {"presence": "nobody"}}, centrifuge_join_leave=True, **SETTINGS)
    with Centrifuge(node) as one, Centrifuge(node) as two:
        for client in (one, two):
            client.connected(token=token())
            client.subscribed("unseen.a")
        publish(node, "unseen.a")
        assert "pub" in one.push()


# The end of tokens, and of what they permit.


def test_another_token_of_a_connection_counts_for_its_subscriptions(node: Daemon, channel: str) -> None:
    kept, lost, narrowed, signed_for = (f"{channel}.{number}" for number in range(4))
    with Centrifuge(node) as client:
        client.connected(token=token(subscribe=["*"]))
        for name in (kept, lost, narrowed):
            client.subscribed(name)
        client.subscribed(signed_for, token=token(channel=signed_for))
        fewer = [kept, {"channel": narrowed, "filters": {"team": "red"}}]
        client.ask(refresh={"token": token(subscribe=fewer)})
        ended = {push["channel"]: push["unsubscribe"]["code"] for push in (client.push(), client.push())}
        assert ended == {lost: 2000, narrowed: 2500}
        publish(node, kept)
        publish(node, signed_for)
        assert {client.push()["channel"] for _ in range(2)} == {kept, signed_for}


def test_the_end_of_tokens(node: Daemon, channel: str) -> None:
    streams.put(node, channel, "a", **bearer(NODE_KEY))
    with ExitStack() as stack:
        cable = stack.enter_context(Cable(node, EXTENDED, jid=token(lasts=4, subscribe=["*"])))
        cable.subscribe(public(channel))
        reader = stack.enter_context(streams.Events(node, channel, headers=bearer(token(lasts=4))))
        reader.pair()
        assert cable.next() == {"type": "disconnect", "reason": "token_expired", "reconnect": False}
        assert cable.closed() == 1000
        while reader.event() is not None:
            pass
        poll = f"{channel}?offset=now&live=long-poll"
        assert streams.ask(node, "GET", poll, **bearer(token(lasts=3))).status == 401


@pytest.fixture
def nodes(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Daemon]]:
    channels = {"*": {"manage": "anyone"}}
    with two_nodes(tmp_path, redis_server.url, channels=channels, **SETTINGS) as found:
        yield found


@pytest.mark.parametrize("how", ["revoke", "disconnect", "of a channel"])
def test_all_nodes_end_what_clients_have(nodes: list[Daemon], how: str) -> None:
    """The clients are at one node, and the manager at the other; clients of other subjects stay."""
    one, two = nodes
    streams.put(one, "a", "a", **bearer(NODE_KEY))
    poll = "a?offset=now&live=long-poll"
    with ExitStack() as stack:

        def clients(user: str) -> tuple[Any, ...]:
            centrifuge = stack.enter_context(Centrifuge(one))
            centrifuge.connected(token=token(user))
            centrifuge.subscribed("a")
            cable = stack.enter_context(Cable(one, EXTENDED, jid=token(user, secret=SECRET)))
            cable.subscribe(turbo("a"))
            pusher = stack.enter_context(Pusher(one))
            pusher.sign_in(user)
            pusher.expect("pusher:signin_success")
            pusher.subscribe("private-a")
            reader = stack.enter_context(streams.Events(one, "a", headers=bearer(token(user))))
            reader.pair()
            return centrifuge, cable, pusher, reader

        mine, others = clients("ann"), clients("bob")
        asked: dict[str, Any] = {"sub": "ann"}
        for channel in ("a", "private-a") if how == "of a channel" else (None,):
            if channel is not None:
                asked["channel"] = channel
            path = "/-/revoke" if how == "revoke" else "/-/disconnect"
            assert two.request("POST", path, json.dumps(asked), MANAGER)[0] == 200
        centrifuge, cable, pusher, reader = mine
        if how == "of a channel":
            assert centrifuge.push()["unsubscribe"]["code"] == 2000
            assert cable.next()["type"] == "reject_subscription"
            assert pusher.expect("pusher:subscription_error")["channel"] == "private-a"
        else:
            assert centrifuge.closed()[0] == (3500 if how == "revoke" else 3503)
            reason = "unauthorized" if how == "revoke" else "remote"
            assert cable.next() == {"type": "disconnect", "reason": reason, "reconnect": False}
            assert pusher.close_code() == 4009
        while reader.event() is not None:
            pass
        assert others[0].ask(publish={"channel": "b", "data": 1})["publish"] == {}
        others[1].settle()
        assert others[2].ping() == []
        assert streams.ask(one, "GET", poll, **bearer(token("ann"))).status == 401 if how == "revoke" else True


def test_all_nodes_end_subscriptions_whose_own_tokens_are_revoked(nodes: list[Daemon]) -> None:
    one, two = nodes
    with Centrifuge(one) as client:
        client.connected(token=token(subscribe=["c"]))
        for name in ("a", "b"):
            client.subscribed(name, token=token(channel=name, jti=f"of {name}"))
        client.subscribed("c")
        status, _, told = two.request("POST", "/-/revoke", '{"jti": "of a"}', MANAGER)
        assert (status, json.loads(told)) == (200, {"ended": 1})
        push = client.push()
        assert (push["channel"], push["unsubscribe"]["code"]) == ("a", 2501)
        again = client.ask(subscribe={"channel": "a", "token": token(channel="a", jti="of a")})
        assert again["error"]["code"] == 103
        for name in ("b", "c"):
            publish(two, name)
        assert {client.push()["channel"] for _ in range(2)} == {"b", "c"}


# Rates, and the audit log.


@pytest.fixture
def slow(start: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    """A node with low rates. Each test has other subjects, which count by themselves."""
    return start(
        rates={"subscribe": (0.001, 2), "publish": (0.001, 2)}, audit_log=str(tmp_path / "audit"),
        cable_whispers=True, **SETTINGS,
    )  # fmt: skip


def audited(tmp_path: Path, **fields: Any) -> None:
    def found() -> bool:
        return any(fields.items() <= line.items() for line in lines(tmp_path / "audit"))

    wait_for(found, f"a line with {fields}")


def test_rates_count_and_refusals_are_told(slow: Daemon, tmp_path: Path) -> None:
    with Centrifuge(slow) as client:
        client.connected(token=token("a"))
        told = [client.ask(subscribe={"channel": f"a{number}"}) for number in range(3)]
        assert ["error" in each for each in told] == [False, False, True] and told[2]["error"]["code"] == 111
        told = [client.ask(publish={"channel": "a", "data": 1}) for _ in range(3)]
        assert ["error" in each for each in told] == [False, False, True]
    audited(tmp_path, who="a", action="subscribe", channel="a2", outcome=429, door="centrifuge")
    audited(tmp_path, who="a", action="publish", channel="a", outcome=429)
    with Centrifuge(slow) as client:
        assert "connect" in client.ask(connect={"token": token("b", channels=["a", "b"])})
        assert client.ask(subscribe={"channel": "c", "token": token("b", channel="c")})["error"]["code"] == 111
    with Cable(slow, EXTENDED, jid=token("c")) as cable:
        for number in range(2):
            cable.subscribe(turbo(f"c{number}"))
        cable.send("subscribe", turbo("c2"))
        assert cable.next()["type"] == "reject_subscription"
        with Centrifuge(slow) as heard:
            heard.connected(token=token("d"))
            heard.subscribed("c0")
            for number in range(3):
                cable.send("whisper", turbo("c0"), data=number)
            cable.settle()
            publish(slow, "c0", "behind")
            assert [heard.push()["pub"]["data"] for _ in range(3)] == [0, 1, "behind"]
    audited(tmp_path, who="c", action="subscribe", channel="c2", outcome=429, door="cable")
    audited(tmp_path, who="c", action="publish", channel="c0", outcome=429)
    with Pusher(slow) as pusher:
        pusher.sign_in("e")
        for number in range(3):
            pusher.ask(f"private-{number}")
        assert pusher.expect("pusher:subscription_error")["channel"] == "private-2"
    audited(tmp_path, action="subscribe", channel="private-2", outcome=429, door="pusher")
    streams.put(slow, "s", "a", **bearer(token("f")))
    told = [streams.add(slow, "s", "a", **bearer(token("f"))).status for _ in range(2)]
    assert told == [204, 429]
    polls = [streams.ask(slow, "GET", "s?offset=-1&live=long-poll", **bearer(token("g"))).status for _ in range(3)]
    assert polls == [200, 200, 429]
    audited(tmp_path, who="f", action="publish", channel="s", outcome=429)
    audited(tmp_path, who="g", action="subscribe", channel="s", outcome=429)


def test_rates_count_for_servers(slow: Daemon, tmp_path: Path) -> None:
    def api(method: str, **request: Any) -> Any:
        body = json.dumps(request)
        return json.loads(slow.request("POST", f"/api/{method}", body, {**JSON, "X-API-Key": API_KEY})[2])

    assert "error" not in api("publish", channel="a", data=1)
    assert api("broadcast", channels=["a", "b"], data=1)["error"]["code"] == 111
    audited(tmp_path, who="centrifuge_api_key", action="api broadcast", outcome=429)
    one = {"publish": {"channel": "a", "data": 1}}
    replies = api("batch", commands=[one, one, {"history_remove": {"channel": "a"}}])["replies"]
    assert ["error" in each for each in replies] == [False, True, False]
    audited(tmp_path, event="done", who="centrifuge_api_key", action="api history_remove", channel="a")
    told = [call(slow, "POST", "events", {"name": "e", "channels": ["a"], "data": "1"})[0] for _ in range(3)]
    assert told == [200, 200, 429]
    assert call(slow, "POST", "users/ann/terminate_connections", {})[0] == 200
    audited(tmp_path, event="done", action="disconnect", sub="ann")
    body = json.dumps({"command": "disconnect", "payload": {"identifier": "x"}})
    assert slow.request("POST", "/_broadcast", body, {**JSON, **bearer(KEY)})[0] == 201
    audited(tmp_path, event="done", who="cable_broadcast_key", action="disconnect", sub="x")


def test_each_refusal_is_told(slow: Daemon, tmp_path: Path) -> None:
    nobody = token("ann", info=1)
    with Centrifuge(slow) as client:
        client.send(json.dumps({"id": 1, "connect": {"token": "nonsense"}}))
        assert client.closed()[0] == 3500
    audited(tmp_path, action="connect", outcome=401, door="centrifuge")
    with Centrifuge(slow) as client:
        assert client.ask(connect={"token": token("eve", lasts=-60)})["error"]["code"] == 109
    with Centrifuge(slow) as client:
        client.connected(token=nobody)
        for action in ("subscribe", "publish", "history", "presence"):
            assert client.ask(**{action: {"channel": f"of.{action}", "data": 1}})["error"]["code"] == 103
            audited(tmp_path, who="ann", action=action, channel=f"of.{action}", outcome=403)
        told = client.ask(subscribe={"channel": "signed", "token": token(channel="signed", secret="x" * 32)})
        assert told["error"]["code"] == 103
        audited(tmp_path, who="ann", action="subscribe", channel="signed", outcome=403)
        late = client.ask(subscribe={"channel": "late", "token": token(channel="late", lasts=-60)})
        assert late["error"]["code"] == 109
        audited(tmp_path, who="ann", action="subscribe", channel="late", outcome=401)
    assert slow.request("POST", "/api/publish", "{}", JSON)[0] == 401
    audited(tmp_path, outcome=401, channel="api/publish")
    with Cable(slow, EXTENDED, jid="nonsense") as cable:
        assert cable.welcome["reason"] == "unauthorized"
    audited(tmp_path, action="connect", outcome=401, door="cable")
    with Cable(slow, EXTENDED, jid=token("bob", subscribe=["here"])) as cable:
        cable.send("subscribe", public("there"))
        assert cable.next()["type"] == "reject_subscription"
        audited(tmp_path, who="bob", action="subscribe", channel="there", outcome=403)
        cable.subscribe(public("here"))
        cable.send("whisper", public("here"), data=1)
        cable.send("join", public("here"), presence={"id": "7"})
    audited(tmp_path, who="bob", action="publish", channel="here", outcome=403)
    audited(tmp_path, who="bob", action="presence", channel="here", outcome=403)
    assert slow.request("POST", "/_broadcast", '{"stream": "a", "data": "1"}', JSON)[0] == 401
    audited(tmp_path, outcome=401, channel="_broadcast")
    with Pusher(slow, {**APP, "key": "no-key"}) as pusher:
        assert pusher.close_code() == 4001
    audited(tmp_path, action="connect", outcome=401, door="http")
    with Pusher(slow) as pusher:
        pusher.send("pusher:subscribe", {"channel": "private-a", "auth": "x"})
        pusher.send("pusher:subscribe", {"channel": "news"})
        pusher.send("client-x", 1, channel="private-a")
        pusher.send("pusher:signin", {"user_data": "{}", "auth": "x"})
        assert pusher.close_code() == 4009
    audited(tmp_path, action="subscribe", channel="private-a", outcome=401)
    audited(tmp_path, action="subscribe", channel="news", outcome=403)
    audited(tmp_path, action="publish", channel="private-a", outcome=403)
    audited(tmp_path, action="connect", channel="", outcome=401, door="pusher")
    assert call(slow, "GET", "channels", app={**APP, "secret": "x"})[0] == 401
    audited(tmp_path, action="manage", outcome=401)
    assert streams.ask(slow, "PUT", "s", None, **bearer(nobody)).status == 403
    audited(tmp_path, who="ann", action="publish", channel="s", outcome=403)


# Pages, hosts and ports.

PATHS = {
    "/connection/websocket": "GET", "/connection/http_stream": "POST", "/connection/sse": "GET", "/emulation": "POST",
    "/api/info": "POST", "/cable": "GET", "/_broadcast": "POST", "/app/app-key": "GET", "/apps/7/channels": "GET",
    "/v1/stream/a?offset=-1": "GET",
}  # fmt: skip
HANDSHAKE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


def ask(node: Daemon, path: str, **fields: str) -> int:
    handshake = HANDSHAKE if path in ("/connection/websocket", "/cable", "/app/app-key") else {}
    connection = node.open()
    headers = {**handshake, **{name.replace("_", "-"): value for name, value in fields.items()}}
    connection.request(PATHS[path], path, "{}" if PATHS[path] == "POST" else None, headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
def test_pages_of_other_origins_may_use_nothing(node: Daemon, path: str) -> None:
    status = ask(node, path, Origin="https://evil.example")
    assert status == (101 if path == "/app/app-key" else 403), "a client of Pusher is told by a close code"
    if path == "/app/app-key":
        with Pusher(node, origin="https://evil.example") as client:
            assert client.close_code() == 4009


def test_other_hosts_are_refused(start: Callable[..., Daemon]) -> None:
    """Where something is for anyone: a page could make its own name point to a node on loopback."""
    node = start(channels={"open.*": {"subscribe": "anyone"}}, **{**SETTINGS, "allowed_hosts": []})
    for path in PATHS:
        assert ask(node, path, Host="evil.example") == 421, path
        assert ask(node, path) != 421, path


def test_the_control_port_serves_no_dialect(start: Callable[..., Daemon]) -> None:
    node = start(control_port=0, **SETTINGS)
    control = At(node, "control")
    for path in PATHS:
        assert ask(control, path) in (401, 404), path
