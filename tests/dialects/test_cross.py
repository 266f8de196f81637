"""One channel, with a client of each dialect and of each of Raiden's own transports: what is published through each
door in turn is heard by all, in one order."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from websockets.sync.client import connect

from tests import multiplex
from tests.daemons import Daemon, Stream
from tests.dialects import streams
from tests.dialects.cable import EXTENDED, PLAIN, Cable, public
from tests.dialects.cable import publish as broadcast
from tests.dialects.centrifuge_client import Client as Centrifuge
from tests.dialects.pusher_client import APP, trigger
from tests.dialects.pusher_client import Client as Pusher
from tests.stores import RedisServer
from tests.zeromq import OPEN, Clients, ask

# Messages: TESTS_CROSS=10000 is many.
COUNT = int(os.environ.get("TESTS_CROSS", "300"))
# Messages after which all are read: clients that read nothing for long answer no pings.
AT_ONCE = 300
CHANNEL = "cross"
KEY = "the-key-of-the-server-api"
ANYONE = dict.fromkeys(("subscribe", "publish", "history", "presence", "manage"), "anyone")
SETTINGS: dict[str, Any] = {
    "dialects": ["streams", "centrifuge", "pusher", "cable"], "cable_secret": "s3Krit", "centrifuge_anonymous": True,
    "centrifuge_api_key": KEY, "pusher_apps": [{**APP, "prefix": ""}], "streams_sse": 0, "max_outbox": 1 << 26,
    "keepalive": 600, "channels": {"*": ANYONE}, **OPEN,
}  # fmt: skip

Next: TypeAlias = "Callable[[], Any]"
"""What waits for the next message, and returns its value."""
Publish: TypeAlias = "Callable[[Any], None]"


@pytest.fixture(params=["one node", "two nodes"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path, start: Callable[..., Daemon]) -> Iterator[list[Daemon]]:
    """The node that is published to, and the one that is listened to."""
    if request.param == "one node":
        node = start(workers=2, **SETTINGS)
        yield [node, node]
        assert node.stop() == 0
        assert "Traceback" not in node.log(), node.log()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    with multiplex.two_nodes(tmp_path, server.url, **SETTINGS) as pair:
        yield pair


def lines(node: Daemon, stack: ExitStack) -> Next:
    return stack.enter_context(Stream(node, f"/{CHANNEL}")).value


def events(node: Daemon, stack: ExitStack) -> Next:
    stream = stack.enter_context(Stream(node, f"/{CHANNEL}", {"Accept": "text/event-stream"}))

    def following() -> Any:
        while not (line := stream.line()).startswith(b"data: "):
            assert line, "the stream has ended"
        return json.loads(line[6:])

    return following


def polls(node: Daemon, stack: ExitStack) -> Next:
    waiting: list[Any] = []
    since = "earliest"

    def following() -> Any:
        nonlocal since
        while not waiting:
            status, _, body = node.request("GET", f"/{CHANNEL}?_since={since}&_wait=30")
            assert status == 200
            told = json.loads(body)
            since = told["cursor"]
            waiting.extend(each["data"] for each in told["messages"])
        return waiting.pop(0)

    return following


def socket(node: Daemon, stack: ExitStack) -> Next:
    url = f"ws://{node.host}:{node.port}/{CHANNEL}"
    ws = stack.enter_context(connect(url, max_size=None, ping_interval=None))
    return lambda: json.loads(ws.recv(60))


def commands(node: Daemon, stack: ExitStack) -> Next:
    client = multiplex.Client(node)
    stack.callback(client.close)
    assert "error" not in client.ask(cmd="subscribe", channel=CHANNEL)

    def following() -> Any:
        while "data" not in (told := client.push(60)):
            assert "cursor" in told  # the position, between the messages
        return told["data"]

    return following


def sub(node: Daemon, stack: ExitStack) -> Next:
    sock = stack.enter_context(Clients(node)).sub(CHANNEL, rcvhwm=0)
    return lambda: json.loads(sock.recv_multipart()[1])


def durable_stream(node: Daemon, stack: ExitStack) -> Next:
    stream = stack.enter_context(streams.Events(node, CHANNEL))
    waiting: list[Any] = []

    def following() -> Any:
        while not waiting:
            line = stream.line(positions=True)
            assert line, "the stream has ended"
            if line == b"event: data":
                found = stream.line(positions=True)
                waiting.extend(json.loads(found.removeprefix(b"data:")))
        return waiting.pop(0)

    return following


def centrifuge(node: Daemon, stack: ExitStack) -> Next:
    client = stack.enter_context(Centrifuge(node))
    client.connected()
    client.subscribed(CHANNEL)
    return lambda: client.push()["pub"]["data"]


def pusher(node: Daemon, stack: ExitStack) -> Next:
    client = stack.enter_context(Pusher(node))
    client.subscribe(CHANNEL)

    def following() -> Any:
        while (told := client.next()).get("event") == "pusher:ping":
            pass
        data = told["data"]
        return json.loads(data) if isinstance(data, str) else data

    return following


def cable(protocol: str) -> Callable[[Daemon, ExitStack], Next]:
    def made(node: Daemon, stack: ExitStack) -> Next:
        client = stack.enter_context(Cable(node, protocol))
        client.subscribe(public(CHANNEL))
        return client.message

    return made


def posts(node: Daemon, stack: ExitStack) -> Publish:
    return lambda value: node.publish(CHANNEL, value)


def published(node: Daemon, stack: ExitStack) -> Publish:
    client = multiplex.Client(node)
    stack.callback(client.close)

    def publish(value: Any) -> None:
        assert client.ask(cmd="publish", channel=CHANNEL, data=value)["cursor"]

    return publish


def requests(node: Daemon, stack: ExitStack) -> Publish:
    sock = stack.enter_context(Clients(node)).req()

    def publish(value: Any) -> None:
        assert ask(sock, b"publish", CHANNEL, json.dumps(value))[0] == b"200"

    return publish


def appends(node: Daemon, stack: ExitStack) -> Publish:
    def publish(value: Any) -> None:
        assert streams.add(node, CHANNEL, json.dumps([value]), streams.JSON).status in (200, 204)

    return publish


def of_centrifuge(node: Daemon, stack: ExitStack) -> Publish:
    client = stack.enter_context(Centrifuge(node))
    client.connected()

    def publish(value: Any) -> None:
        assert "error" not in client.ask(publish={"channel": CHANNEL, "data": value})

    return publish


def api_of_centrifuge(node: Daemon, stack: ExitStack) -> Publish:
    headers = {"Content-Type": "application/json", "X-API-Key": KEY}

    def publish(value: Any) -> None:
        body = json.dumps({"channel": CHANNEL, "data": value})
        status, _, told = node.request("POST", "/api/publish", body, headers)
        assert status == 200 and "error" not in json.loads(told), told

    return publish


READERS = {
    "lines": lines, "events": events, "polls": polls, "socket": socket, "commands": commands, "sub": sub,
    "streams": durable_stream, "centrifuge": centrifuge, "pusher": pusher, "cable": cable(PLAIN),
    "extended cable": cable(EXTENDED),
}  # fmt: skip
DOORS: dict[str, Callable[[Daemon, ExitStack], Publish]] = {
    "posts": posts, "commands": published, "requests": requests, "streams": appends, "centrifuge": of_centrifuge,
    "centrifuge's api": api_of_centrifuge,
    "pusher": lambda node, stack: lambda value: trigger(node, CHANNEL, "told", json.dumps(value)) and None,
    "cable": lambda node, stack: lambda value: broadcast(node, CHANNEL, value),
}  # fmt: skip


def test_all_hear_all_in_one_order(nodes: list[Daemon]) -> None:
    one, other = nodes
    streams.put(one, CHANNEL, content_type=streams.JSON)
    with ExitStack() as stack:
        # Readers of each kind at both nodes, and doors of each kind at both, in turn.
        readers = {
            (name, number): make(node, stack)
            for name, make in READERS.items()
            for number, node in enumerate({node.port: node for node in nodes}.values())
        }
        doors = [make(node, stack) for node in (one, other) for make in DOORS.values()]
        turn = itertools.cycle(doors)
        for begin in range(0, COUNT, AT_ONCE):
            sent = [{"n": number, "text": "ü " * 10} for number in range(begin, min(begin + AT_ONCE, COUNT))]
            for value in sent:
                next(turn)(value)
            for name, following in readers.items():
                assert [following() for _ in sent] == sent, name
