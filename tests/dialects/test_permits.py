"""Who may do what by the doors and the commands of the dialects: each is held against each kind of caller, with the
credentials that the dialect has."""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest
from websockets.exceptions import ConnectionClosed

from raiden.dialects.cable.socket import _COMMANDS
from raiden.dialects.centrifuge.messages import Command
from raiden.dialects.pusher.api import Api as PusherApi
from raiden.dialects.pusher.socket import PusherSocket
from raiden.dialects.streams import answers
from raiden.dialects.streams.door import StreamsDoor
from raiden.node import config, dialects
from tests.callers import CALLERS, JSON, Door, judge, revoke, shown
from tests.daemons import Daemon, Stream
from tests.dialects import streams
from tests.dialects.cable import EXTENDED, Cable, public, signed, turbo
from tests.dialects.cable import SECRET as CABLE_SECRET
from tests.dialects.centrifuge_client import Client as Centrifuge
from tests.dialects.pusher_client import APP, call, hex_of
from tests.dialects.pusher_client import Client as Pusher
from tests.tokens import API_KEYS, JWT_KEYS, KEY, OTHER, SECRET, bearer, token

ALL = ("cable", "centrifuge", "pusher", "streams")
API_KEY = "the-key-of-the-server-api"
OTHER_APP = {"id": "11", "key": "other-key", "secret": "other-secret", "prefix": "other/"}
APPS = [{**APP, "prefix": ""}, OTHER_APP]
SETTINGS: dict[str, Any] = {
    "dialects": list(ALL), "jwt_keys": JWT_KEYS, "api_keys": API_KEYS, "cable_secret": CABLE_SECRET,
    "cable_jwt_secret": SECRET, "pusher_apps": APPS, "centrifuge_api_key": API_KEY,
}  # fmt: skip
CHANNELS = {
    "*": {}, "open.*": {"subscribe": "anyone"}, "unread.*": {"history": "nobody"},
    "closed.*": dict.fromkeys(("subscribe", "publish", "presence"), "nobody"),
}  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(tmp_path_factory.mktemp("guarded"), workers=2, channels=CHANNELS, presence_linger=0.1, **SETTINGS)
    revoke(found)
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()
    for secret in (KEY, API_KEY, APP["secret"], token()[:60]):
        assert secret not in found.log(), "a log shows no credential"


def publish(node: Daemon, channel: str, value: Any = 1) -> None:
    assert node.request("POST", f"/{channel}", json.dumps(value), {**JSON, **bearer(KEY)})[0] == 200


def history(node: Daemon, channel: str) -> list[Any]:
    _, _, page = node.request("GET", f"/-/channels/{channel}/history", headers=bearer(KEY))
    return [message["data"] for message in json.loads(page)["messages"]]


def named(*parts: str) -> str:
    return ".".join(parts).replace(" ", "-")


# Streams: the credentials are Raiden's own.


def by_stream(method: str, query: str = "", body: str | None = None, **fields: str) -> Door:
    def door(node: Daemon, channel: str, credential: str | None) -> int:
        told = {field: value.replace("CHANNEL", channel) for field, value in fields.items()} | bearer(credential)
        answer = streams.ask(node, method, channel + query, body, **told)
        if answer.status == 401:
            assert answer.fields["www-authenticate"].startswith("Bearer")
        return answer.status

    return door


def events_of_stream(node: Daemon, channel: str, credential: str | None) -> int:
    with streams.Events(node, channel, headers=bearer(credential)) as found:
        return found.status


TEXT = {"Content_Type": "text/plain"}
WRITING: dict[str, Door] = {
    "append": by_stream("POST", body="b", **TEXT),
    "append as a producer": by_stream("POST", "", "b", Producer_Id="p", Producer_Epoch="0", Producer_Seq="0", **TEXT),
    "close": by_stream("POST", Stream_Closed="true"),
    "delete": by_stream("DELETE"),
}
MAKING: dict[str, Door] = {"make": by_stream("PUT", **TEXT), "make with a body": by_stream("PUT", body="b", **TEXT)}
READING: dict[str, Door] = {
    "head": by_stream("HEAD", "?offset=-1"), "read": by_stream("GET", "?offset=-1"),
    "read from now": by_stream("GET", "?offset=now"), "poll": by_stream("GET", "?offset=-1&live=long-poll"),
    "events": events_of_stream,
}  # fmt: skip


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("door", WRITING | MAKING | READING)
def test_streams(node: Daemon, door: str, caller: str) -> None:
    channel = named("streams", door, caller)
    if door not in MAKING:
        streams.put(node, channel, "a", **bearer(KEY))
    credential, status = shown(caller, channel)
    if caller == "right with filters" and door in READING:
        status = 403  # a stream can't be read in part
    judge((WRITING | MAKING | READING)[door](node, channel, credential), status)
    left = streams.read(node, channel, **bearer(KEY))
    if status != 200:
        untouched = (404, b"") if door in MAKING else (200, b"a")
        assert (left.status, left.body if left.status == 200 else b"") == untouched and not left.closed


@pytest.mark.parametrize("caller", CALLERS)
def test_a_fork_is_of_a_stream_that_may_be_read(node: Daemon, caller: str) -> None:
    channel = named("forks", caller)
    streams.put(node, f"{channel}.source", "a", **bearer(KEY))
    credential, status = shown(caller, channel)
    status = 403 if caller in ("right by name", "right with filters") else status
    fork = by_stream("PUT", Stream_Forked_From="/v1/stream/CHANNEL.source", **TEXT)
    judge(fork(node, channel, credential), status)
    assert streams.read(node, channel, **bearer(KEY)).status == (200 if status == 200 else 404)


# Centrifuge: tokens of connections and of subscriptions, and a key for servers.


def settled(error: dict[str, Any] | None) -> int:
    """The status that an error is."""
    return 200 if error is None else {103: 403, 109: 401}.get(error["code"], error["code"])


def by_command(**command: Any) -> Door:
    """A command on a WebSocket, behind the one that connects by the credential."""

    def door(node: Daemon, channel: str, credential: str | None) -> int:
        with Centrifuge(node) as client:
            try:
                reply = client.ask(connect={} if credential is None else {"token": credential})
            except ConnectionClosed as closed:
                assert closed.rcvd is not None and closed.rcvd.code in (3500, 3501)
                return 401
            if "error" in reply:
                return settled(reply["error"])
            reply = client.ask(**json.loads(json.dumps(command).replace("CHANNEL", channel)))
            return settled(reply.get("error"))

    return door


def by_emulation(path: str, **command: Any) -> Door:
    """The same on a stream, whose commands come by requests of their own."""

    def door(node: Daemon, channel: str, credential: str | None) -> int:
        connection = node.open()
        asked = {"id": 1, "connect": {} if credential is None else {"token": credential}}
        connection.request("POST", path, json.dumps(asked), JSON)
        response = connection.getresponse()
        assert response.status == 200

        def reply() -> Any:
            while not (line := response.readline().strip().removeprefix(b"data: ")) or line == b"{}":
                assert line or not response.isclosed()
            return json.loads(line)

        try:
            first = reply()
            if "push" in first:
                assert first["push"]["disconnect"]["code"] in (3500, 3501)
                return 401
            if "error" in first:
                return settled(first["error"])
            text = json.dumps({"id": 2, **command}).replace("CHANNEL", channel)
            told = {each: first["connect"][each] for each in ("session", "node")}
            assert node.request("POST", "/emulation", json.dumps({**told, "data": text}), JSON)[0] == 204
            while (found := reply()).get("id") != 2:
                pass
            return settled(found.get("error"))
        finally:
            response.close()
            connection.close()

    return door


CENTRIFUGE_PUBLISHING: dict[str, Door] = {
    "publish": by_command(publish={"channel": "CHANNEL", "data": 1}),
    "publish by a stream": by_emulation("/connection/http_stream", publish={"channel": "CHANNEL", "data": 1}),
}
CENTRIFUGE_READING: dict[str, Door] = {
    "subscribe": by_command(subscribe={"channel": "CHANNEL"}),
    "subscribe and recover": by_command(subscribe={"channel": "CHANNEL", "recover": True, "offset": 0}),
    "subscribe by a stream": by_emulation("/connection/http_stream", subscribe={"channel": "CHANNEL"}),
    "subscribe by events": by_emulation("/connection/sse", subscribe={"channel": "CHANNEL"}),
    "history": by_command(history={"channel": "CHANNEL", "limit": 10}),
    "presence": by_command(presence={"channel": "CHANNEL"}),
    "presence_stats": by_command(presence_stats={"channel": "CHANNEL"}),
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("door", CENTRIFUGE_PUBLISHING | CENTRIFUGE_READING)
def test_centrifuge(node: Daemon, door: str, caller: str) -> None:
    channel = named("centrifuge", door, caller)
    if door in CENTRIFUGE_READING:
        publish(node, channel)
    credential, status = shown(caller, channel)
    status = 401 if caller.endswith("API key") else status  # clients have tokens
    judge((CENTRIFUGE_PUBLISHING | CENTRIFUGE_READING)[door](node, channel, credential), status)
    if door in CENTRIFUGE_PUBLISHING:
        assert bool(history(node, channel)) == (status == 200), "a refusal comes before any effect"


# Tokens of subscriptions, shown by a client whose connection's token lists nothing: what each shows, and the answer.
SUBSCRIPTIONS: dict[str, tuple[Callable[[str, str], dict[str, Any]], int]] = {
    "right": (lambda channel, client: {}, 200),
    "for this client": (lambda channel, client: {"client": client}, 200),
    "expired": (lambda channel, client: {"lasts": -60}, 401),
    "not yet": (lambda channel, client: {"nbf": 4e9}, 401),
    "another secret": (lambda channel, client: {"secret": OTHER}, 403),
    "revoked": (lambda channel, client: {"jti": "gone"}, 403),
    "before the subject was revoked": (lambda channel, client: {"sub": "back", "iat": time.time() - 3600}, 403),
    "another channel": (lambda channel, client: {"channel": "elsewhere"}, 3500),
    "another user": (lambda channel, client: {"sub": "bob"}, 3500),
    "another client": (lambda channel, client: {"client": "0" * 30}, 3500),
    "a connection's": (lambda channel, client: {"channel": ""}, 403),
}


@pytest.mark.parametrize("caller", SUBSCRIPTIONS)
def test_tokens_of_subscriptions(node: Daemon, caller: str) -> None:
    channel, manager = named("tokens", caller), {**JSON, **bearer(KEY)}
    for revoked in ({"jti": "gone"}, {"sub": "back"}):
        assert node.request("POST", "/-/revoke", json.dumps(revoked), manager)[0] == 200
    claims, status = SUBSCRIPTIONS[caller]
    user = "back" if caller == "before the subject was revoked" else "ann"
    with Centrifuge(node) as client:
        own = client.connected(token=token(user, iat=time.time() + 5, info=1))["client"]
        told = token(**{"sub": user, "channel": channel, "iat": time.time() + 5, **claims(channel, own)})
        try:
            got = settled(client.ask(subscribe={"channel": channel, "token": told}).get("error"))
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            got = closed.rcvd.code
    assert got == status


@pytest.mark.parametrize("action", ["subscribe", "publish", "presence"])
def test_what_is_for_nobody_is_for_nobody(node: Daemon, action: str) -> None:
    command = {"channel": "closed.a", **({"data": 1} if action == "publish" else {})}
    assert by_command(**{action: command})(node, "closed.a", token()) == 403
    told = token(sub="ann", channel="closed.a")
    assert by_command(subscribe={"channel": "closed.a", "token": told})(node, "", token()) == 403
    with Pusher(node) as client, Cable(node, EXTENDED, jid=token()) as cable:
        client.send("pusher:subscribe", {"channel": "closed.a"})
        assert client.expect("pusher:subscription_error")["data"]["type"] == "AuthError"
        cable.send("subscribe", turbo("closed.a"))
        assert cable.next()["type"] == "reject_subscription"
    assert streams.ask(node, "PUT", "closed.a", **bearer(KEY)).status == 403
    assert history(node, "closed.a") == []


SERVERS: dict[str, tuple[dict[str, str], str, int]] = {
    "nothing": ({}, "", 401), "nonsense": ({"X-API-Key": "nonsense"}, "", 401),
    "an API key of the node": ({"X-API-Key": KEY}, "", 401), "a token": (bearer(token()), "", 401),
    "as a bearer": (bearer(API_KEY), "", 401), "by the field": ({"X-API-Key": API_KEY}, "", 200),
    "by the scheme": ({"Authorization": f"apikey {API_KEY}"}, "", 200),
    "by the query": ({}, f"?api_key={API_KEY}", 200),
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "publish": {"channel": "CHANNEL", "data": 1}, "broadcast": {"channels": ["CHANNEL"], "data": 1},
    "subscribe": {"channel": "CHANNEL", "user": "ann"}, "unsubscribe": {"channel": "CHANNEL", "user": "ann"},
    "disconnect": {"user": "ann"}, "refresh": {"user": "ann"}, "presence": {"channel": "CHANNEL"},
    "presence_stats": {"channel": "CHANNEL"}, "history": {"channel": "CHANNEL", "limit": 1},
    "history_remove": {"channel": "CHANNEL"}, "channels": {}, "info": {},
    "batch": {"commands": [{"publish": {"channel": "CHANNEL", "data": 1}}]},
}  # fmt: skip


@pytest.mark.parametrize("caller", SERVERS)
@pytest.mark.parametrize("method", METHODS)
def test_servers_of_centrifuge(node: Daemon, method: str, caller: str) -> None:
    channel = named("servers", method, caller)
    if method not in ("publish", "broadcast", "batch"):
        publish(node, channel, 2)
    fields, query, status = SERVERS[caller]
    body = json.dumps(METHODS[method]).replace("CHANNEL", channel)
    got, _, answer = node.request("POST", f"/api/{method}{query}", body, {**JSON, **fields})
    assert got == status and (status != 200 or "error" not in json.loads(answer)), answer
    if status != 200:
        left = [] if method in ("publish", "broadcast", "batch") else [2]
        assert history(node, channel) == left, "a refusal comes before any effect"


# Pusher: the key of an app, and what its application signs.

Sign = Callable[[Pusher, str, str], "str | None"]


def signature(app: dict[str, Any], text: str) -> str:
    return f"{app['key']}:{hex_of(app['secret'], text)}"


SIGNED: dict[str, tuple[Sign, bool]] = {
    "nothing": (lambda client, name, data: None, False),
    "nonsense": (lambda client, name, data: "nonsense", False),
    "another secret": (
        lambda client, name, data: signature({**APP, "secret": "x"}, f"{client.socket_id}:{name}{data}"), False
    ),
    "another app": (lambda client, name, data: signature(OTHER_APP, f"{client.socket_id}:{name}{data}"), False),
    "another connection": (lambda client, name, data: signature(APP, f"1.1:{name}{data}"), False),
    "another channel": (lambda client, name, data: signature(APP, f"{client.socket_id}:{name}x{data}"), False),
    "other data": (lambda client, name, data: signature(APP, f"{client.socket_id}:{name}{data}x"), False),
    "right": (lambda client, name, data: signature(APP, f"{client.socket_id}:{name}{data}"), True),
}  # fmt: skip
MEMBER = '{"user_id":"7"}'


@pytest.mark.parametrize("caller", SIGNED)
@pytest.mark.parametrize(
    "kind", ["private-", "presence-", "private-encrypted-", "private-cache-", "presence-cache-"]
)  # fmt: skip
def test_channels_of_pusher_that_are_signed(node: Daemon, kind: str, caller: str) -> None:
    sign, allowed = SIGNED[caller]
    name = kind + caller.replace(" ", "-")
    data = {"channel_data": MEMBER} if kind.startswith("presence") else {}
    with Pusher(node) as client:
        auth = sign(client, name, f":{MEMBER}" if data else "")
        client.send("pusher:subscribe", {"channel": name, **data, **({} if auth is None else {"auth": auth})})
        frame = client.next()
        assert frame["event"] == (
            "pusher_internal:subscription_succeeded" if allowed else "pusher:subscription_error"
        ), frame  # fmt: skip
        if not allowed:
            client.send("client-made", 1, channel=name)
            assert client.expect("pusher:error")["data"]["code"] == 4301
            publish(node, name, {"unheard": True})
            assert client.ping() == []


@pytest.mark.parametrize("caller", SIGNED)
def test_users_of_pusher(node: Daemon, caller: str) -> None:
    sign, allowed = SIGNED[caller]
    with Pusher(node) as client:
        user = '{"id":"ann"}'
        auth = sign(client, ":user:", f":{user}")
        if caller == "another channel":
            return  # a sign-in is for none
        client.send("pusher:signin", {"user_data": user, **({} if auth is None else {"auth": auth})})
        if not allowed:
            assert client.close_code() == 4009
            return
        client.expect("pusher:signin_success")
        for name, event in (("ann", "pusher_internal:subscription_succeeded"), ("bob", "pusher:subscription_error")):
            client.send("pusher:subscribe", {"channel": f"#server-to-user-{name}"})
            client.expect(event)


def test_public_channels_of_pusher(node: Daemon) -> None:
    """The key opens what is for anyone, or what is within the prefix of the app."""

    def hears(app: dict[str, Any], name: str) -> bool:
        with Pusher(node, app) as client:
            client.send("pusher:subscribe", {"channel": name})
            return bool(client.next()["event"] == "pusher_internal:subscription_succeeded")

    assert hears(APP, "open.a") and not hears(APP, "news") and hears(OTHER_APP, "news")
    with Pusher(node, {**APP, "key": "no-key"}) as client:
        assert client.close_code() == 4001
    with Pusher(node) as client:
        client.subscribe("open.a")
        client.send("client-made", 1, channel="open.a")
        assert client.expect("pusher:error")["data"]["code"] == 4301


CALLS: dict[str, tuple[str, str, Any]] = {
    "events": ("POST", "events", {"name": "made", "channels": ["CHANNEL"], "data": "1"}),
    "batch_events": ("POST", "batch_events", {"batch": [{"name": "made", "channel": "CHANNEL", "data": "1"}]}),
    "users": ("POST", "users/ann/terminate_connections", {}),
    "channels": ("GET", "channels", None), "channel": ("GET", "channels/CHANNEL", None),
    "members": ("GET", "channels/presence-CHANNEL/users", None), "connections": ("GET", "connections", None),
}  # fmt: skip
QUERIES: dict[str, tuple[dict[str, Any], int]] = {
    "another key": ({"auth_key": "x"}, 401), "another signature": ({"auth_signature": "0" * 64}, 401),
    "old": ({"auth_timestamp": "1000000000"}, 401), "another secret": ({"app": {**APP, "secret": "x"}}, 401),
    "another app": ({"app": {**OTHER_APP, "id": APP["id"]}}, 401), "right": ({}, 200),
}  # fmt: skip


@pytest.mark.parametrize("caller", [*QUERIES, "nothing", "a token"])
@pytest.mark.parametrize("method", CALLS)
def test_servers_of_pusher(node: Daemon, method: str, caller: str) -> None:
    channel = named("calls", method, caller)
    verb, path, body = CALLS[method]
    path, body = path.replace("CHANNEL", channel), json.loads(json.dumps(body).replace("CHANNEL", channel))
    query, status = QUERIES.get(caller, ({}, 401))
    if caller in QUERIES:
        got = call(node, verb, path, body, **query)[0]
    else:
        fields = bearer(KEY) if caller == "a token" else {}
        got = node.request(verb, f"/apps/7/{path}", body and json.dumps(body), {**JSON, **fields})[0]
    assert got == status
    assert bool(history(node, channel)) == (status == 200 and method.endswith("events"))


# Cable: signed names of streams, tokens, and a key for servers.


def by_cable(command: str, *, subscribes: bool = True, **more: Any) -> Door:
    """A command for a stream without a signature, behind the subscription to it."""

    def door(node: Daemon, channel: str, credential: str | None) -> int:
        with Cable(node, EXTENDED, jid=credential or "") as client:
            if client.welcome["type"] == "disconnect":
                return 401
            identifier = public(channel)
            client.send("subscribe", identifier, **(more if command == "subscribe" else {}))
            if client.next()["type"] == "reject_subscription":
                return 403
            if command != "subscribe":
                client.send(command, identifier, **more)
            if "history" in more:
                return 200 if _until(client, "confirm_history", "reject_history") == "confirm_history" else 403
            if command == "presence":
                return 200 if client.next()["message"]["type"] == "info" else 403
            client.settle()
            if command == "join":
                _, _, page = node.request("GET", f"/-/channels/{channel}/presence", headers=bearer(KEY))
                return 200 if "7" in [each["sub"] for each in json.loads(page)["members"]] else 403
            return 200

    return door


def _until(client: Cable, *kinds: str) -> str:
    while (found := client.next().get("type")) not in kinds:
        pass
    return str(found)


FROM = {"since": 1}
CABLE: dict[str, Door] = {
    "subscribe": by_cable("subscribe"), "subscribe with history": by_cable("subscribe", history=FROM),
    "history": by_cable("history", history=FROM), "whisper": by_cable("whisper", data=1),
    "join": by_cable("join", presence={"id": "7"}), "presence": by_cable("presence", data={}),
}  # fmt: skip


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("door", CABLE)
def test_cable(node: Daemon, door: str, caller: str) -> None:
    channel = named("cable", door, caller)
    publish(node, channel)
    credential, status = shown(caller, channel)
    # Who shows nothing may connect; clients have tokens.
    status = 403 if caller == "nothing" else 401 if caller.endswith("API key") else status
    with Stream(node, f"/{channel}", bearer(KEY)) as heard:
        judge(CABLE[door](node, channel, credential), status)
        publish(node, channel, "behind")
        first = heard.value()
    assert (first == 1) == (door == "whisper" and status == 200), "a refusal comes before any effect"


@pytest.mark.parametrize("door", ["whisper", "join", "presence"])
@pytest.mark.parametrize("reads", ["listed", "open"])
def test_who_may_follow_a_stream_of_cable_may_do_no_more(node: Daemon, door: str, reads: str) -> None:
    """A stream is followed that the token lists for subscribing alone, or that anyone may subscribe to."""
    channel = named("open" if reads == "open" else "read", door)
    credential = token(subscribe=[channel]) if reads == "listed" else None
    with Stream(node, f"/{channel}", bearer(KEY)) as heard:
        assert CABLE["subscribe"](node, channel, credential) == 200
        got = CABLE[door](node, channel, credential)
        publish(node, channel, "behind")
        assert heard.value() == "behind" and got == (200 if door == "whisper" else 403)
    history = CABLE["history"](node, channel, credential)
    assert history == (200 if reads == "listed" else 403), "to subscribe is not to read what was before"


STREAMS: dict[str, tuple[Callable[[str], str], int]] = {
    "nothing": (public, 403), "right": (lambda name: _signed(name), 200), "turbo": (turbo, 200),
    "another secret": (lambda name: _signed(name, secret="other"), 403),
    "another stream": (lambda name: _signed("elsewhere").replace("x", "x"), 403),
    "the signature of another": (lambda name: _grafted(name), 403),
    "the secret of tokens": (lambda name: _signed(name, secret=SECRET), 403),
}  # fmt: skip


def _signed(name: str, secret: str = CABLE_SECRET) -> str:
    return json.dumps({"channel": "$pubsub", "signed_stream_name": signed(name, secret)})


def _grafted(name: str) -> str:
    data, sign = signed(name).partition("--")[0], signed("elsewhere").partition("--")[2]
    return json.dumps({"channel": "$pubsub", "signed_stream_name": f"{data}--{sign}"})


@pytest.mark.parametrize("caller", STREAMS)
def test_signed_streams_of_cable(node: Daemon, caller: str) -> None:
    channel = named("signed", caller)
    make, status = STREAMS[caller]
    with Cable(node, EXTENDED) as client:
        identifier = make(channel)
        client.send("subscribe", identifier, history=FROM)
        confirmed = client.next()["type"] == "confirm_subscription"
        if confirmed:
            assert client.next()["type"] == "confirm_history"
        client.send("whisper", identifier, data=1)
        publish(node, channel, "heard")
        client.settle() if not (confirmed and status == 200) else None
        assert not confirmed or status == 403 or client.message() == "heard"
        assert confirmed == (status == 200) or caller == "another stream"


def test_a_past_that_nobody_reads(node: Daemon) -> None:
    """Not by a signed name either, nor by recovering."""
    publish(node, "unread.a")
    with Cable(node, EXTENDED) as client:
        client.send("subscribe", _signed("unread.a"), history=FROM)
        assert [client.next()["type"] for _ in range(2)] == ["confirm_subscription", "reject_history"]
        client.send("history", _signed("unread.a"), history=FROM)
        assert client.next()["type"] == "reject_history"
        publish(node, "unread.a", "heard")
        assert client.message() == "heard"
    with Centrifuge(node) as centrifuge:
        centrifuge.connected(token=token())
        found = centrifuge.subscribed("unread.a", recover=True, offset=0)
        assert not found.get("recovered") and not found.get("publications")
        assert centrifuge.ask(history={"channel": "unread.a", "limit": 1})["error"]["code"] == 103


BROADCASTS: dict[str, tuple[dict[str, str], int]] = {
    "nothing": ({}, 401), "nonsense": (bearer("nonsense"), 401), "the secret itself": (bearer(CABLE_SECRET), 401),
    "an API key of the node": (bearer(KEY), 401), "a token": (bearer(token()), 401),
    "right": (bearer(hex_of(CABLE_SECRET, "broadcast-cable")), 201),
}  # fmt: skip


@pytest.mark.parametrize("caller", BROADCASTS)
@pytest.mark.parametrize("what", ["one", "list", "disconnect"])
def test_servers_of_cable(node: Daemon, what: str, caller: str) -> None:
    channel = named("broadcasts", what, caller)
    one = {"stream": channel, "data": "1"}
    remote = {"command": "disconnect", "payload": {"identifier": '{"a":1}', "reconnect": False}}
    fields, status = BROADCASTS[caller]
    body = {"one": one, "list": [one], "disconnect": remote}[what]
    assert node.request("POST", "/_broadcast", json.dumps(body), {**JSON, **fields})[0] == status
    assert bool(history(node, channel)) == (status == 201 and what != "disconnect")


# What has no row above is told of here.


def test_every_command_is_in_a_table() -> None:
    """A new command needs a row above, or a place among those about what the client has got by the others."""
    of_ones_own = {"connect", "unsubscribe", "ping", "refresh", "sub_refresh"}
    unserved = {"send", "rpc"}
    centrifuge = {door.partition(" ")[0] for door in CENTRIFUGE_PUBLISHING | CENTRIFUGE_READING}
    assert set(Command.__struct_fields__) - {"id"} == centrifuge | of_ones_own | unserved
    cable = {door.partition(" ")[0] for door in CABLE}
    assert set(_COMMANDS) == cable | {"unsubscribe", "message", "leave", "pong", "ping"}
    pusher = set(re.findall(r'"(pusher:\w+)"', inspect.getsource(PusherSocket._do)))
    assert pusher == {"pusher:ping", "pusher:subscribe", "pusher:unsubscribe", "pusher:signin"}


def test_every_request_is_in_a_table(node: Daemon) -> None:
    _, _, answer = node.request("POST", "/api/none", "{}", {**JSON, "X-API-Key": API_KEY})
    listed = json.loads(answer)["detail"].partition("another of ")[2]
    assert set(listed.split(", ")) == set(METHODS)
    cases = re.findall(r"case \[(.+)\]:", inspect.getsource(PusherApi._route))
    paths = {"/".join(part.strip('" ') for part in case.split(",")) for case in cases}
    assert paths == {
        "events", "batch_events", "users/user/terminate_connections", "channels", "channels/name",
        "channels/name/users", "connections",
    }  # fmt: skip
    assert len(paths) == len(CALLS)
    assert set(answers.METHODS.split(", ")) == {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}
    assert set(re.findall(r'"([\w-]*)": self\._', inspect.getsource(StreamsDoor._get))) == {"", "long-poll", "sse"}


def test_every_path_is_in_a_table() -> None:
    settings = config.load(overrides=[f"{name} = {value!r}" for name, value in SETTINGS.items()], environ={})
    made = dialects.opened(settings[0], MagicMock())
    assert sorted(path for dialect in made for path in dialect.paths) == sorted([
        "/_broadcast", "/api", "/api/", "/app/", "/apps/", "/cable", "/connection/http_stream", "/connection/sse",
        "/connection/websocket", "/emulation", "/v1/stream/",
    ])  # fmt: skip
