"""Action Cable and AnyCable's extended protocol on one node, message by message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from benchmarks.dialects import KINDS, Readers, subscribe
from raiden.dialects.cable import commands
from raiden.dialects.cable.encodings import Encodings, Form
from raiden.dialects.cable.follows import MAX_COPIES
from raiden.model.encoding import deflated
from raiden.model.message import Kind, Message
from raiden.node import config
from tests.collecting import Collecting
from tests.daemons import Daemon, Stream, running, wait_for
from tests.dialects.cable import EXTENDED, KEY, PLAIN, Cable, broadcast, public, publish, signed, turbo
from tests.tokens import token as token_of

# Connections that are only pinged: TESTS_CONNECTIONS=5000 is many.
CONNECTIONS = int(os.environ.get("TESTS_CONNECTIONS", "200"))
CHANNELS = {
    "*": {}, "short.*": {"history_size": 3}, "none.*": {"history_size": 0}, "closed.*": {"subscribe": "nobody"},
    "told.*": {"subscribe": "token"},
}  # fmt: skip
JWT = "the secret of tokens, thirty-two b"
SETTINGS: dict[str, Any] = {
    "dialects": ["cable"], "cable_secret": ["s3Krit", "older"], "cable_jwt_secret": JWT, "channels": CHANNELS,
}  # fmt: skip

# A text that takes a reader of JSON ten times as long as others.
SLOW = "\\ud800" * 20_000


def token(user: int | None = 42, **claims: Any) -> str:
    if user is not None:
        claims["ext"] = json.dumps({"user_id": user})
    return token_of(None, secret=JWT, **claims)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node that is open to all streams."""
    yield from running(
        tmp_path_factory.mktemp("cable"), workers=2, cable_public=True, cable_whispers=True, presence_linger=0.5,
        **SETTINGS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node with signed streams only."""
    yield from running(tmp_path_factory.mktemp("cable"), max_subscriptions=3, **SETTINGS)


def rejected(client: Cable, identifier: str) -> bool:
    client.send("subscribe", identifier)
    told = client.next()
    assert told["identifier"] == identifier
    return bool(told["type"] == "reject_subscription")


# The door.


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ((PLAIN, "actioncable-unsupported"), PLAIN),
        ((EXTENDED,), EXTENDED),
        ((PLAIN, EXTENDED), EXTENDED),
        ((PLAIN, "anycable-token.a.b.c"), PLAIN),
        (("",), None),
    ],
)
def test_subprotocols(node: Daemon, offered: tuple[str, ...], taken: str | None) -> None:
    if "anycable-token.a.b.c" in offered:
        offered = (PLAIN, f"anycable-token.{token()}")
    with Cable(node, offered[0], others=offered[1:]) as client:
        assert client.socket.subprotocol == taken
        assert client.welcome["type"] == "welcome" and len(client.sid) >= 24


def test_an_unknown_subprotocol_is_refused(node: Daemon) -> None:
    with pytest.raises(InvalidStatus) as error:
        Cable(node, "actioncable-v1-msgpack")
    assert error.value.response.status_code == 400


def test_sids_differ(node: Daemon) -> None:
    with Cable(node) as one, Cable(node) as other:
        assert one.sid != other.sid


def test_pings_come_every_three_seconds(node: Daemon) -> None:
    with Cable(node) as client:
        first = client.next(pings=True)
        assert first["type"] == "ping" and abs(first["message"] - time.time()) < 60
        assert client.next(pings=True)["type"] == "ping"


def test_pings_to_many(start: Callable[..., Daemon]) -> None:
    """Clients take a connection without a message for 6 seconds for dead."""
    node = start(**SETTINGS, max_connections_per_address=6000)
    kind = KINDS["cable"]._replace(commands=[], heard=b"welcome")
    with ExitStack() as stack:
        sockets = [stack.enter_context(subscribe(node, kind)) for _ in range(CONNECTIONS)]
        assert Readers(sockets).longest_silence(9) < 6


def test_a_ping_of_the_client_is_answered(node: Daemon) -> None:
    with Cable(node) as client:
        client.settle()


def test_garbage_is_ignored(node: Daemon) -> None:
    with Cable(node) as client:
        for data in (
            "", "{", "[]", "null", "7", '{"command":7}', '{"command":"fly"}', '{"command":"subscribe"}',
            '{"command":"subscribe","identifier":{}}', '{"command":"history","identifier":"x"}', "[" * 100_000,
            '{"command":"whisper","identifier":"x","data":1}', '{"command":"message","identifier":"x","data":"{}"}',
            '{"command":"join","identifier":"x","presence":{"id":{}}}', '{"command":"leave"}',
        ):  # fmt: skip
            client.socket.send(data)
        client.socket.send(b'{"command":"ping"}')
        assert client.next() == {"type": "reject_subscription", "identifier": ""}
        client.settle()


# Streams.


@pytest.mark.parametrize("extended", [False, True])
def test_a_message(node: Daemon, channel: str, extended: bool) -> None:
    identifier = turbo(channel)
    with Cable(node, EXTENDED if extended else PLAIN) as client:
        client.subscribe(identifier)
        publish(node, channel, {"a": 1})
        told = client.next()
        if extended:
            assert told.pop("stream_id") == channel and told.pop("epoch").isalnum() and told.pop("offset") == 1
        assert told == {"identifier": identifier, "message": {"a": 1}}


def test_kinds_of_payloads(node: Daemon) -> None:
    channel = "none.kinds"
    with Cable(node, EXTENDED) as client:
        client.subscribe(public(channel))
        kinds = {
            '{"a":[1,2.50]}': {"a": [1, 2.5]},
            "not json": "not json",
            "": "",
            '"text"': "text",
            "0": 0,
            "null": None,
        }
        # One by one: without a history, messages by several workers have no order.
        for data, told in kinds.items():
            assert broadcast(node, {"stream": channel, "data": data}) == 201
            assert client.message() == told


def test_an_identifier_is_echoed_byte_for_byte(node: Daemon, channel: str) -> None:
    identifier = ' {"x":"ü\\u00fc\\"\u2028", "channel":"$pubsub" , "stream_name":"' + channel + '"}'
    with Cable(node) as client:
        client.subscribe(identifier)
        publish(node, channel, 1)
        assert client.next() == {"identifier": identifier, "message": 1}


VECTOR = "ImNoYXQ6MjAyMSI=--f9ee45dbccb1da04d8ceb99cc820207804370ba0d06b46fc3b8b373af1315628"
ARRAY = "WyJjaGF0LzIwMjMiLDE2ODUwMjQwMTdd--5b6661024d4c463c4936cd1542bc9a7672dd8039ac407d0b6c901697190e8aeb"


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": "$pubsub", "signed_stream_name": VECTOR},
        {"channel": "Turbo::StreamsChannel", "signed_stream_name": VECTOR, "anything": [1]},
        {"channel": "CableReady::Stream", "identifier": VECTOR},
        {"channel": "$pubsub", "signed_stream_name": VECTOR, "stream_name": "other"},
        {"channel": "$pubsub", "signed_stream_name": signed("chat:2021", "older")},
    ],
)
def test_a_signed_stream(strict: Daemon, fields: dict[str, Any]) -> None:
    with Cable(strict) as client:
        client.subscribe(json.dumps(fields))
        publish(strict, "chat:2021", "hello")
        assert client.message() == "hello"


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": "ChatChannel", "id": 1},
        {"channel": "$pubsub", "stream_name": "chat:2021"},
        {"channel": "$pubsub"},
        {"channel": "$pubsub", "signed_stream_name": ARRAY},
        {"channel": "$pubsub", "signed_stream_name": VECTOR[:-1] + "0"},
        {"channel": "$pubsub", "signed_stream_name": VECTOR + "--"},
        {"channel": "$pubsub", "signed_stream_name": VECTOR.partition("--")[0]},
        {"channel": "$pubsub", "signed_stream_name": signed("chat:2021", "")},
        {"channel": "$pubsub", "signed_stream_name": signed("news.*")},
        {"channel": "$pubsub", "signed_stream_name": signed("-/own")},
        {"channel": "$pubsub", "signed_stream_name": signed("x" * 256)},
        {"channel": "$pubsub", "signed_stream_name": signed("closed.room")},
        {"channel": "$pubsub", "signed_stream_name": 7},
        {"channel": "Turbo::StreamsChannel", "stream_name": "chat:2021"},
        {"channel": "CableReady::Stream", "signed_stream_name": VECTOR},
        {"channel": ["$pubsub"], "signed_stream_name": VECTOR},
        {"channel": "$pubsub", "signed_stream_name": VECTOR, "x": "x" * 2048},
    ],
)
def test_what_is_no_stream_is_rejected(strict: Daemon, fields: dict[str, Any]) -> None:
    with Cable(strict) as client:
        assert rejected(client, json.dumps(fields))


def test_the_log_names_a_channel_class_once(strict: Daemon) -> None:
    with Cable(strict) as client:
        for id in range(3):
            assert rejected(client, json.dumps({"channel": "LogChannel", "id": id}))
    assert strict.log().count("LogChannel") == 1


def test_public_streams_need_the_setting_or_a_token(node: Daemon, strict: Daemon) -> None:
    with Cable(node) as client:
        assert not rejected(client, public("a")) and rejected(client, public("closed.a"))
        assert rejected(client, public("told.a"))
    with Cable(strict, jid=token(subscribe=["mine", "told.*"])) as client:
        assert not rejected(client, public("mine")) and rejected(client, public("yours"))
        assert not rejected(client, public("told.a"))
    with Cable(strict, jid=token(subscribe=[{"channel": "mine", "filters": {"team": ["red"]}}])) as client:
        client.subscribe(public("mine"))
        publish(strict, "mine", {"team": "blue"}, {"team": "red"})
        assert client.message() == {"team": "red"}


def test_a_secret_closes_the_other_doors(strict: Daemon) -> None:
    assert strict.request("GET", "/chat?_since=earliest")[0] == 401
    assert strict.request("POST", "/chat", "1", {"Content-Type": "application/json"})[0] == 401


@pytest.mark.parametrize(("subprotocol", "again"), [(PLAIN, True), (EXTENDED, False)])
def test_who_subscribes_again(node: Daemon, channel: str, subprotocol: str, again: bool) -> None:
    identifier = turbo(channel)
    with Cable(node, subprotocol) as client:
        client.subscribe(identifier)
        client.send("subscribe", identifier)
        if again:
            assert client.next() == {"type": "confirm_subscription", "identifier": identifier}
        client.settle()
        publish(node, channel, 1, 2)
        assert [client.message(), client.message()] == [1, 2]


def test_who_asks_again_before_the_confirmation_is_confirmed_once(node: Daemon, channel: str) -> None:
    with Cable(node) as client:
        for _ in range(5):
            client.send("subscribe", turbo(channel))
        client.send("ping")
        told: list[dict[str, Any]] = []
        while not told or told[-1]["type"] != "pong":
            told.append(client.next())
        # Those that were read behind the confirmation are confirmed again.
        assert 1 <= len(told) - 1 <= 5


def test_unsubscribe_then_subscribe(node: Daemon, channel: str) -> None:
    identifier = turbo(channel)
    with Cable(node) as client:
        client.subscribe(identifier)
        for _ in range(20):
            client.send("unsubscribe", identifier)
            client.send("subscribe", identifier)
        for _ in range(20):
            assert client.next()["type"] == "confirm_subscription"
        client.settle()
        publish(node, channel, 1)
        assert client.message() == 1
        client.send("unsubscribe", identifier)
        client.settle()
        publish(node, channel, 2)
        client.subscribe(identifier)
        publish(node, channel, 3)
        assert client.message() == 3


def test_each_identifier_gets_its_copy(node: Daemon, channel: str) -> None:
    one, other = turbo(channel), turbo(channel, page=2)
    with Cable(node) as client:
        client.subscribe(one)
        client.subscribe(other)
        publish(node, channel, 1)
        assert {client.next()["identifier"] for _ in range(2)} == {one, other}
        client.send("unsubscribe", one)
        client.settle()
        publish(node, channel, 2)
        assert client.next() == {"identifier": other, "message": 2}


def test_max_subscriptions_counts_identifiers(strict: Daemon) -> None:
    with Cable(strict) as client:
        for number in range(3):
            client.subscribe(turbo("one", number=number))
        assert rejected(client, turbo("one", number=3))
        client.send("unsubscribe", turbo("one", number=0))
        client.subscribe(turbo("one", number=3))


def test_the_identifiers_for_one_stream_are_bounded(node: Daemon, channel: str) -> None:
    """Each gets its own copy of the messages."""
    names = [json.dumps({"channel": "$pubsub", "stream_name": channel, "n": n}) for n in range(MAX_COPIES + 1)]
    with Cable(node) as client:
        for each in names[1:]:
            client.subscribe(each)
        assert rejected(client, names[0])
        client.send("unsubscribe", names[1])
        client.subscribe(names[0])
        client.subscribe(public("another"))


@pytest.mark.parametrize("subprotocol", [PLAIN, EXTENDED])
def test_messages_are_compressed(node: Daemon, channel: str, subprotocol: str) -> None:
    values = [*("payload" * n for n in (0, 1, 5, 100, 10_000, 100_000)), os.urandom(1000).hex(), {"a": [1, 2]}]
    names = [json.dumps({"channel": "$pubsub", "stream_name": channel, "of": of * 100}) for of in "xé"]
    with Cable(node, subprotocol, compression="deflate") as client:
        for name in names:
            client.subscribe(name)
        for value in values:
            publish(node, channel, value)
            told = [client.next() for _ in names]
            assert sorted(each["identifier"] for each in told) == sorted(names)
            assert all(each["message"] == value for each in told)
            assert all(("offset" in each) == (subprotocol == EXTENDED) for each in told)


def test_a_message_is_compressed_once_for_all_identifiers() -> None:
    """It may take tens of milliseconds, and clients may make any number of identifiers."""
    encodings, message = Encodings(), Message("a", Kind.JSON, json.dumps("payload" * 1000).encode())
    one, two = [encodings.take(Form(name, False, True))(message) for name in ("one", "the other")]
    assert one[0] == two[0] == 0xC1 and one != two
    rest = deflated(message.payload + b"}")[:-4]
    assert one.endswith(rest) and two.endswith(rest) and len(one) < len(rest) + 100
    (plain,) = [encodings.take(Form("one", False, False))(message)]
    assert zlib.decompressobj(-15).decompress(one[2:] + b"\0\0\xff\xff") == plain[4:]


def test_native_clients_hear_the_same(start: Callable[..., Daemon], channel: str) -> None:
    anyone = dict.fromkeys(("subscribe", "publish", "history", "manage"), "anyone")
    node = start(**{**SETTINGS, "channels": {"*": anyone}})
    identifier = public(channel)
    with Cable(node, EXTENDED) as client, Cable(node, EXTENDED) as other, Stream(node, f"/{channel}") as stream:
        client.subscribe(identifier)
        node.publish(channel, {"a": 1})
        node.request("POST", f"/{channel}", b"\x00\xff", {"Content-Type": "application/octet-stream"})
        publish(node, channel, 3)
        assert [client.message() for _ in range(3)] == [{"a": 1}, "AP8=", 3]
        assert [stream.value() for _ in range(3)] == [{"a": 1}, {"base64": "AP8="}, 3]
        # The channel's deletion, and its end, are nothing that clients of this protocol know.
        assert node.request("DELETE", f"/{channel}")[0] == 202
        publish(node, channel, 4)
        told = client.next()
        assert told["message"] == 4 and told["offset"] == 1
        assert (
            node.request("POST", f"/{channel}", "5", {"Content-Type": "application/json", "Raiden-End": "true"})[0]
            == 200
        )
        assert client.message() == 5
        assert broadcast(node, {"stream": channel, "data": "6"}) == 409
        assert node.request("DELETE", f"/{channel}")[0] == 202
        publish(node, channel, 7)
        assert client.message() == 7
        client.send("unsubscribe", identifier)
        client.settle()
        other.subscribe(identifier)
        body = json.dumps({"sub": "nobody"})
        assert node.request("POST", "/-/disconnect", body, {"Content-Type": "application/json"})[0] == 200


# Missed messages.


def places(client: Cable, channel: str, count: int) -> list[dict[str, Any]]:
    """The places of the next messages, as a client tells them."""
    found = [client.next() for _ in range(count)]
    return [{channel: {"epoch": told["epoch"], "offset": told["offset"]}} for told in found]


def missed(client: Cable) -> tuple[list[Any], str]:
    """The missed messages, and what is told behind them."""
    found = []
    while "message" in (told := client.next()):
        found.append(told["message"])
    return found, told["type"]


def test_messages_behind_a_place(node: Daemon, channel: str) -> None:
    identifier = public(channel)
    with Cable(node, EXTENDED) as client:
        client.subscribe(identifier)
        publish(node, channel, *range(6))
        seen = places(client, channel, 6)
    with Cable(node, EXTENDED) as client:
        client.subscribe(identifier, history={"since": 1, "streams": seen[1]})
        assert missed(client) == ([2, 3, 4, 5], "confirm_history")
        publish(node, channel, 6)
        assert client.message() == 6
        client.send("history", identifier, history={"streams": seen[4]})
        assert missed(client) == ([5, 6], "confirm_history")
        client.send("history", identifier, history={})
        assert missed(client) == ([], "confirm_history")
        publish(node, channel, 7)
        assert client.message() == 7


def test_messages_since_a_time(node: Daemon, channel: str) -> None:
    identifier = public(channel)
    begun = int(time.time())
    publish(node, channel, *range(50))
    with Cable(node, EXTENDED) as client:
        client.subscribe(identifier, history={"since": begun})
        assert missed(client) == ([*range(50)], "confirm_history")
        client.send("history", identifier, history={"since": int(time.time()) + 100})
        assert missed(client) == ([], "confirm_history")
        odd: Any
        for odd in ("x", -5, 0, None, [], 1e99):
            client.send("history", identifier, history={"since": odd, "streams": odd})
            assert missed(client) == ([], "confirm_history")


def test_a_place_that_is_lost_is_rejected(node: Daemon) -> None:
    channel = "short.lost"
    with Cable(node, EXTENDED) as client:
        client.subscribe(public(channel))
        publish(node, channel, *range(6))
        seen = places(client, channel, 6)
    epoch = seen[0][channel]["epoch"]
    lost: Any
    for lost in (seen[0][channel], {"epoch": "another", "offset": 5}, {"epoch": epoch, "offset": 99}, "x", {}):
        with Cable(node, EXTENDED) as client:
            client.subscribe(public(channel), history={"since": 1, "streams": {channel: lost}})
            assert missed(client) == ([], "reject_history"), lost
            client.send("history", public(channel), history={"streams": {channel: lost}})
            assert missed(client) == ([], "reject_history"), lost
            publish(node, channel, 7)
            assert client.message() == 7


def test_a_channel_without_history(node: Daemon) -> None:
    channel = "none.at-all"
    with Cable(node, EXTENDED) as client:
        client.subscribe(public(channel), history={"since": 1})
        assert missed(client) == ([], "confirm_history")
        client.send("history", public(channel), history={"streams": {channel: {"epoch": "a", "offset": 1}}})
        assert missed(client) == ([], "reject_history")
        publish(node, channel, 1)
        assert client.next() == {"identifier": public(channel), "message": 1}


def test_the_plain_protocol_has_no_history(node: Daemon, channel: str) -> None:
    publish(node, channel, 1)
    with Cable(node) as client:
        client.subscribe(public(channel), history={"since": 1})
        client.send("history", public(channel), history={"since": 1})
        client.settle()


def test_no_message_is_lost_or_doubled_while_others_come(node: Daemon, channel: str) -> None:
    identifier = public(channel)
    publish(node, channel, 0)
    with Cable(node, EXTENDED) as first:
        first.subscribe(identifier, history={"since": 1})
        (place,) = places(first, channel, 1)
        assert first.next()["type"] == "confirm_history"
    clients = []
    for number in range(1, 40):
        broadcast(node, [{"stream": channel, "data": str(number)}])
        client = Cable(node, EXTENDED)
        client.send("subscribe", identifier, history={"streams": place})
        clients.append(client)
    for client in clients:
        assert client.next()["type"] == "confirm_subscription"
        got: list[int] = []
        confirmed = False
        while not got or got[-1] < 39:
            told = client.next()
            if "message" in told:
                got.append(told["message"])
            else:
                assert told["type"] == "confirm_history" and not confirmed
                confirmed = True
        assert got == [*range(1, 40)]
        client.socket.close()


# Tokens.


@pytest.mark.parametrize("where", ["field", "query", "subprotocol"])
def test_a_token(strict: Daemon, where: str) -> None:
    good = token(subscribe=["mine"])
    headers = {"X-JID": good} if where == "field" else None
    others = [f"anycable-token.{good}"] if where == "subprotocol" else []
    with Cable(strict, headers=headers, others=others, jid=good if where == "query" else "") as client:
        client.subscribe(public("mine"))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (token(exp=time.time() - 100), "token_expired"),
        (token_of(None, secret="another secret of thirty-two bytes", ext="{}"), "unauthorized"),
        ("garbage", "unauthorized"),
        (token(None, ext=7), "unauthorized"),
    ],
)
def test_a_bad_token(node: Daemon, bad: str, reason: str) -> None:
    with Cable(node, EXTENDED, jid=bad) as client:
        assert client.welcome == {"type": "disconnect", "reason": reason, "reconnect": False}
        assert client.closed() == 1000


def test_a_token_that_is_needed(start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS, cable_token_required=True, cable_token_param="pass", jwt_leeway=0, access_log=True)
    with Cable(node) as client:
        assert client.welcome == {"type": "disconnect", "reason": "unauthorized", "reconnect": False}
    secret = token()
    with Cable(node, sid="told", query={"pass": secret}) as client:
        assert client.welcome["type"] == "welcome"
    wait_for(lambda: "pass=..." in node.log(), "the access log has the request")
    assert secret not in node.log() and "sid=told" not in node.log()
    with Cable(node, query={"pass": token(exp=time.time() + 2)}) as client:
        assert client.welcome["type"] == "welcome"
        assert client.next() == {"type": "disconnect", "reason": "token_expired", "reconnect": False}
        assert client.closed() == 1000


def test_a_token_that_is_revoked(start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS, jwt_keys=[{"alg": "HS256", "key": "k" * 32}])
    manager = {"Authorization": f"Bearer {token_of('boss', secret='k' * 32, manage=['*'])}"}
    with Cable(node, jid=token(1)) as client, Cable(node, jid=token(2)) as other:
        body = json.dumps({"sub": '{"user_id": 1}'})
        status, _, answer = node.request("POST", "/-/revoke", body, {"Content-Type": "application/json", **manager})
        assert status == 200 and json.loads(answer)["ended"] == 1
        assert client.next() == {"type": "disconnect", "reason": "unauthorized", "reconnect": False}
        other.settle()
    with Cable(node, jid=token(1)) as client:
        assert client.welcome["reason"] == "unauthorized"


# Whispers.


def test_a_whisper_reaches_all_others(node: Daemon, channel: str) -> None:
    with Cable(node) as one, Cable(node, EXTENDED) as two, Cable(node) as three, Cable(node) as four:
        for client in (one, two, three):
            client.subscribe(public(channel))
        four.subscribe(public(f"{channel}.other"))
        one.send("whisper", public(channel), data={"typing": [True, 1.50]})
        for client in (two, three):
            assert client.next() == {"identifier": public(channel), "message": {"typing": [True, 1.5]}}
        one.settle()
        four.settle()
        two.send("history", public(channel), history={"since": 1})
        assert missed(two) == ([], "confirm_history")


def test_whispers_that_are_not_allowed(strict: Daemon) -> None:
    with Cable(strict) as one, Cable(strict) as two:
        for client in (one, two):
            client.subscribe(turbo("whispers"))
        one.send("whisper", turbo("whispers"), data=1)
        one.send("whisper", turbo("others"), data=1)
        one.settle()
        publish(strict, "whispers", 2)
        assert two.message() == 2


# Presence.


def join(id: str, **info: Any) -> dict[str, Any]:
    return {"id": id, "info": info} if info else {"id": id}


def heard(identifier: str, kind: str, **what: Any) -> dict[str, Any]:
    return {"type": "presence", "identifier": identifier, "message": {"type": kind, **what}}


def test_presence(node: Daemon, channel: str) -> None:
    identifier = public(channel)
    with Cable(node, EXTENDED) as one, Cable(node, EXTENDED, jid=token()) as two, Cable(node) as plain:
        for client in (one, two, plain):
            client.subscribe(identifier)
        one.send("join", identifier, presence=join("42", name="Ann"))
        for client in (one, two):
            assert client.next() == heard(identifier, "join", id="42", info={"name": "Ann"})
        one.send("join", identifier, presence=join("42", name="Ann"))
        one.send("join", identifier, presence=join("other"))
        with Cable(node, EXTENDED) as three:
            three.subscribe(identifier, presence=join("7"))
            for client in (one, two, three):
                assert client.next() == heard(identifier, "join", id="7")
            three.send("presence", identifier, data={})
            records = [{"id": "42", "info": {"name": "Ann"}}, {"id": "7"}]
            assert three.next() == heard(identifier, "info", total=2, records=records)
        for client in (one, two):
            assert client.next() == heard(identifier, "leave", id="7")
        one.send("leave", identifier)
        for client in (one, two):
            assert client.next() == heard(identifier, "leave", id="42")
        two.send("presence", identifier, data={})
        assert two.next() == heard(identifier, "info", total=0, records=[])
        plain.settle()


def test_who_leaves_is_told_at_once(start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS, cable_public=True, presence_linger=600)
    identifier = public("room")
    with Cable(node, EXTENDED) as one, Cable(node, EXTENDED) as two:
        for client, id in ((one, "1"), (two, "2")):
            client.subscribe(identifier, presence=join(id))
            assert client.next() == heard(identifier, "join", id=id)
        assert one.next() == heard(identifier, "join", id="2")
        two.send("leave", identifier)
        assert one.next() == heard(identifier, "leave", id="2")
        assert two.next() == heard(identifier, "leave", id="2")
        two.send("join", identifier, presence=join("2"))
        for client in (one, two):
            assert client.next() == heard(identifier, "join", id="2")
        two.send("unsubscribe", identifier)
        assert one.next() == heard(identifier, "leave", id="2")


def test_presence_that_is_not_allowed(strict: Daemon) -> None:
    with Cable(strict, EXTENDED) as client:
        client.subscribe(turbo("presence"), presence=join("1"))
        client.send("join", turbo("presence"), presence=join("1"))
        client.send("presence", turbo("presence"), data={})
        assert client.next() == heard(turbo("presence"), "error")
        client.settle()


# Sessions that come back.


def back(node: Daemon, client: Cable, jid: str = "") -> Cable:
    """The client of a session that comes back, once that is kept."""

    def restored() -> Cable | None:
        again = Cable(node, EXTENDED, sid=client.sid, jid=jid)
        if again.welcome.get("restored"):
            return again
        again.socket.close()
        return None

    found = wait_for(restored, "the session is kept")
    assert found is not None
    return found


def test_a_session_comes_back(node: Daemon, channel: str) -> None:
    one, two = public(channel), public("none.back")
    with Cable(node, EXTENDED) as client:
        client.subscribe(one)
        client.subscribe(two)
        publish(node, channel, 1)
        (place,) = places(client, channel, 1)
    publish(node, channel, 2)
    with back(node, client) as again:
        assert sorted(again.welcome["restored_ids"]) == sorted([one, two]) and again.sid != client.sid
        publish(node, "none.back", "live")
        assert again.message() == "live"
        publish(node, channel, 3)
        again.settle()
        again.send("history", one, history={"streams": place})
        found, told = missed(again)
        assert told == "confirm_history"
        publish(node, channel, 4)
        # The worker may get a message later than its publisher the answer: then it is none that was missed.
        while found[-1] != 4:
            found.append(again.message())
        assert found == [2, 3, 4]


def test_messages_are_held_back_for_a_while(node: Daemon, channel: str) -> None:
    with Cable(node, EXTENDED) as client:
        client.subscribe(public(channel))
    with back(node, client) as again:
        publish(node, channel, 1, 2)
        assert [again.message(), again.message()] == [1, 2]


def test_a_client_that_leaves_while_it_comes_back(start: Callable[..., Daemon]) -> None:
    node = start(**{**SETTINGS, "channels": {"*": dict.fromkeys(("subscribe", "manage"), "anyone")}})
    with Cable(node, EXTENDED) as client:
        client.subscribe(public("left"))
    back(node, client).socket.close()
    kind = KINDS["cable-ext"]._replace(path=f"/cable?sid={client.sid}", commands=[], heard=b"101")
    for _ in range(50):
        subscribe(node, kind).close()
    wait_for(lambda: node.metric("raiden_connections", transport="cable") == 0, "all have gone")
    wait_for(lambda: node.json("/-/channels/left")["subscribers"] == 0, "nobody follows")
    assert node.metric("raiden_channels") == 0


def test_a_session_of_another_client(node: Daemon, channel: str) -> None:
    with Cable(node, EXTENDED, jid=token(1)) as client:
        client.subscribe(public(channel))
    back(node, client, jid=token(1)).socket.close()
    for jid in (token(2), ""):
        with Cable(node, EXTENDED, sid=client.sid, jid=jid) as other:
            assert "restored" not in other.welcome
    with Cable(node, jid=token(1), sid=client.sid) as plain:
        assert "restored" not in plain.welcome


# The application.


def test_a_broadcast_of_several(node: Daemon, channel: str) -> None:
    with Cable(node) as client:
        client.subscribe(public(channel))
        body = [{"stream": channel, "data": str(number)} for number in range(10)]
        assert broadcast(node, body) == 201
        assert [client.message() for _ in range(10)] == [*range(10)]
        assert broadcast(node, []) == 201


def test_a_broadcast_that_leaves_one_out(node: Daemon, channel: str) -> None:
    with Cable(node) as one, Cable(node) as two:
        for client in (one, two):
            client.subscribe(public(channel))
        publish(node, channel, 1, exclude_socket=one.sid)
        publish(node, channel, 2, exclude_socket="nobody's")
        publish(node, channel, 3, broadcast_type="presence")
        publish(node, channel, 4)
        assert [one.message(), one.message()] == [2, 4]
        assert [two.message(), two.message(), two.message()] == [1, 2, 4]


def test_a_transient_broadcast(node: Daemon, channel: str) -> None:
    with Cable(node, EXTENDED) as client:
        client.subscribe(public(channel))
        publish(node, channel, 1, transient=True)
        assert client.next() == {"identifier": public(channel), "message": 1}
        client.send("history", public(channel), history={"since": 1})
        assert missed(client) == ([], "confirm_history")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 422), ("7", 422), ("{}", 422), ('{"stream":"a"}', 422), ('{"stream":"a","data":{}}', 422),
        ('{"stream":"","data":""}', 422), ('{"stream":"a*","data":""}', 422), ('[{"stream":"a"}]', 422), ("[7]", 422),
        ('{"command":"fly"}', 422), ('{"command":"disconnect"}', 422),
        ('{"command":"disconnect","payload":{"identifier":7}}', 422),
        pytest.param('{"stream":"a","data":"' + SLOW + '"}', 422, id="slow"),
    ],
)  # fmt: skip
def test_a_bad_broadcast(node: Daemon, body: str, status: int) -> None:
    assert node.request("POST", "/_broadcast", body, {"Authorization": f"Bearer {KEY}"})[0] == status


def test_the_key_of_broadcasts(node: Daemon) -> None:
    for key in (None, "", "x", KEY.upper()):
        assert broadcast(node, {"stream": "a", "data": ""}, key) == 401
    assert node.request("GET", "/_broadcast", headers={"Authorization": f"Bearer {KEY}"})[0] == 405


def test_clients_are_disconnected(node: Daemon) -> None:
    one = [Cable(node, jid=token(77)) for _ in range(4)]
    with Cable(node, jid=token(78)) as other, Cable(node) as nobody:
        for reconnect in (False, True):
            payload = {"identifier": json.dumps({"user_id": 77}), "reconnect": reconnect}
            assert broadcast(node, {"command": "disconnect", "payload": payload}) == 201
            for client in one:
                assert client.next() == {"type": "disconnect", "reason": "remote", "reconnect": reconnect}
                assert client.closed() == 1000
            one = [Cable(node, jid=token(77)) for _ in range(4)]
        other.settle()
        nobody.settle()
    for client in one:
        client.socket.close()


def test_a_node_that_stops(start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS)
    with Cable(node) as plain, Cable(node, EXTENDED) as extended:
        extended.subscribe(turbo("x"))
        node.signal(15)
        for client in (plain, extended):
            assert client.next() == {"type": "disconnect", "reason": "server_restart", "reconnect": True}
            assert client.closed() == 1000


def test_a_client_that_stops_to_answer_pings(start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS, cable_pong_timeout=0.1)
    with Cable(node) as plain, Cable(node, EXTENDED) as silent:
        silent.send("pong")
        assert silent.next() == {"type": "disconnect", "reason": "no_pong", "reconnect": True}
        plain.settle()


@pytest.mark.parametrize("member", ["command", "identifier"])
def test_what_takes_long_to_read_is_no_command(member: str) -> None:
    members = {"command": "subscribe", "identifier": "a", member: "SLOW"}
    assert commands.read(json.dumps(members)) is not None
    assert commands.read(json.dumps(members).replace("SLOW", SLOW)) is None


def test_a_message_that_is_too_large(start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS, max_ws_message=1000)
    with Cable(node) as client, Cable(node) as other:
        client.socket.send("x" * 1001)
        assert client.closed() == 1009
        other.settle()


def test_a_slow_client(start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS, max_outbox=100_000, max_ws_message=1 << 20)
    with Cable(node, unread=1) as slow:
        slow.subscribe(turbo("none.flood"))
        for _ in range(20):
            publish(node, "none.flood", "x" * 900_000)
        wait_for(lambda: "slow consumer" in node.log(), "the client is too slow")


def test_no_cycle_is_left(tmp_path: Path) -> None:
    node = Collecting(tmp_path, dialects=["cable"], cable_public=True, cable_jwt_secret=JWT)

    def live(number: int) -> None:
        subprotocol = EXTENDED if number % 3 else PLAIN
        with Cable(node, subprotocol, jid=token(number) if number % 2 else "") as client:
            for name in ("one", "two"):
                client.send("subscribe", public(name), history={"since": 1}, presence={"id": str(number)})
                client.send("whisper", public(name), data=number)
            client.send("presence", public("one"))
            client.send("history", public("one"), history={"since": 1})
            client.send("unsubscribe", public("two"))
            client.send("subscribe", "no stream")
            client.send("ping")
            while client.next().get("type") != "pong":
                pass
            client.send("subscribe", public("last"))  # and it does not wait for the answer
        if subprotocol == EXTENDED and number < 3:
            back(node, client, jid=token(number) if number % 2 else "").socket.close()
        with Cable(node, jid="bad") as refused:
            refused.closed()

    try:
        live(0)
        node.collected()
        for number in range(10):
            live(number)
        wait_for(lambda: node.metric("raiden_connections", transport="cable") == 0, "all have gone")
        assert node.collected() == ""
    finally:
        node.stop()


def test_without_the_dialect_there_is_no_path(daemon: Daemon) -> None:
    assert daemon.request("POST", "/_broadcast", "1", {"Content-Type": "application/json"})[0] == 200
    assert daemon.request("GET", "/cable?_wait=0")[0] == 204


def test_a_node_without_secrets(start: Callable[..., Daemon]) -> None:
    node = start(dialects=["cable"], cable_path="/ws/cable", cable_public=True, store="none", ws_deflate=False)
    with Cable(node, EXTENDED, path="/ws/cable", jid="ignored") as client:
        client.subscribe(public("a"))
        assert broadcast(node, {"stream": "a", "data": "1"}, None) == 201
        assert client.next() == {"identifier": public("a"), "message": 1}
        assert rejected(client, turbo("a"))
        payload = {"identifier": "x"}
        assert broadcast(node, {"command": "disconnect", "payload": payload}, None) == 403


def test_secrets_are_changed_by_a_reload(start: Callable[..., Daemon], tmp_path: Path) -> None:
    file = tmp_path / "raiden.conf.py"
    file.write_text('dialects = ["cable"]\ncable_secret = "first"\n')
    node = start(config=file)

    def follows(secret: str) -> bool:
        with Cable(node) as client:
            name = json.dumps({"channel": "$pubsub", "signed_stream_name": signed("a", secret)})
            return not rejected(client, name)

    assert follows("first") and not follows("second")
    for secrets in ('["second", "first"]', '"second"'):
        file.write_text(f'dialects = ["cable"]\ncable_secret = {secrets}\n')
        node.signal(signal.SIGHUP)
        wait_for(lambda: follows("second"), "the settings are read")
        wait_for(lambda secrets=secrets: follows("first") == ("first" in secrets), "as they are")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cable_path": "cable"}, "cable_path"),
        ({"cable_path": "/-/cable"}, "cable_path"),
        ({"cable_path": "/_broadcast"}, "cable_path"),
        ({"cable_token_required": True}, "cable_token_required"),
        ({"cable_token_param": "a b"}, "cable_token_param"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(config.ConfigError, match=said):
        config.load(None, ["dialects=['cable']", *[f"{name}={value!r}" for name, value in settings.items()]], {})


def test_what_would_surprise_is_told_by_the_check(tmp_path: Path) -> None:
    file = tmp_path / "raiden.conf.py"
    for settings, told in (
        ("", ["cable_secret, or cable_public", "cable_broadcast_key"]),
        ("cable_public = True", ["cable_broadcast_key"]),
        ('cable_secret = "s3Krit"', []),
    ):
        file.write_text(f'dialects = ["cable"]\n{settings}\n')
        done = subprocess.run(
            [sys.executable, "-m", "raiden", "-C", str(file), "check"], capture_output=True, text=True, timeout=60
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and len(lines) == len(told) + 1
        assert all(word in line for word, line in zip(told, lines, strict=False))
