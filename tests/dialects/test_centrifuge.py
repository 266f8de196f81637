"""The Centrifuge client protocol on a WebSocket."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from websockets.exceptions import ConnectionClosed

from raiden.dialects.centrifuge.messages import (
    Command,
    ConnectRequest,
    PublishRequest,
    Reply,
    SubscribeRequest,
)
from raiden.dialects.centrifuge.protobuf import MAX_FIELDS, Malformed, decode, delimited, encode, split
from raiden.node import config
from tests.daemons import Daemon, running, wait_for
from tests.dialects.centrifuge_client import Client, ProtobufClient, token
from tests.tokens import JWT_KEYS, OTHER, bearer
from tests.tokens import token as raiden_token

API_KEY = "the-key-of-the-server-api"
SETTINGS: dict[str, Any] = {"dialects": ["centrifuge"], "jwt_keys": JWT_KEYS, "jwt_leeway": 0}
CHANNELS = {
    "*": {"subscribe": "anyone", "publish": "anyone", "history": "anyone", "presence": "anyone"},
    "none:*": {"history_size": 0, "subscribe": "anyone", "publish": "anyone"},
    "two:*": {"history_size": 2, "subscribe": "anyone", "publish": "anyone"},
    "token:*": {},
    "nobody:*": {"subscribe": "nobody", "publish": "nobody"},
    "unread:*": {"subscribe": "anyone", "publish": "anyone", "history": "nobody"},
}
OPEN = {"subscribe": "anyone"}
names = iter(f"c{number}" for number in range(1_000_000))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node whose channels are for anyone, also without a token."""
    yield from running(
        tmp_path_factory.mktemp("node"), workers=2, channels=CHANNELS, centrifuge_anonymous=True, **SETTINGS,
    )  # fmt: skip


@pytest.fixture
def channel() -> str:
    return next(names)


@pytest.fixture
def client(node: Daemon) -> Iterator[Client]:
    """A client that is connected with ann's token."""
    with Client(node) as client:
        client.connected(token=token())
        yield client


def delete(node: Daemon, channel: str) -> None:
    assert node.request("DELETE", f"/{channel}", headers=bearer(raiden_token()))[0] == 202


def post(node: Daemon, channel: str, value: Any) -> None:
    assert node.post_json(f"/{channel}", value)[0] in (200, 202)


# Connecting.


def test_a_client_connects(node: Daemon) -> None:
    with Client(node) as client:
        reply = client.ask(connect={"name": "js", "data": {"a": 1}})
        assert client.ws.subprotocol is None
    assert reply["id"] == 1
    result = reply["connect"]
    assert result["ping"] == 25 and result["pong"] is True and len(result["client"]) > 20
    assert result.keys() == {"client", "version", "ping", "pong"}


def test_commands_of_one_frame(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        lines = [
            {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": channel}},
            {"id": 3, "publish": {"channel": channel, "data": "hi"}},
        ]  # fmt: skip
        client.send("\n".join(map(json.dumps, lines)))
        assert "connect" in client.reply(1)
        assert client.reply(2)["subscribe"]["recoverable"] is True
        assert client.reply(3) == {"id": 3, "publish": {}}
        assert client.push()["pub"]["data"] == "hi"


@pytest.mark.parametrize(
    "frame",
    ["", "{}", "[]", "nonsense", '{"id":1}', '{"id":1,"subscribe":{"channel":"a"}}', '{"id":1,"connect":[]}',
     "[" * 9999, '{"id":"one","connect":{}}', '{"connect":{}}'],
)  # fmt: skip
def test_what_is_no_first_command(node: Daemon, frame: str) -> None:
    with Client(node) as client:
        client.send(frame)
        assert client.closed() == (3501, "bad request")


@pytest.mark.parametrize(
    "frame",
    ["{", "{}", '{"id":2}', '{"id":2,"connect":{}}', '{"id":2,"subscribe":{}}', '{"id":2,"publish":{"data":1}}',
     '{"id":2,"presence":{}}', '{"id":2,"history":{}}', '{"id":2,"presence_stats":{}}', "\x00", '{"id":2,"wrong":{}}'],
)  # fmt: skip
def test_garbage_ends_the_connection(client: Client, frame: str) -> None:
    client.send(frame)
    assert client.closed() == (3501, "bad request")


def test_garbage_disturbs_nobody_else(node: Daemon, channel: str, client: Client) -> None:
    client.subscribed(channel)
    with Client(node) as other:
        other.connected()
        other.subscribed(channel)
        other.send("garbage")
        other.closed()
    post(node, channel, 1)
    assert client.push()["pub"]["data"] == 1


def test_what_raiden_has_not(client: Client) -> None:
    assert client.ask(rpc={"method": "m"})["error"] == {"code": 104, "message": "method not found"}
    assert client.ask(ping={})["error"]["code"] == 108
    assert client.ask(subscribe={"channel": "m", "type": 1})["error"]["code"] == 103
    assert client.ask(subscribe={"channel": "m", "tf": {"key": "a"}})["error"]["code"] == 107
    assert client.ask(publish={"channel": "m", "data": 1, "type": 1})["error"]["code"] == 108
    client.send('{"send":{"data":1}}')
    assert client.closed() == (3508, "not available")


def test_a_ping_wants_a_pong(tmp_path: Path) -> None:
    node = Daemon(tmp_path, store="none", dialects=["centrifuge"], centrifuge_anonymous=True, keepalive=3)
    with Client(node) as client, Client(node, pongs=False) as silent:
        assert client.connected()["ping"] == 3
        silent.connected()
        client.pinged()
        client.pinged()  # it goes on
        assert silent.closed() == (3012, "no pong")
    with Client(node) as stale:
        assert stale.closed() == (3502, "stale")  # it has not connected
    assert node.stop() == 0


def test_the_paths_are_no_channels(node: Daemon) -> None:
    assert node.request("GET", "/connection/websocket")[0] == 426
    assert node.request("PUT", "/emulation", "x")[0] == 405
    assert node.post_json("/connection/other", 1)[0] == 200  # a channel


# Tokens.


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node whose channels are for those who have a token, as Centrifugo's are."""
    yield from running(
        tmp_path_factory.mktemp("guarded"), centrifuge_subscribers=["publish", "presence"], centrifuge_personal=True,
        channels={"*": {}, "nobody:*": {"subscribe": "nobody"}, **dict.fromkeys(("open:*", "#*"), OPEN)},
        centrifuge_join_leave=True, **SETTINGS,
    )  # fmt: skip


def test_without_a_token(guarded: Daemon) -> None:
    with Client(guarded) as client:
        client.command(connect={})
        assert client.closed() == (3501, "bad request")


@pytest.mark.parametrize("made", [token(secret=OTHER), "nonsense", token(channel="a"), token(expire_at="soon")])
def test_a_bad_token(guarded: Daemon, made: str) -> None:
    with Client(guarded) as client:
        client.command(connect={"token": made})
        assert client.closed() == (3500, "invalid token")


@pytest.mark.parametrize("times", [{"exp": 1}, {"nbf": int(time.time()) + 9999}])
def test_an_expired_token(guarded: Daemon, times: dict[str, Any]) -> None:
    with Client(guarded) as client:
        assert client.ask(connect={"token": token(**times)}) == {
            "id": 1, "error": {"code": 109, "message": "token expired"}
        }  # fmt: skip
        assert client.closed()[0] == 3000


def test_a_token_is_refreshed(guarded: Daemon) -> None:
    with Client(guarded) as client:
        soon = int(time.time()) + 600
        result = client.connected(token=token(exp=soon))
        assert result["expires"] is True and 500 < result["ttl"] <= 600
        result = client.ask(refresh={"token": token(exp=soon + 600)})["refresh"]
        assert result["expires"] is True and 1100 < result["ttl"] <= 1200
        assert client.ask(refresh={"token": token()}) == {"id": 3, "refresh": {}}
        client.command(refresh={"token": token("bob")})
        assert client.closed() == (3500, "invalid token")


def test_a_refresh_comes_too_late(guarded: Daemon) -> None:
    with Client(guarded) as client:
        client.connected(token=token(expire_at=0, exp=int(time.time()) + 600))
        client.command(refresh={"token": token(exp=1)})
        assert client.closed() == (3005, "connection expired")


def test_a_subscription_needs_a_token(guarded: Daemon, channel: str) -> None:
    good = token(channel=channel)
    with Client(guarded) as client:
        client.connected(token=token())

        def error(**request: Any) -> Any:
            return client.ask(subscribe={"channel": channel, **request})["error"]["code"]

        assert error() == 103
        assert error(token=token()) == 103  # it names no channel
        assert error(token=token(channel=channel, secret=OTHER)) == 103
        assert error(token=token(channel=channel, exp=1)) == 109
        assert client.ask(publish={"channel": channel, "data": 1})["error"]["code"] == 103
        assert client.subscribed(channel, token=good)["recoverable"] is True
        assert error(token=good) == 105
        assert client.ask(publish={"channel": channel, "data": 1})["publish"] == {}
        assert client.ask(history={"channel": channel})["error"]["code"] == 103
        own = joined(client, channel)["client"]
        assert client.ask(presence={"channel": channel})["presence"]["presence"].keys() == {own}
        assert client.ask(subscribe={"channel": "nobody:a", "token": token(channel="nobody:a")})["error"]["code"] == 103
        assert client.subscribed("open:a") is not None


def joined(client: Client, channel: str) -> Any:
    """The next client that joins a channel."""
    while True:
        push = client.push()
        if "join" in push and push["channel"] == channel:
            return push["join"]["info"]


@pytest.mark.parametrize("claims", [{"channel": "other"}, {"sub": "bob"}, {"client": "somebody"}])
def test_a_subscription_token_of_others(guarded: Daemon, channel: str, claims: dict[str, str]) -> None:
    with Client(guarded) as client:
        client.connected(token=token())
        client.command(subscribe={"channel": channel, "token": token(**{"channel": channel, **claims})})
        assert client.closed() == (3500, "invalid token")


def test_a_subscription_is_refreshed_or_ends(guarded: Daemon, channel: str) -> None:
    with Client(guarded) as client:
        client.connected(token=token())
        good = token(channel=channel, exp=int(time.time()) + 600, data={"hello": 1}, info={"seat": 3})
        result = client.subscribed(channel, token=good)
        assert result["expires"] is True and result["data"] == {"hello": 1} and 500 < result["ttl"] <= 600
        assert joined(client, channel)["chan_info"] == {"seat": 3}
        assert client.ask(sub_refresh={"channel": channel, "token": token(channel=channel)})["sub_refresh"] == {}
        assert (
            client.ask(sub_refresh={"channel": channel, "token": token(channel=channel, exp=1)})["error"]["code"] == 110
        )
        assert client.ask(sub_refresh={"channel": "x", "token": token(channel="x")})["error"]["code"] == 103


def test_server_side_subscriptions(guarded: Daemon, channel: str) -> None:
    made = token(info={"n": 1}, channels=["open:s"], subs={channel: {"data": {"d": 1}, "info": {"i": 1}}})
    with Client(guarded) as client:
        result = client.connected(token=made)
        assert result["subs"].keys() == {"#ann", "open:s", channel}
        assert result["subs"][channel]["data"] == {"d": 1}
        place = result["subs"][channel]
        assert joined(client, channel)["conn_info"] == {"n": 1}
        client.ask(publish={"channel": channel, "data": 5})
    with Client(guarded) as client:
        start = {"recover": True, "epoch": place["epoch"], "offset": place.get("offset", 0)}
        result = client.connected(token=made, subs={channel: start, "unknown": start})
        assert result["subs"].keys() == {"#ann", "open:s", channel}
        (publication,) = result["subs"][channel]["publications"]
        assert publication["data"] == 5 and publication["info"]["chan_info"] == {"i": 1}
        assert result["subs"][channel]["recovered"] is True


def test_a_token_with_too_many_channels(guarded: Daemon) -> None:
    with Client(guarded) as client:
        client.command(connect={"token": token(channels=[f"c{number}" for number in range(129)])})
        assert client.closed() == (3505, "channel limit")


def test_the_personal_channel_is_nobody_elses(guarded: Daemon) -> None:
    with Client(guarded) as client:
        client.connected(token=token("bob"))
        assert client.ask(subscribe={"channel": "#ann"})["error"]["code"] == 103


def test_what_is_open_to_anyone_does_not_open_personal_channels(tmp_path: Path) -> None:
    node = Daemon(tmp_path, workers=1, centrifuge_personal=True, channels=CHANNELS, **SETTINGS)
    with Client(node) as bob, Client(node) as ann:
        ann.connected(token=token("ann"))
        bob.connected(token=token("bob"))
        for ask in ({"history": {"channel": "#ann"}}, {"presence": {"channel": "#ann"}}):
            assert bob.ask(**ask)["error"]["code"] == 103
            assert "error" not in ann.ask(**ask)
        assert "publish" in bob.ask(publish={"channel": "#ann", "data": 1})
        bob.subscribed("#ann", token=token("bob", channel="#ann"))
        assert "history" in bob.ask(history={"channel": "#ann"})
    assert node.stop() == 0


def test_a_channel_that_has_ended_takes_nothing_for_good(node: Daemon, client: Client, channel: str) -> None:
    """Else clients would try again for ever."""
    client.subscribed(channel)
    fields = {"Content-Type": "application/json", "Raiden-End": "true"}
    assert node.request("POST", f"/{channel}", "1", fields)[0] == 200
    assert client.push()["pub"]["data"] == 1
    error = client.ask(publish={"channel": channel, "data": 2})["error"]
    assert error == {"code": 108, "message": "not available"}


def test_a_token_may_have_raidens_permissions(guarded: Daemon, channel: str) -> None:
    with Client(guarded) as client:
        client.connected(token=token(subscribe=[channel], publish=[channel]))
        assert client.subscribed(channel)["positioned"] is True
        assert client.ask(publish={"channel": channel, "data": 1})["publish"] == {}


def test_a_revoked_token_ends_the_connection(guarded: Daemon) -> None:
    with Client(guarded) as client, Client(guarded) as other:
        client.connected(token=token("rob", iat=1))
        other.connected(token=token("other"))
        manager = bearer(raiden_token("boss"))
        body = json.dumps({"sub": "rob"})
        assert guarded.request("POST", "/-/revoke", body, {**manager, "Content-Type": "application/json"})[0] == 200
        assert client.closed() == (3500, "invalid token")
        body = json.dumps({"sub": "other"})
        assert guarded.request("POST", "/-/disconnect", body, {**manager, "Content-Type": "application/json"})[0] == 200
        assert other.closed() == (3503, "force disconnect")


# Subscriptions.


def test_a_channel_without_history(node: Daemon, client: Client, channel: str) -> None:
    name = f"none:{channel}"
    assert client.ask(subscribe={"channel": name}) == {"id": 2, "subscribe": {}}
    post(node, name, {"a": 1})
    assert client.push() == {"channel": name, "pub": {"data": {"a": 1}}}
    assert client.ask(history={"channel": name})["error"]["code"] == 108


def test_the_epoch_of_an_empty_channel_is_known(node: Daemon, client: Client, channel: str) -> None:
    result = client.subscribed(channel)
    assert result.keys() == {"recoverable", "positioned", "epoch"} and result["epoch"] not in ("", "0")
    post(node, channel, 1)
    assert client.push()["pub"] == {"data": 1, "offset": 1}
    with Client(node) as other:
        other.connected()
        result = other.subscribed(channel, recover=True, epoch=result["epoch"])
        assert result["recovered"] and result["was_recovering"] and "offset" not in result
        assert result["publications"] == [{"data": 1, "offset": 1}]


def test_recovery(node: Daemon, client: Client, channel: str) -> None:
    epoch = client.subscribed(channel)["epoch"]
    for number in range(5):
        post(node, channel, number)
    with Client(node) as other:
        other.connected()
        result = other.subscribed(channel, recover=True, epoch=epoch, offset=2)
        assert [each["data"] for each in result["publications"]] == [2, 3, 4]
        assert (result["recovered"], result["was_recovering"], result["offset"]) == (True, True, 2)
        post(node, channel, 5)
        assert other.push()["pub"] == {"data": 5, "offset": 6}  # each once
        other.ask(unsubscribe={"channel": channel})
        result = other.subscribed(channel, recover=True, epoch=epoch, offset=6)
        assert result["recovered"] and "publications" not in result and result["offset"] == 6


@pytest.mark.parametrize("epoch", ["other", "", "n o", "\u00e9", "x" * 99])
def test_what_cant_be_recovered(node: Daemon, client: Client, channel: str, epoch: str) -> None:
    name = f"two:{channel}"
    client.subscribed(name)
    for number in range(5):
        post(node, name, number)
    with Client(node) as other:
        other.connected()
        request = {"channel": name, "recover": True, "epoch": epoch, "offset": 1}
        assert other.ask(subscribe={**request, "flag": 2})["error"] == {
            "code": 112,
            "message": "unrecoverable position",
        }
        result = other.ask(subscribe=request)["subscribe"]
        assert result["was_recovering"] and "recovered" not in result and "publications" not in result
        assert result["offset"] == 5
        post(node, name, 5)
        assert other.push()["pub"]["offset"] == 6


def test_a_past_that_is_for_nobody(node: Daemon, client: Client, channel: str) -> None:
    name = f"unread:{channel}"
    epoch = client.subscribed(name)["epoch"]
    post(node, name, 1)
    client.ask(unsubscribe={"channel": name})
    result = client.subscribed(name, recover=True, epoch=epoch)
    assert result["was_recovering"] and "recovered" not in result and "publications" not in result


def test_more_than_a_reply_may_have(tmp_path: Path) -> None:
    node = Daemon(tmp_path, channels={"*": {"history_size": 1000}}, dialects=["centrifuge"], centrifuge_anonymous=True)
    with Client(node) as client:
        client.connected()
        epoch = client.subscribed("many")["epoch"]
        lines = "\n".join(map(str, range(301)))
        assert node.request("POST", "/many", lines, {"Content-Type": "application/x-ndjson"})[0] == 200
        with Client(node) as other:
            other.connected()
            result = other.subscribed("many", recover=True, epoch=epoch, offset=1)
            assert len(result["publications"]) == 300 and result["recovered"]
            other.ask(unsubscribe={"channel": "many"})
            assert "recovered" not in other.subscribed("many", recover=True, epoch=epoch)
    assert node.stop() == 0


def test_a_deleted_channel_is_subscribed_to_again(node: Daemon, client: Client, channel: str) -> None:
    epoch = client.subscribed(channel)["epoch"]
    post(node, channel, 1)
    client.push()
    delete(node, channel)
    assert client.push() == {"channel": channel, "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
    result = client.subscribed(channel, recover=True, epoch=epoch, offset=1)
    assert result["was_recovering"] and "recovered" not in result


def test_the_epoch_of_a_channel_that_was_just_deleted_is_known(start: Callable[..., Daemon]) -> None:
    """Also where its worker still carries it, for one who has just polled."""
    everything = dict.fromkeys(("subscribe", "publish", "history", "manage"), "anyone")
    node = start(workers=1, channels={"*": everything}, centrifuge_anonymous=True, **SETTINGS)
    epochs: list[str] = []
    with Client(node) as client:
        client.connected()
        for recovers in (False, True):
            post(node, "a", 1)
            assert node.request("GET", "/a?_since=earliest&_wait=1")[0] == 200
            assert node.request("DELETE", "/a")[0] == 202
            asked = {"recover": True, "epoch": epochs[0], "offset": 0} if recovers else {}
            result = client.subscribed("a", **asked)
            assert result["epoch"] not in ("", "0", *epochs) and "recovered" not in result
            epochs.append(result["epoch"])
            post(node, "a", 2)
            assert client.push()["pub"] == {"data": 2, "offset": 1}
            client.ask(unsubscribe={"channel": "a"})
            result = client.subscribed("a", recover=True, epoch=epochs[-1])
            assert result["recovered"] and [each["data"] for each in result["publications"]] == [2]
            client.ask(unsubscribe={"channel": "a"})


def test_a_client_goes_while_it_connects(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, **SETTINGS)
    history = node.workers()["history"]
    os.kill(history, signal.SIGSTOP)
    try:
        with Client(node) as client:
            client.command(connect={"token": token(channels=["a"])})
            client.ws.socket.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionClosed):
                client.read()
    finally:
        os.kill(history, signal.SIGCONT)
    with Client(node) as client:
        assert client.connected(token=token(channels=["a"]))["subs"]["a"]["epoch"]
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


def test_names_and_bounds(client: Client, channel: str) -> None:
    for name in ("news*", "x" * 256, "-/revoked", "a\u0000b"):
        assert client.ask(subscribe={"channel": name})["error"]["code"] == 107
    assert client.ask(subscribe={"channel": "nobody:x"})["error"]["code"] == 103
    assert client.ask(unsubscribe={"channel": "never"})["unsubscribe"] == {}
    for number in range(128):
        client.subscribed(f"{channel}-{number}")
    assert client.ask(subscribe={"channel": channel})["error"]["code"] == 106


def test_join_and_leave(node: Daemon, client: Client, channel: str) -> None:
    client.subscribed(channel, join_leave=True)
    own = client.push()["join"]["info"]
    assert own["user"] == "ann"
    with Client(node) as other:
        name = other.connected(token=token("bob", info={"n": 1}))["client"]
        other.subscribed(channel)
        info = {"user": "bob", "client": name, "conn_info": {"n": 1}}
        assert client.push() == {"channel": channel, "join": {"info": info}}
        assert client.ask(presence={"channel": channel})["presence"]["presence"] == {own["client"]: own, name: info}
        assert client.ask(presence_stats={"channel": channel})["presence_stats"] == {"num_clients": 2, "num_users": 2}
        other.ask(unsubscribe={"channel": channel})
        assert client.push() == {"channel": channel, "leave": {"info": info}}
        assert not other.pushes


def test_presence_shows_users_to_raidens_own_clients(node: Daemon, client: Client, channel: str) -> None:
    client.subscribed(channel)
    told = wait_for(lambda: node.json(f"/-/channels/{channel}/presence"), "presence")
    assert [member["sub"] for member in told["members"]] == ["ann"]


# Messages.


def test_publishing(node: Daemon, client: Client, channel: str) -> None:
    client.subscribed(channel)
    assert client.ask(publish={"channel": channel, "data": {"n": 1.50}}) == {"id": 3, "publish": {}}
    pub = client.push()["pub"]
    assert pub["data"] == {"n": 1.5} and pub["offset"] == 1 and pub["info"]["user"] == "ann"
    assert client.ask(publish={"channel": "nobody:x", "data": 1})["error"]["code"] == 103
    assert client.ask(publish={"channel": channel})["error"]["code"] == 107
    # What comes by another door has no info, and stays what it is.
    node.request("POST", f"/{channel}", "text", {"Content-Type": "text/plain"})
    assert client.push()["pub"] == {"data": "text", "offset": 2}
    node.request("POST", f"/{channel}", b"\x00\xff", {"Content-Type": "application/octet-stream"})
    assert client.push()["pub"] == {"data": {"base64": "AP8="}, "offset": 3}
    fields = {"Content-Type": "application/json", "Raiden-Tags": '{"color":"red"}', "Raiden-Transient": "true"}
    node.request("POST", f"/{channel}", "[1,\n2]", fields)
    assert client.push()["pub"] == {"data": [1, 2], "tags": {"color": "red"}}


def test_publishes_of_one_client_stay_in_order(client: Client, channel: str) -> None:
    client.subscribed(channel)
    numbers = [client.command(publish={"channel": channel, "data": number}) for number in range(200)]
    for number in numbers:
        assert client.reply(number)["publish"] == {}
    assert [client.push()["pub"]["data"] for _ in numbers] == list(range(200))


def test_history(node: Daemon, client: Client, channel: str) -> None:
    for number in range(1, 6):
        post(node, channel, number)

    def page(**request: Any) -> Any:
        return client.ask(history={"channel": channel, **request})

    def data(**request: Any) -> list[Any]:
        return [each["data"] for each in page(**request)["history"].get("publications", [])]

    epoch = page()["history"]["epoch"]
    assert page()["history"] == {"epoch": epoch, "offset": 5}
    assert data(limit=-1) == [1, 2, 3, 4, 5]
    assert data(limit=2) == [1, 2]
    assert data(limit=2, since={"offset": 2, "epoch": epoch}) == [3, 4]
    assert data(limit=-1, reverse=True) == [5, 4, 3, 2, 1]
    assert data(limit=2, reverse=True, since={"offset": 4, "epoch": epoch}) == [3, 2]
    assert data(limit=2, since={"offset": 99, "epoch": epoch}) == []
    assert page(limit=2, since={"offset": 2, "epoch": "other"})["error"]["code"] == 112
    assert page(limit=2, reverse=True, since={"offset": 0, "epoch": epoch})["error"]["code"] == 107


# Protobuf.


def test_protobuf(node: Daemon, client: Client, channel: str) -> None:
    client.subscribed(channel)
    other = ProtobufClient(node)
    other.send(Command(1, connect=ConnectRequest()), Command(2, subscribe=SubscribeRequest(channel)))
    assert other.ws.subprotocol == "centrifuge-protobuf"
    (first,) = other.received()
    assert decode(first, Reply).connect is not None
    (second,) = other.received()
    result = decode(second, Reply).subscribe
    assert result is not None and result.positioned and result.epoch
    for data, seen in ((b'{"a": 1}', {"a": 1}), (b"\x00\xff", {"base64": "AP8="})):
        other.send(Command(3, publish=PublishRequest(channel, Raw(data))))
        found = [decode(each, Reply) for _ in range(2) for each in other.received()]
        pushed = next(each.push.pub for each in found if each.push and each.push.pub)
        assert bytes(pushed.data) == data
        assert client.push()["pub"]["data"] == seen
    other.ws.send(b"\x05")
    with pytest.raises(Exception, match="3501"):
        other.received()


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x2a\x05ab", b"\x2a\x03\x0a\x01\xff", b"\x08" + b"\xff" * 11, b"\x0b", b"\x28\x01", b"\x2a\x02\x08\x01",
     b"\x0a\x00", b"\x22\x02\x18\x01"],
)  # fmt: skip
def test_bytes_that_are_no_command(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data, Command)


def test_fields_that_are_unknown_are_passed_over() -> None:
    known = encode(Command(7, subscribe=SubscribeRequest("a", offset=1 << 40)))
    more = b"\xa0\x06\x01" + b"\xaa\x06\x02xx" + b"\xa5\x06abcd" + b"\xa1\x06abcdefgh"
    command = decode(known + more, Command)
    assert command.id == 7 and command.subscribe == SubscribeRequest("a", offset=1 << 40)
    with pytest.raises(Malformed):
        split(delimited(known)[:-1], 9)


def test_a_frame_has_a_bound_of_messages_and_fields(node: Daemon) -> None:
    """Also of fields that no message knows: each takes a worker time, before it knows who asks."""
    assert len(split(bytes(1000), 1000)) == 1000
    with pytest.raises(Malformed):
        split(bytes(1001), 1000)
    unknown = b"\x80\x01\x01"
    assert decode(unknown * MAX_FIELDS, Command) == Command()
    with pytest.raises(Malformed):
        decode(unknown * (MAX_FIELDS + 1), Command)
    for frame in (bytes(1001), delimited(unknown * (MAX_FIELDS // 2)) * 3):
        other = ProtobufClient(node)
        other.ws.send(frame)
        with pytest.raises(Exception, match="3501"):
            other.received()


def test_a_query_of_many_parameters(node: Daemon) -> None:
    query = "&".join(["cf_protocol_version=v2"] * 200)
    assert node.request("GET", f"/connection/websocket?{query}")[0] == 426
    assert node.request("GET", "/connection/websocket?a=%ff")[0] == 400
    with Client(node, f"/connection/websocket?{query}") as client:
        client.connected()


# Settings.


@pytest.mark.parametrize(
    ("setting", "said"),
    [("centrifuge_subscribers=['dance']", "publish, history, presence"), ("centrifuge_api_key='short'", "openssl")],
)
def test_settings_that_are_wrong(setting: str, said: str) -> None:
    with pytest.raises(config.ConfigError, match=said):
        config.load(None, [setting], {})


def test_nothing_is_there_without_the_setting(tmp_path: Path) -> None:
    node = Daemon(tmp_path, store="none")
    assert node.post_json("/connection/websocket", 1)[0] == 202  # a channel like others
    assert node.metric("raiden_connections", transport="centrifuge") == 0
    assert node.stop() == 0


def test_refusals_are_audited(tmp_path: Path) -> None:
    node = Daemon(tmp_path, audit_log=str(tmp_path / "audit"), store="none", **SETTINGS)
    with Client(node) as client, Client(node) as other:
        client.connected(token=token())
        assert client.ask(subscribe={"channel": "secret"})["error"]["code"] == 103
        other.command(connect={"token": token(secret=OTHER)})
        other.closed()
    lines = wait_for(lambda: len(found := (tmp_path / "audit").read_text().splitlines()) >= 2 and found, "both lines")
    assert isinstance(lines, list)
    told = [json.loads(line) for line in lines]
    assert {"action": "subscribe", "channel": "secret"}.items() <= told[0].items()
    assert "invalid token" in lines[1]
    assert node.stop() == 0
