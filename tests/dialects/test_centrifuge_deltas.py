"""Deltas of the dialect centrifuge: the decoder of centrifuge-python, and a message before that each client has."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from websockets.sync.client import connect

from raiden.delivery.deltas import MOST
from raiden.dialects.centrifuge.messages import Command, ConnectRequest, PublishRequest, Reply, SubscribeRequest
from raiden.dialects.centrifuge.protobuf import decode
from tests.daemons import Daemon
from tests.dialects.centrifuge_client import Client, ProtobufClient, token
from tests.dialects.test_centrifuge_api import Stream
from tests.multiplex import two_nodes
from tests.stores import RedisServer
from tests.tokens import JWT_KEYS
from tests.tokens import token as raiden_token

fossil = pytest.importorskip("centrifuge.fossil")
SETTINGS: dict[str, Any] = {
    "dialects": ["centrifuge"], "jwt_keys": JWT_KEYS, "centrifuge_anonymous": True,
    "channels": {
        "*": {action: "anyone" for action in ("subscribe", "publish", "history", "manage")},
        "filtered*": {"publish": "anyone"},
    },
}  # fmt: skip
names = iter(f"d{number}" for number in range(1_000_000))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(tmp_path_factory.mktemp("node"), workers=2, **SETTINGS)
    yield node
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


@pytest.fixture
def channel() -> str:
    return next(names)


def document(number: int, size: int = 1000) -> dict[str, Any]:
    """A document of which one number changes."""
    return {"price": number, "text": ("näme €" * size)[:size]}


def post(node: Daemon, channel: str, value: Any, **headers: str) -> None:
    found = {f"Raiden-{name.capitalize()}": value for name, value in headers.items()}
    body = json.dumps(value, ensure_ascii=False).encode()
    status, _, body = node.request("POST", f"/{channel}", body, {"Content-Type": "application/json", **found})
    assert status in (200, 202), body


class Data:
    """What an SDK of JSON makes of the publications of one subscription; ``is_delta`` says of each whether it was
    one."""

    def __init__(self) -> None:
        self.before = b""
        self.is_delta: list[bool] = []

    def of(self, publication: dict[str, Any]) -> Any:
        data = publication["data"]
        assert isinstance(data, str)
        is_delta = publication.get("delta", False)
        self.before = bytes(fossil.apply_delta(self.before, data.encode())) if is_delta else data.encode()
        self.is_delta.append(is_delta)
        return json.loads(self.before)


class Subscriber(Client):
    """A client with one subscription, and its data."""

    def __init__(self, node: Daemon, channel: str, **asked: Any) -> None:
        super().__init__(node)
        self.data = Data()
        self.id = self.connected()["client"]
        self.result = self.subscribed(channel, delta="fossil", **asked)

    def next(self) -> Any:
        return self.data.of(self.push()["pub"])


def test_a_change_is_sent(node: Daemon, channel: str) -> None:
    with Subscriber(node, channel) as client, Client(node) as other:
        assert client.result["delta"] is True
        other.connected()
        assert "delta" not in other.subscribed(channel)
        sizes = []
        for number in range(5):
            post(node, channel, document(number))
            found = client.push()["pub"]
            sizes.append(len(found["data"]))
            assert client.data.of(found) == document(number) and found["offset"] == number + 1
            seen = other.push()["pub"]
            assert seen == {"data": document(number), "offset": number + 1}
        assert client.data.is_delta == [False, True, True, True, True]
        assert sizes[0] > 1000 and max(sizes[1:]) < 50
        # The history is never changed.
        page = client.ask(history={"channel": channel, "limit": 2})["history"]["publications"]
        assert [each["data"] for each in page] == [document(0), document(1)]


@pytest.mark.parametrize("kind", ["", "xdelta", "FOSSIL"])
def test_other_kinds_are_not_spoken(node: Daemon, channel: str, kind: str) -> None:
    with Client(node) as client:
        client.connected()
        assert "delta" not in client.subscribed(channel, delta=kind)
        post(node, channel, 1)
        assert client.push()["pub"]["data"] == 1


def test_the_setting(tmp_path: Path, channel: str) -> None:
    node = Daemon(tmp_path, centrifuge_delta=False, **SETTINGS)
    with Client(node) as client:
        client.connected()
        assert "delta" not in client.subscribed(channel, delta="fossil")
        for number in range(2):
            post(node, channel, document(number))
            assert client.push()["pub"]["data"] == document(number)
    assert node.stop() == 0


def test_filtered_subscriptions_have_none(node: Daemon) -> None:
    """Their message before is another one."""
    with Client(node) as client:
        entry = {"channel": "filtered", "filters": {"team": "red"}}
        client.connected(token=raiden_token(subscribe=[entry]))
        assert "delta" not in client.subscribed("filtered", delta="fossil")
        for team in ("red", "blue", "red"):
            post(node, "filtered", {"team": team, **document(1)})
        for _ in range(2):
            assert client.push()["pub"]["data"] == {"team": "red", **document(1)}


def test_whatever_the_message_is(node: Daemon, channel: str) -> None:
    """Text, bytes, nothing in common, small and large ones; each with the attributes that it has."""
    with Subscriber(node, channel) as client:
        text = "zwölf\u2028 \x85 \"quoted\" \\ \n 'text' 😀"
        for kind, body, seen in [
            ("text/plain", (text * 20).encode(), text * 20),
            ("text/plain", (text * 20 + "1").encode(), text * 20 + "1"),
            ("application/octet-stream", b"\x00\xff" * 300, {"base64": "AP8A" + "/wD/AP8A" * 99 + "/wD/"}),
            ("application/json", b'{ "a" : 1.50,\n "b" : 12345678901234567890 }', None),
            ("application/json", b"1", 1), ("application/json", b"2", 2), ("application/json", b'""', ""),
        ]:  # fmt: skip
            status, _, _ = node.request("POST", f"/{channel}", body, {"Content-Type": kind})
            assert status == 200
            found = client.next()
            if seen is None:
                assert json.loads(client.data.before) == {"a": 1.5, "b": 12345678901234567890}
                assert b"1.50" in client.data.before
            elif kind == "application/octet-stream":
                assert set(found) == {"base64"}
            else:
                assert found == seen
        assert client.data.is_delta == [False, True, False, False, False, False, False]
        for size in (MOST // 2, MOST // 2, 2 * MOST, 2 * MOST, MOST // 2, MOST // 2):
            post(node, channel, document(size, size // 2))
            assert client.next() == document(size, size // 2)
        assert client.data.is_delta[7:] == [False, True, False, False, False, True]
        post(node, channel, document(1), tags='{"color": "red"}')
        post(node, channel, document(2), tags='{"color": "red"}')
        for number in (1, 2):
            found = client.push()["pub"]
            assert client.data.of(found) == document(number) and found["tags"] == {"color": "red"}
        assert client.data.is_delta[-1]


def test_one_that_begins_gets_the_whole(node: Daemon, channel: str) -> None:
    with Subscriber(node, channel) as first:
        post(node, channel, document(0))
        assert first.next() == document(0)
        with Subscriber(node, channel) as second:
            for number in (1, 2):
                post(node, channel, document(number))
                assert first.next() == second.next() == document(number)
            assert second.data.is_delta == [False, True]
            # It leaves, and comes back.
            second.ask(unsubscribe={"channel": channel})
            post(node, channel, document(3))
            assert first.next() == document(3)
            second.subscribed(channel, delta="fossil")
            for number in (4, 5):
                post(node, channel, document(number))
                assert first.next() == second.next() == document(number)
            assert second.data.is_delta == [False, True, False, True]
        assert first.data.is_delta == [False, True, True, True, True, True]


def test_one_that_was_left_out_gets_the_whole(node: Daemon, channel: str) -> None:
    with Subscriber(node, channel) as one, Subscriber(node, channel) as two:
        for number in range(8):
            left_out = {2: one.id, 3: one.id, 5: two.id}.get(number)
            post(node, channel, document(number), **({} if left_out is None else {"except": left_out}))
            for each in (one, two):
                if each.id != left_out:
                    assert each.next() == document(number)
        assert one.data.is_delta == [False, True, False, True, True, True]
        assert two.data.is_delta == [False, True, True, True, True, False, True]
        assert not one.pushes and not two.pushes


def test_a_transient_message_is_one_before(node: Daemon, channel: str) -> None:
    with Subscriber(node, channel) as client:
        for number in range(4):
            post(node, channel, document(number), **({"transient": "true"} if number in (0, 2) else {}))
            found = client.push()["pub"]
            assert client.data.of(found) == document(number) and ("offset" in found) == (number in (1, 3))
        assert client.data.is_delta == [False, True, True, True]


def test_recovery(node: Daemon, channel: str) -> None:
    """What was missed comes whole, and then the next message."""
    with Subscriber(node, channel) as client:
        post(node, channel, document(0))
        assert client.next() == document(0)
        epoch = client.result["epoch"]
    for number in (1, 2):
        post(node, channel, document(number))
    with Subscriber(node, channel, recover=True, epoch=epoch, offset=1) as client:
        assert client.result["recovered"] and client.result["delta"]
        missed = client.result["publications"]
        assert [client.data.of(each) for each in missed] == [document(1), document(2)]
        assert [each["offset"] for each in missed] == [2, 3]
        for number in (3, 4):
            post(node, channel, document(number))
            assert client.next() == document(number)
        assert client.data.is_delta == [False, False, False, True]


def test_a_deleted_channel_begins_anew(node: Daemon, channel: str) -> None:
    with Subscriber(node, channel) as client:
        for number in range(2):
            post(node, channel, document(number))
            assert client.next() == document(number)
        assert node.request("DELETE", f"/{channel}")[0] == 202
        assert client.push()["unsubscribe"]["code"] == 2500
        client.subscribed(channel, delta="fossil")
        for number in (2, 3):
            post(node, channel, document(number))
            assert client.next() == document(number)
        assert client.data.is_delta == [False, True, False, True]


def test_a_server_side_subscription(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        asked = {channel: {"delta": "fossil"}}
        result = client.connected(token=token(channels=[channel, f"{channel}-2"]), subs=asked)
        assert result["subs"][channel]["delta"] and "delta" not in result["subs"][f"{channel}-2"]
        data = Data()
        for number in range(2):
            post(node, channel, document(number))
            assert data.of(client.push()["pub"]) == document(number)
        post(node, f"{channel}-2", document(3))
        assert client.push()["pub"]["data"] == document(3)
        assert data.is_delta == [False, True]


@pytest.mark.parametrize("path", ["http_stream", "sse"])
def test_streams(node: Daemon, channel: str, path: str) -> None:
    stream = Stream(node, f"/connection/{path}")
    try:
        assert stream.send({"id": 2, "subscribe": {"channel": channel, "delta": "fossil"}}) == 204
        assert stream.next()["subscribe"]["delta"]
        data = Data()
        for number in range(3):
            post(node, channel, document(number))
            assert data.of(stream.next()["push"]["pub"]) == document(number)
        assert data.is_delta == [False, True, True]
    finally:
        stream.close()


def test_protobuf(node: Daemon, channel: str) -> None:
    """Bytes, also those that are no JSON; beside a client of JSON."""
    client = ProtobufClient(node)
    client.send(Command(1, connect=ConnectRequest()), Command(2, subscribe=SubscribeRequest(channel, delta="fossil")))
    replies = [decode(each, Reply) for _ in range(2) for each in client.received()]
    assert replies[1].subscribe is not None and replies[1].subscribe.delta
    before, is_delta = b"", []
    with Subscriber(node, channel) as other:
        for number in range(6):
            data = json.dumps(document(number)).encode()
            if number >= 4:
                data = b"\xff\x80" * 500 + b"%d" % number
            client.send(Command(3, publish=PublishRequest(channel, Raw(data))))
            found = [decode(each, Reply) for _ in range(2) for each in client.received()]
            pushed = next(each.push.pub for each in found if each.push and each.push.pub)
            before = bytes(fossil.apply_delta(before, bytes(pushed.data)) if pushed.delta else pushed.data)
            is_delta.append(pushed.delta)
            if number < 4:
                assert json.loads(before) == other.next() == document(number)
            else:
                assert before == data
                other.next()
        assert is_delta == [False, True, True, True, False, True]
        assert other.data.is_delta == is_delta
    client.ws.close()


def test_compressed_frames(node: Daemon, channel: str) -> None:
    """A socket with permessage-deflate gets the same."""
    with connect(f"ws://{node.host}:{node.port}/connection/websocket", compression="deflate") as ws:
        ws.send('{"id":1,"connect":{}}\n' + json.dumps({"id": 2, "subscribe": {"channel": channel, "delta": "fossil"}}))
        assert "connect" in json.loads(ws.recv(60)) and json.loads(ws.recv(60))["subscribe"]["delta"]
        data = Data()
        for number in range(3):
            post(node, channel, document(number))
            assert data.of(json.loads(ws.recv(60))["push"]["pub"]) == document(number)
        assert data.is_delta == [False, True, True]


def test_many_come_and_go(node: Daemon, channel: str) -> None:
    """Whatever clients do meanwhile, each has the message that a delta is made of."""
    chance = random.Random(3)
    clients: list[Subscriber] = []
    deltas = whole = number = 0
    for _ in range(150):
        act = chance.random()
        if act < 0.2 or not clients:
            clients.append(Subscriber(node, channel))
        elif act < 0.3:
            left = clients.pop(chance.randrange(len(clients)))
            deltas, whole = deltas + sum(left.data.is_delta), whole + left.data.is_delta.count(False)
            left.ws.close()
        else:
            number += 1
            left_out = chance.choice(clients).id if chance.random() < 0.3 else ""
            headers = {"except": left_out} if left_out else {}
            if chance.random() < 0.2:
                headers["transient"] = "true"
            post(node, channel, document(number, chance.randrange(200)), **headers)
            for each in clients:
                if each.id != left_out:
                    assert each.next()["price"] == number
    for each in clients:
        each.ws.close()
    assert deltas > 2 * whole > 0


def test_a_batch(node: Daemon, channel: str) -> None:
    """Messages that come in one go are each a change of the one before."""
    with Subscriber(node, channel) as one:
        post(node, channel, document(0, 300))
        assert one.next() == document(0, 300)
        numbers = range(1, 41)
        with Subscriber(node, channel) as two:
            lines = [json.dumps(document(number, 300), ensure_ascii=False) for number in numbers]
            kind = {"Content-Type": "application/x-ndjson"}
            assert node.request("POST", f"/{channel}", "\n".join(lines).encode(), kind)[0] == 200
            for number in numbers:
                assert one.next() == two.next() == document(number, 300)
            assert all(one.data.is_delta[1:]) and two.data.is_delta[0] is False and all(two.data.is_delta[1:])


def test_a_client_of_deltas_goes_to_the_other_node(tmp_path: Path, redis_server: RedisServer) -> None:
    """What it missed is whole, and so is the first message there; the next one is a change of that."""
    open_to_all = {"channels": {"*": SETTINGS["channels"]["*"]}}
    with two_nodes(tmp_path, redis_server.url, **{**SETTINGS, **open_to_all}) as (one, two):
        with Subscriber(one, "room") as client:
            for number in range(3):
                post(two, "room", document(number))
                assert client.next() == document(number)
            epoch = client.result["epoch"]
            assert client.data.is_delta == [False, True, True]
        post(one, "room", document(3))
        with Subscriber(two, "room", recover=True, epoch=epoch, offset=3) as client:
            missed = client.result["publications"]
            assert client.result["recovered"] and [client.data.of(each) for each in missed] == [document(3)]
            for number in (4, 5):
                post(one, "room", document(number))
                assert client.next() == document(number)
            assert client.data.is_delta == [False, False, True]
