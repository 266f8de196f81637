"""Attributes of messages through every door: how they are published, who is shown them, and what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.application import Application
from tests.daemons import Daemon, Stream, running, wait_for
from tests.multiplex import Client, on_each_worker, two_nodes
from tests.receiver import SECRET, Receiver
from tests.stores import RedisServer
from tests.tokens import API_KEYS, JWT_KEYS, KEY, bearer, on, token
from tests.zeromq import OPEN, TEXT, Clients, ask, refusal

CHANNELS = {
    "*": {}, "plain*": {"history_size": 0}, "jobs*": {"max_attempts": 1, "dead_letter": "dead"},
    "once*": {"history_size": 2, "discard": "new"},
}  # fmt: skip
EVENTS = {"Accept": "text/event-stream"}
SAID = {"event": "created", "tags": {"color": "réd", "size": ""}}
FIELDS = {"Raiden-Event": "created", "Raiden-Tags": json.dumps(SAID["tags"])}
FRAME = json.dumps(SAID).encode()
# How each door publishes one JSON value with `SAID` and more members.
Publish = Callable[["Nodes", str, Any, dict[str, Any]], str | None]


class Nodes:
    """The node that is published to, and the one that is subscribed to."""

    def __init__(self, here: Daemon, there: Daemon) -> None:
        self.here = here
        self.there = there


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node of two workers with the embedded store; and two nodes with the shared one."""
    if request.param == "sqlite":
        node = Daemon(tmp_path_factory.mktemp("node"), workers=2, channels=CHANNELS, **OPEN)
        yield Nodes(node, node)
        assert node.stop() == 0
        assert "Traceback" not in node.log(), node.log()
        return
    server: RedisServer = request.getfixturevalue("shared_server")
    with two_nodes(tmp_path_factory.mktemp("nodes"), server.url, channels=CHANNELS, **OPEN) as (here, there):
        yield Nodes(here, there)


def cursor_of(status: int, body: bytes) -> str | None:
    assert status in (200, 202), body
    cursor: str | None = json.loads(body).get("cursor")
    assert (cursor is not None) == (status == 200)
    return cursor


def as_fields(more: dict[str, Any]) -> dict[str, str]:
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in more.items()}
    return {**FIELDS, **{f"Raiden-{name.title()}": value for name, value in written.items()}}


def by_post(nodes: Nodes, channel: str, value: Any, more: dict[str, Any]) -> str | None:
    headers = {"Content-Type": "application/json", **as_fields(more)}
    status, _, body = nodes.here.request("POST", f"/{channel}", json.dumps(value), headers)
    return cursor_of(status, body)


def by_batch(nodes: Nodes, channel: str, value: Any, more: dict[str, Any]) -> str | None:
    headers = {"Content-Type": "application/x-ndjson", **as_fields(more)}
    status, _, body = nodes.here.request("POST", f"/{channel}", json.dumps(value), headers)
    assert status in (200, 202), body
    found: list[str] = json.loads(body).get("cursors", [None])
    return found[0]


def by_stream(nodes: Nodes, channel: str, value: Any, more: dict[str, Any]) -> str | None:
    headers = {"Content-Type": "application/x-ndjson", **as_fields(more)}
    status, _, body = nodes.here.request("POST", f"/{channel}?_stream=1", json.dumps(value) + "\n", headers)
    return cursor_of(status, body)


def by_order(nodes: Nodes, channel: str, value: Any, more: dict[str, Any]) -> str | None:
    status, _, body = nodes.here.post_json("/-/publish", {"channels": [channel], "data": value, **SAID, **more})
    assert status in (200, 202), body
    cursor: str | None = json.loads(body).get("cursors", {}).get(channel)
    return cursor


def by_command(nodes: Nodes, channel: str, value: Any, more: dict[str, Any]) -> str | None:
    with Client(nodes.here) as client:
        reply = client.ask(cmd="publish", channel=channel, data=value, **SAID, **more)
        assert "error" not in reply, reply
        cursor: str | None = reply.get("cursor")
        return cursor


def by_req(nodes: Nodes, channel: str, value: Any, more: dict[str, Any]) -> str | None:
    with Clients(nodes.here) as clients:
        said = json.dumps({**SAID, **more})
        status, cursor = ask(clients.req(), "publish", channel, json.dumps(value), "", "", said)
        assert status in (b"200", b"202"), cursor
        return cursor.decode() or None


def by_push(nodes: Nodes, channel: str, value: Any, more: dict[str, Any]) -> str | None:
    with Clients(nodes.here) as clients:
        push = clients.push(linger=10_000)
        push.send_multipart([channel.encode(), json.dumps(value).encode(), b"", json.dumps({**SAID, **more}).encode()])
        push.close()
    return None


DOORS = [by_post, by_batch, by_stream, by_order, by_command, by_req, by_push]


def history(node: Daemon, channel: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = node.json(f"/-/channels/{channel}/history")["messages"]
    return messages


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("publish", DOORS)
def test_what_subscribers_are_shown(nodes: Nodes, publish: Publish, kept: bool, channel: str) -> None:
    name = channel if kept else f"plain.{channel}"
    wrapped = {"channel": name, "data": {"n": 1}, **SAID}
    with (
        Stream(nodes.there, f"/{name}") as line, Stream(nodes.there, f"/{name}?_wrap=1") as wrapped_line,
        Stream(nodes.there, f"/{name}", EVENTS) as event, Stream(nodes.there, f"/{name}?_wrap=1", EVENTS) as other,
        connect(f"ws://127.0.0.1:{nodes.there.port}/{name}") as socket,
        Client(nodes.there) as client, Clients(nodes.there) as clients,
    ):  # fmt: skip
        sub = clients.sub(name)
        client.ask(cmd="subscribe", channel=name)
        publish(nodes, name, {"n": 1}, {})
        assert json.loads(line.line()) == {"n": 1} and json.loads(socket.recv(20)) == {"n": 1}
        told = [json.loads(wrapped_line.line()), client.push()]
        for stream, form in ((event, {"n": 1}), (other, wrapped)):
            fields = [stream.line(), stream.line(positions=True)] + ([stream.line()] if kept else [])
            assert fields[0] == b"event: created" and fields[1].startswith(b"id: ") is kept
            data = json.loads(fields[-1].removeprefix(b"data: "))
            assert {member: data[member] for member in form} == form
        for each in told:
            assert isinstance(each.pop("cursor", ""), str) and each == wrapped
        frames = sub.recv_multipart()
        assert frames[:2] == [name.encode(), b'{"n": 1}'] and bool(frames[2]) is kept and len(frames) == 4
        assert json.loads(frames[3]) == SAID


@pytest.mark.parametrize("publish", DOORS)
def test_what_is_stored(nodes: Nodes, publish: Publish, channel: str) -> None:
    """Pages of the history, polls and replays show the same."""
    publish(nodes, channel, "x", {})
    (item,) = wait_for(lambda: history(nodes.there, channel), "it is stored")
    assert item == {"data": "x", "cursor": item["cursor"], **SAID}
    status, _, body = nodes.there.request("GET", f"/{channel}?_wait=0&_since=earliest")
    assert (status, json.loads(body)["messages"]) == (200, [item])
    with Stream(nodes.there, f"/{channel}?_since=earliest", EVENTS) as stream:
        assert stream.line() == b"event: created"
    with Client(nodes.there) as client, Clients(nodes.there) as clients:
        assert client.ask(cmd="history", channel=channel)["messages"] == [item]
        client.ask(cmd="subscribe", channel=channel, since="earliest")
        assert client.push() == {"channel": channel, **item}
        nodes.here.publish(channel, "y")
        answer = ask(clients.req(), "history", channel)
        assert json.loads(answer[1])["attributes"] == [SAID, None] and answer[3::2] == [b'"x"', b'"y"']


def test_pages_without_attributes_are_as_ever(nodes: Nodes, channel: str) -> None:
    nodes.here.publish(channel, "x")
    with Clients(nodes.there) as clients:
        answer = ask(clients.req(), "history", channel)
        assert answer[3] == b'"x"' and json.loads(answer[1]).keys() == {"cursor", "more"}


def test_a_batch_and_other_types(nodes: Nodes, channel: str) -> None:
    headers = {"Content-Type": "application/x-ndjson", **FIELDS}
    assert nodes.here.request("POST", f"/{channel}", "1\n2\n", headers)[0] == 200
    for content_type, body in (("text/plain", "t"), ("application/octet-stream", "b")):
        assert nodes.here.request("POST", f"/{channel}", body, {"Content-Type": content_type, **FIELDS})[0] == 200
    with Clients(nodes.here) as clients:
        assert ask(clients.req(), "publish", channel, "z", TEXT, "", FRAME)[0] == b"200"
    found = history(nodes.there, channel)
    assert [item.pop("data") for item in found] == [1, 2, "t", {"base64": "Yg=="}, "z"]
    assert all({name: item[name] for name in SAID} == SAID for item in found)


def test_the_same_head_again(nodes: Nodes, channel: str) -> None:
    """A head that is remembered says the same of the next message, on the same connection and on others."""
    bodies = [{"n": n} for n in range(6)]
    heads = [as_fields({}), {}, as_fields({"event": "other"})]
    connections = [nodes.here.open(), nodes.here.open()]
    for number, body in enumerate(bodies):
        headers = {"Content-Type": "application/json", **heads[number % 3]}
        for connection in connections:
            connection.request("POST", f"/{channel}", json.dumps(body), headers)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
    for connection in connections:
        connection.close()
    expected = [SAID["event"], None, "other"] * 2
    assert [item.get("event") for item in history(nodes.there, channel)] == [each for each in expected for _ in "ab"]


def test_messages_with_and_without_attributes_keep_their_order(nodes: Nodes, channel: str) -> None:
    with Client(nodes.here) as client, Stream(nodes.there, f"/{channel}?_wrap=1") as stream:
        for n in range(40):
            client.send(cmd="publish", channel=channel, data=n, **(SAID if n % 3 == 1 else {}))
        came = [json.loads(stream.line()) for _ in range(40)]
    assert [(each["data"], "event" in each) for each in came] == [(n, n % 3 == 1) for n in range(40)]


@pytest.mark.parametrize("kept", [True, False])
def test_many_that_are_pushed_keep_their_order(nodes: Nodes, kept: bool, channel: str) -> None:
    """Consecutive ones that say the same are read, and published, together."""
    name = (channel if kept else f"plain.{channel}").encode()
    said: list[list[bytes]] = [[], [b"", FRAME], [b"", b'{"event": "other"}'], [b"", b'{"transient": true}'], [b""]]
    sent = [(b"%d" % n, said[n // 7 % len(said)]) for n in range(700)]
    if kept:  # where a transient one comes between stored ones is not promised
        sent = [(payload, rest) for payload, rest in sent if rest != said[3]]
    with Clients(nodes.here) as here, Clients(nodes.there) as there:
        sub, push = there.sub(name), here.push()
        for payload, rest in sent:
            push.send_multipart([name, payload, *rest])
        came = [sub.recv_multipart() for _ in sent]
    shown = {b"": None, FRAME: SAID, b'{"event": "other"}': {"event": "other"}, b'{"transient": true}': None}
    for frames, (payload, rest) in zip(came, sent, strict=True):
        assert frames[1] == payload
        assert (json.loads(frames[3]) if len(frames) == 4 else None) == shown[rest[1] if len(rest) > 1 else b""]


# Messages that are not stored.


@pytest.mark.parametrize("publish", DOORS)
def test_transient(nodes: Nodes, publish: Publish, channel: str) -> None:
    with Stream(nodes.there, f"/{channel}?_wrap=1") as stream, Client(nodes.there) as client:
        client.ask(cmd="subscribe", channel=channel)
        assert publish(nodes, channel, 1, {"transient": True}) is None
        for came in (json.loads(stream.line()), client.push()):
            assert came == {"channel": channel, "data": 1, **SAID}
        nodes.here.publish(channel, 2)
        after = json.loads(stream.line())
        assert after["data"] == 2 and after["cursor"].split(":")[1] == "1" and "event" not in after
    assert [item["data"] for item in history(nodes.there, channel)] == [2]


def test_transient_without_a_history(nodes: Nodes, channel: str) -> None:
    """Then it is a message as any other, and in order."""
    name = f"plain.{channel}"
    with Client(nodes.here) as client, Stream(nodes.there, f"/{name}") as stream:
        for n in range(40):
            client.send(cmd="publish", channel=name, data=n, **({"transient": True} if n % 3 == 1 else {}))
        assert [stream.value() for _ in range(40)] == list(range(40))


def test_transient_in_a_full_channel(nodes: Nodes, channel: str) -> None:
    """It needs no room in the history."""
    name = f"once.{channel}"
    with Client(nodes.here) as client:
        client.ask(cmd="subscribe", channel=name, durable="d", ack=True, window=1)
        for n in range(2):
            nodes.here.publish(name, n)
        assert client.code(cmd="publish", channel=name, data=2) == 503
        assert client.ask(cmd="publish", channel=name, data=2, transient=True) == {}


def test_a_key_needs_a_place(nodes: Nodes, channel: str) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k", "Raiden-Transient": "true"}
    status, _, body = nodes.here.request("POST", f"/{channel}", "1", headers)
    assert status == 400 and "transient" in json.loads(body)["detail"]
    with Client(nodes.here) as client, Clients(nodes.here) as clients:
        assert client.code(cmd="publish", channel=channel, data=1, key="k", transient=True) == 400
        assert refusal(ask(clients.req(), "publish", channel, "1", "", "k", b'{"transient": true}'))[0] == 400
        assert client.ask(cmd="publish", channel=channel, data=1, key="k", **SAID).keys() == {"cursor"}
        assert client.ask(cmd="publish", channel=channel, data=1, key="k", **SAID).keys() == {"cursor"}
    assert len(history(nodes.here, channel)) == 1


# Refused.


@pytest.mark.parametrize(
    ("field", "value"),
    [("Raiden-Event", "gap"), ("Raiden-Tags", '["red"]'), ("Raiden-Transient", "1"), ("Raiden-Except", "a.b")],
)
def test_refused_fields(nodes: Nodes, field: str, value: str, channel: str) -> None:
    headers = {"Content-Type": "application/json", field: value}
    status, _, body = nodes.here.request("POST", f"/{channel}", "1", headers)
    assert status == 400 and json.loads(body)["detail"].startswith(field)
    status, _, body = nodes.here.request("POST", "/-/publish", json.dumps({"channels": [channel], "data": 1}), headers)
    assert status == 400 and "use the member" in json.loads(body)["detail"]
    assert history(nodes.here, channel) == []


@pytest.mark.parametrize(
    "said", [{"event": 1}, {"tags": {"a": 1}}, {"transient": "true"}, {"except": ""}, {"evnt": ""}]
)
def test_refused_members(nodes: Nodes, said: dict[str, Any], channel: str) -> None:
    assert nodes.here.post_json("/-/publish", {"channels": [channel], "data": 1, **said})[0] == 400
    with Client(nodes.here) as client, Clients(nodes.here) as clients:
        assert client.code(cmd="publish", channel=channel, data=1, **said) == 400
        assert refusal(ask(clients.req(), "publish", channel, "1", "", "", json.dumps(said)))[0] == 400
        bad = nodes.here.metric("raiden_bad_messages_total")
        push = clients.push()
        push.send_multipart([channel.encode(), b"1", b"", json.dumps(said).encode()])
        wait_for(lambda: nodes.here.metric("raiden_bad_messages_total") == bad + 1, "it is counted")
        push.send_multipart([channel.encode(), b"2"])
        wait_for(lambda: [item["data"] for item in history(nodes.here, channel)] == [2], "only the good one")


def test_a_field_that_comes_twice(nodes: Nodes, channel: str) -> None:
    with nodes.here.connect() as sock:
        sock.sendall(
            f"POST /{channel} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Type: application/json\r\n"
            "Raiden-Event: a\r\nRaiden-Event: b\r\nConnection: close\r\n\r\n1".encode()
        )
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400") and b"more than one Raiden-Event" in answer


def test_attributes_count_as_a_part_of_the_message(start: Callable[..., Daemon]) -> None:
    node = start(max_message=4096, **OPEN)
    tags = {f"t{n}": "v" * 200 for n in range(5)}
    for value, status in (("x" * 900, 202), ("x" * 1900, 413)):
        said = {"channels": ["a"], "data": value, "tags": tags}
        assert node.post_json("/-/publish", {"channels": ["a"], "data": value})[0] == 200
        assert node.post_json("/-/publish", said)[0] == (200 if status == 202 else 413)
        with Client(node) as client:
            reply = client.ask(cmd="publish", channel="a", data=value, tags=tags)
            assert reply.get("error", {}).get("code", 202) == status


# What consumers, webhooks and delegates are shown.


def test_claims_and_dead_letters(nodes: Nodes, channel: str) -> None:
    name = f"jobs.{channel}"
    with Client(nodes.there) as client:
        client.ask(cmd="subscribe", channel=name, durable="d", ack=True)
        by_post(nodes, name, {"n": 1}, {})
        claim = client.push()
        shown = {**SAID, "data": {"n": 1}, "cursor": claim["cursor"]}
        assert claim == {"channel": name, "durable": "d", "attempt": 1, **shown}
        client.ask(cmd="nack", channel=name, durable="d", cursor=claim["cursor"])

        def letters() -> list[Any]:
            return [item for item in history(nodes.here, "dead") if item["data"]["channel"] == name]

        (letter,) = wait_for(letters, "it is given up")
        assert letter["data"] == {"channel": name, "durable": "d", "attempts": 1, **shown}
        assert letter.keys() == {"data", "cursor"}
    by_post(nodes, name, {"n": 2}, {})
    path = f"/{name}?_durable=d&_wait=20"
    status, _, body = nodes.there.request("GET", path)
    (polled,) = json.loads(body)["messages"]
    assert status == 200 and polled == {**SAID, "data": {"n": 2}, "cursor": polled["cursor"], "attempt": 1}


def test_webhooks(start: Callable[..., Daemon]) -> None:
    receiver = Receiver()
    try:
        endpoint = {"url": receiver.url, "secret": SECRET, "events": ["message.published"], "channels": ["*"]}
        node = start(webhooks=[endpoint], channels=CHANNELS)
        for channel, more in (("a", {}), ("plain", {}), ("b", {"transient": True})):
            by_post(Nodes(node, node), channel, 1, more)
        told = sorted(receiver.wait_for(3), key=lambda data: str(data["channel"]))
        assert told == [{"channel": channel, "data": 1, **SAID} for channel in ("a", "b", "plain")]
    finally:
        receiver.close()


def test_a_delegate_is_asked_and_changes_the_payload_only(start: Callable[..., Daemon]) -> None:
    def answer(question: dict[str, Any]) -> Any:
        if question["event"] != "publish":
            return {"allow": True}
        return {"allow": True, "data": [question["data"]], "info": {"name": "Ann"}}

    application = Application(answer)
    try:
        node = start(delegate={"url": application.url, "timeout": 30}, channels={"*": {"show_from": True}})
        with Stream(node, "/a?_wrap=1") as stream:
            by_post(Nodes(node, node), "a", 1, {"transient": True})
            by_command(Nodes(node, node), "a", 2, {})
            with connect(f"ws://127.0.0.1:{node.port}/a") as socket:
                socket.send("3")
                came = [stream.value() for _ in range(3)]
        asked = application.of("publish")
        assert [each.get("attributes") for each in asked] == [{**SAID, "transient": True}, SAID, None]
        cursors = [each.pop("cursor", None) for each in came]
        shown = [{"channel": "a", "data": [n], "from": {"info": {"name": "Ann"}}} for n in (1, 2, 3)]
        assert came == [{**shown[0], **SAID}, {**shown[1], **SAID}, shown[2]] and cursors[0] is None
        assert cursors[1] and cursors[2]
    finally:
        application.close()


# Who publishes.


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node whose clients have tokens."""
    channels = {"*": {"show_from": True}, "plain*": {"show_from": True, "history_size": 0}, "hidden*": {}}
    anyone = dict.fromkeys(("subscribe", "publish", "history", "presence", "request", "serve", "manage"), "anyone")
    channels["open*"] = {"show_from": True, **anyone}
    yield from running(
        tmp_path_factory.mktemp("node"), workers=2, channels=channels, jwt_keys=JWT_KEYS, api_keys=API_KEYS
    )


INFO = {"name": "Ann \u2028 \ud800", "n": [10**30, 1.5, None]}
ANN = token("ann", info=INFO, **on("*"))
FROM = {"sub": "ann", "info": {"name": "Ann \u2028 ?", "n": [10**30, 1.5, None]}}


@pytest.mark.parametrize("name", ["kept", "plain", "open"])
def test_the_sender_is_shown(known: Daemon, name: str) -> None:
    channel = f"{name}.sender"
    json_type = {"Content-Type": "application/json", **bearer(ANN)}
    with Stream(known, f"/{channel}?_wrap=1", bearer(ANN)) as stream, Client(known) as client:
        for n in range(3):  # the second and the third with a head that is remembered
            assert known.request("POST", f"/{channel}", str(n), json_type)[0] in (200, 202)
        batch = {"Content-Type": "application/x-ndjson", **bearer(ANN)}
        assert known.request("POST", f"/{channel}", "3\n4", batch)[0] in (200, 202)
        assert known.request("POST", f"/{channel}?_stream=1", "5", batch)[0] in (200, 202)
        order = json.dumps({"channels": [channel], "data": 6})
        assert known.request("POST", "/-/publish", order, json_type)[0] in (200, 202)
        client.ask(cmd="auth", token=ANN)
        assert "error" not in client.ask(cmd="publish", channel=channel, data=7)
        with connect(f"ws://127.0.0.1:{known.port}/{channel}", additional_headers=bearer(ANN)) as socket:
            socket.send("8")
            came = [stream.value() for _ in range(9)]
    assert [(each["data"], each.get("from")) for each in came] == [(n, FROM) for n in range(9)]


@pytest.mark.parametrize(
    ("credential", "shown"),
    [(token("bob"), {"sub": "bob"}), (token(None, info=0, **on("*")), {"info": 0}), (token(None), None), (KEY, None)],
    ids=["subject", "info", "nobody", "server"],
)  # fmt: skip
def test_who_is_shown(known: Daemon, credential: str, shown: Any) -> None:
    with Stream(known, "/who?_wrap=1", bearer(ANN)) as stream, Stream(known, "/hidden?_wrap=1", bearer(ANN)) as hidden:
        for channel in ("who", "hidden"):
            headers = {"Content-Type": "application/json", **bearer(credential)}
            assert known.request("POST", f"/{channel}", "1", headers)[0] == 200
        assert stream.value().get("from") == shown and "from" not in hidden.value()


def test_nobody_is_shown_where_nothing_is_shown(known: Daemon) -> None:
    with Stream(known, "/open.anyone?_wrap=1") as stream:
        known.publish("open.anyone", 1)
        assert "from" not in stream.value()


def test_nobody_can_say_who_publishes(known: Daemon) -> None:
    headers = {"Content-Type": "application/json", "Raiden-From": '{"sub": "eve"}', **bearer(ANN)}
    with Stream(known, "/forged?_wrap=1", bearer(ANN)) as stream, Client(known) as client:
        assert known.request("POST", "/forged", "1", headers)[0] == 200
        assert stream.value()["from"] == FROM
        client.ask(cmd="auth", token=ANN)
        assert client.code(cmd="publish", channel="forged", data=1, **{"from": {"sub": "eve"}}) == 400
        order = json.dumps({"channels": ["forged"], "data": 1, "from": {"sub": "eve"}})
        assert known.request("POST", "/-/publish", order, {"Content-Type": "application/json", **bearer(ANN)})[0] == 400


# Connections, and messages that are not for one of them.


def id_of(response: Any) -> str:
    found: str = response.getheader("Raiden-Connection")
    assert found and len(found) >= 12 + 18
    return found


def test_each_connection_has_an_id(nodes: Nodes, channel: str) -> None:
    """The answer to each subscription that lasts has it, on whichever node."""
    seen: list[str] = []
    for node in (nodes.here, nodes.there):
        for path, headers in (
            (f"/{channel}", {}),
            (f"/{channel}", EVENTS),
            (f"/-/subscribe?channel={channel}&channel=b", {}),
        ):
            for _ in range(2):
                with Stream(node, path, headers) as stream:
                    seen.append(id_of(stream.response))
        with connect(f"ws://127.0.0.1:{node.port}/{channel}") as socket:
            assert socket.response is not None
            seen.append(socket.response.headers["Raiden-Connection"])
        with Client(node) as client:
            own = client.ask(cmd="hello")
            assert own.keys() == {"connection"} and own == client.ask(cmd="hello")
            assert (
                client.ws.response is not None and client.ws.response.headers["Raiden-Connection"] == own["connection"]
            )
            seen.append(own["connection"])
            assert client.code(cmd="hello", channel="a") == 400
    assert len(set(seen)) == len(seen) == 16


def test_a_poll_has_none(nodes: Nodes, channel: str) -> None:
    """Its answer goes to all that wait for the same."""
    nodes.here.publish(channel, 1)
    _, headers, _ = nodes.here.request("GET", f"/{channel}?_wait=0&_since=earliest")
    assert "raiden-cursor" in headers and "raiden-connection" not in headers


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("publish", [by_post, by_order, by_command, by_req, by_push])
def test_not_to_one_connection(nodes: Nodes, publish: Publish, kept: bool, channel: str) -> None:
    """Of each kind one is left out, and another one of the same kind is not."""
    name = channel if kept else f"plain.{channel}"
    path, merged = f"/{name}?_wrap=1", f"/-/subscribe?channel={name}&channel=b"
    with (
        Stream(nodes.there, path) as line, Stream(nodes.there, path, EVENTS) as event,
        Stream(nodes.there, merged, EVENTS) as several, Stream(nodes.there, f"/{name}?data=y&data=x") as filtered,
        Stream(nodes.there, f"/{name}?_rate=1000&_wrap=1&_key=not") as thinned,
        Stream(nodes.there, f"/{name[:-1]}*") as pattern, Client(nodes.there) as client,
        Stream(nodes.there, path) as another,
    ):  # fmt: skip
        client.ask(cmd="subscribe", channel=name)
        streams = [line, event, several, filtered, pattern, thinned]
        ids = [id_of(stream.response) for stream in streams] + [client.ask(cmd="hello")["connection"]]
        for own in [*ids, "0" * 30, ids[0][:12] + "0" * 18]:
            publish(nodes, name, {"data": "x", "not": own}, {"except": own})
            assert json.loads(another.line())["data"] == {"data": "x", "not": own}
        publish(nodes, name, {"data": "y", "not": ""}, {})
        every = [*ids, "0" * 30, ids[0][:12] + "0" * 18, ""]

        def read(stream: Stream) -> Any:
            text = stream.line()
            while not text.startswith((b"data: ", b"{")):
                text = stream.line()
            told = json.loads(text.removeprefix(b"data: "))
            return told["not"] if stream is filtered else told["data"]["not"]

        for stream, own in zip(streams, ids, strict=False):
            assert [read(stream) for _ in range(len(every) - 1)] == [each for each in every if each != own]
        assert [push["data"]["not"] for push in client.take(len(every) - 1)] == [
            each for each in every if each != ids[-1]
        ]
        assert all("except" not in push for push in client.pushes)


def test_not_to_one_connection_of_another_worker(nodes: Nodes, channel: str) -> None:
    workers = on_each_worker(nodes.here, 1) if nodes.here is nodes.there else {"": [Client(nodes.here)]}
    clients = [client for each in workers.values() for client in each]
    for client in clients:
        client.ask(cmd="subscribe", channel=channel)
    ids = [client.ask(cmd="hello")["connection"] for client in clients]
    assert len({own[:12] for own in ids}) == len(clients), "each worker has its own beginning of ids"
    for own in ids:
        by_command(nodes, channel, own, {"except": own})
    nodes.here.publish(channel, "end")
    for client, own in zip(clients, ids, strict=True):
        came = [push["data"] for push in client.take(len(ids))]
        assert came == [*[each for each in ids if each != own], "end"]
        client.close()


def test_not_to_one_connection_in_its_past(nodes: Nodes, channel: str) -> None:
    """What a connection was not to get it does not get from the history either; another one does, and so does the same
    client on its next connection."""
    with Client(nodes.there) as client, Client(nodes.there) as other:
        own = client.ask(cmd="hello")["connection"]
        for n in range(6):
            by_post(nodes, channel, n, {"except": own} if n % 2 else {})
        client.ask(cmd="subscribe", channel=channel, since="earliest")
        assert [push["data"] for push in client.take(3)] == [0, 2, 4] and client.rest() == []
        other.ask(cmd="subscribe", channel=channel, since="earliest")
        assert [push["data"] for push in other.take(6)] == list(range(6))
        assert len(client.ask(cmd="history", channel=channel)["messages"]) == 6, "a page has all"


def test_a_durable_leaves_nobody_out(nodes: Nodes, channel: str) -> None:
    """Somebody has to take each of its messages."""
    with Client(nodes.there) as client:
        client.ask(cmd="subscribe", channel=channel, durable="d", ack=True)
        by_post(nodes, channel, 1, {"except": client.ask(cmd="hello")["connection"]})
        assert client.push()["data"] == 1


def test_a_page_may_read_and_send_the_fields(start: Callable[..., Daemon]) -> None:
    node = start(allowed_origins=["https://a.example"])
    page = {"Origin": "https://a.example"}
    with Stream(node, "/a", page) as stream:
        assert "Raiden-Connection" in stream.response.getheader("Access-Control-Expose-Headers", "")
    _, headers, _ = node.request("OPTIONS", "/a", headers=page)
    for field in ("Raiden-Event", "Raiden-Tags", "Raiden-Transient", "Raiden-Except"):
        assert field in headers["access-control-allow-headers"]


def test_webhooks_and_delegates_call_a_client_by_its_id(start: Callable[..., Daemon]) -> None:
    receiver, application = Receiver(), Application(lambda question: {"allow": True})
    try:
        endpoint = {"url": receiver.url, "secret": SECRET, "events": ["client.connected"]}
        node = start(webhooks=[endpoint], delegate={"url": application.url, "timeout": 30})
        with Stream(node, "/a") as stream:
            own = id_of(stream.response)
            (told,) = receiver.wait_for(1)
            assert told["id"] == own == application.of("subscribe")[0]["client"]["id"]
    finally:
        receiver.close()
        application.close()
