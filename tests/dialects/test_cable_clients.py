"""The npm packages @rails/actioncable and @anycable/core, unchanged, against one node and two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import ROOT, Daemon, running, wait_for
from tests.dialects.cable import EXTENDED, PLAIN, Cable, broadcast, public, publish, signed
from tests.multiplex import two_nodes
from tests.stores import RedisServer
from tests.tokens import token as token_of

MODULES = ROOT / "build/node/node_modules"
JWT = "the secret of tokens, thirty-two b"
SETTINGS: dict[str, Any] = {
    "dialects": ["cable"], "cable_secret": "s3Krit", "cable_jwt_secret": JWT, "cable_public": True,
    "cable_whispers": True, "presence_linger": 0.5, "channels": {"*": {"manage": "anyone"}},
}  # fmt: skip


def token(user: int, lasts: float = 3600) -> str:
    return token_of(None, secret=JWT, lasts=lasts, ext=json.dumps({"user_id": user}))


def url(node: Daemon) -> str:
    return f"ws://{node.host}:{node.port}/cable"


class Clients:
    """A process with clients of the packages. What happens to them is a list, of which each event is read once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(ROOT / "tests/clients/cable.mjs"), str(MODULES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
        )  # fmt: skip
        self._events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.append(json.loads(line))

    def tell(self, client: str, **what: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps({"client": client, **what}), file=self._process.stdin, flush=True)

    def anycable(self, client: str, node: Daemon, protocol: str = EXTENDED, **options: Any) -> None:
        self.tell(client, make="anycable", url=url(node), options={"protocol": protocol, **options})

    def rails(self, client: str, node: Daemon) -> None:
        self.tell(client, make="rails", url=url(node))

    def subscribe(self, client: str, sub: str, channel: str = "$pubsub", **params: Any) -> None:
        """Subscribe, and wait until that is confirmed."""
        self.tell(client, do="subscribe", sub=sub, channel=channel, params=params)
        self.heard(client, "connect", sub)

    def heard(self, client: str, event: str, sub: str | None = None) -> dict[str, Any]:
        """The next event of this kind of a client, or of its subscription."""

        def found() -> dict[str, Any] | None:
            for each in list(self._events):
                if (each["client"], each.get("sub"), each["event"]) == (client, sub, event):
                    self._events.remove(each)
                    return each
            assert self._process.poll() is None, self._events
            return None

        told = wait_for(found, f"{event} of {client} {sub}; there are {self._events}")
        assert told is not None
        return told

    def messages(self, client: str, sub: str, count: int) -> list[Any]:
        return [self.heard(client, "message", sub)["message"] for _ in range(count)]

    def none(self, client: str, event: str, sub: str | None = None) -> bool:
        """Whether there is no such event, so far."""
        return not any(
            (each["client"], each.get("sub"), each["event"]) == (client, sub, event) for each in self._events
        )

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._thread.join()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def packages() -> None:
    if shutil.which("node") is None or not all((MODULES / name).is_dir() for name in ("@rails/actioncable", "ws")):
        pytest.skip("needs node, and: npm install --prefix build/node @rails/actioncable@8 @anycable/core@1 ws@8")
    if not (MODULES / "@anycable/core").is_dir():
        pytest.skip("needs @anycable/core: npm install --prefix build/node @anycable/core@1")


@pytest.fixture(scope="module")
def node(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("cable"), workers=2, **SETTINGS)


@pytest.fixture
def clients(packages: None) -> Iterator[Clients]:
    found = Clients()
    yield found
    found.close()


def test_rails(node: Daemon, clients: Clients, channel: str) -> None:
    clients.rails("a", node)
    clients.subscribe("a", "one", stream_name=channel)
    clients.subscribe("a", "signed", signed_stream_name=signed(f"{channel}.signed"))
    clients.subscribe("a", "turbo", "Turbo::StreamsChannel", signed_stream_name=signed(channel))
    clients.subscribe("a", "same", stream_name=channel)  # a second object for the same stream
    clients.tell("a", do="subscribe", sub="bad", channel="ChatChannel", params={})
    clients.heard("a", "rejected", "bad")
    publish(node, channel, {"html": "<turbo-stream>"}, "text")
    for sub in ("one", "same", "turbo"):
        assert clients.messages("a", sub, 2) == [{"html": "<turbo-stream>"}, "text"]
    publish(node, f"{channel}.signed", 1)
    assert clients.messages("a", "signed", 1) == [1]
    # A page changes: unsubscribed, and subscribed again at once.
    for _ in range(3):
        clients.tell("a", do="unsubscribe", sub="turbo")
        clients.subscribe("a", "turbo", "Turbo::StreamsChannel", signed_stream_name=signed(channel))
    publish(node, channel, 2)
    assert clients.messages("a", "turbo", 1) == [2]
    clients.tell("a", do="drop")
    assert clients.heard("a", "disconnect", "one")["again"]
    wait_for(lambda: clients.heard("a", "connect", "one")["reconnected"], "it has come back")
    publish(node, channel, 3)
    assert clients.messages("a", "one", 2) == [2, 3]


@pytest.mark.parametrize("protocol", [PLAIN, EXTENDED])
def test_anycable(node: Daemon, clients: Clients, channel: str, protocol: str) -> None:
    clients.anycable("a", node, protocol, auth={"token": token(1)})
    assert not clients.heard("a", "connect")["restored"]
    clients.subscribe("a", "one", stream_name=channel)
    clients.subscribe("a", "ready", "CableReady::Stream", identifier=signed(channel))
    clients.tell("a", do="subscribe", sub="bad", channel="ChatChannel", params={})
    clients.heard("a", "close", "bad")
    publish(node, channel, {"a": 1})
    assert clients.messages("a", "ready", 1) == [{"a": 1}]
    told = clients.heard("a", "message", "one")
    assert told["message"] == {"a": 1} and ("meta" in told) == (protocol == EXTENDED)
    clients.anycable("b", node, protocol)
    clients.subscribe("b", "one", stream_name=channel)
    clients.tell("b", do="whisper", sub="one", data={"typing": True})
    assert clients.messages("a", "one", 1) == [{"typing": True}]
    publish(node, channel, "last")
    assert clients.messages("a", "one", 1) == ["last"]
    # What was published in the second in which it was made is its past.
    past = [{"a": 1}] if protocol == EXTENDED else []
    assert clients.messages("b", "one", len(past) + 1) == [*past, "last"]
    payload = {"identifier": json.dumps({"user_id": 1}), "reconnect": False}
    assert broadcast(node, {"command": "disconnect", "payload": payload}) == 201
    assert clients.heard("a", "close")["reason"] == "remote"


def test_anycable_gets_what_it_missed(node: Daemon, clients: Clients, channel: str) -> None:
    publish(node, channel, "first")
    clients.anycable("a", node, historyTimestamp=int(time.time()) - 100)
    clients.heard("a", "connect")
    clients.subscribe("a", "one", stream_name=channel)
    clients.heard("a", "history_received", "one")
    assert clients.messages("a", "one", 1) == ["first"]
    for number in range(1, 3):
        publish(node, channel, number)
        assert clients.messages("a", "one", 1) == [number]
        clients.tell("a", do="drop")
        publish(node, channel, 10 * number)
        clients.heard("a", "disconnect")
        assert clients.heard("a", "connect")["restored"]
        clients.heard("a", "history_received", "one")
        assert clients.messages("a", "one", 1) == [10 * number]


def test_anycable_gets_another_token(node: Daemon, clients: Clients, channel: str) -> None:
    old = token_of(None, secret=JWT, lasts=-100, ext="{}")
    clients.anycable("a", node, auth={"token": old}, refreshed=token(1), lazy=False)
    clients.heard("a", "refresh")
    clients.subscribe("a", "one", stream_name=channel)
    publish(node, channel, 1)
    assert clients.messages("a", "one", 1) == [1]


def test_presence(node: Daemon, clients: Clients, channel: str) -> None:
    for name in ("a", "b"):
        clients.anycable(name, node)
        clients.subscribe(name, "one", stream_name=channel)
    clients.tell("a", do="join", sub="one", id=1, info={"name": "Ann"})
    for name in ("a", "b"):
        assert clients.heard(name, "presence", "one")["message"] == {"type": "join", "id": "1", "info": {"name": "Ann"}}
    clients.tell("b", do="who", sub="one")
    assert clients.heard("b", "who", "one")["message"] == {"1": {"name": "Ann"}}
    clients.tell("a", do="leave", sub="one")
    clients.heard("b", "presence", "one")
    assert clients.heard("b", "presence", "one")["message"] == {"type": "leave", "id": "1"}


def test_a_client_that_answers_pings(packages: None, clients: Clients, start: Callable[..., Daemon]) -> None:
    node = start(**SETTINGS, cable_pong_timeout=5)
    clients.anycable("a", node, protocolOptions={"pongs": True})
    clients.subscribe("a", "one", stream_name="x")
    with Cable(node, EXTENDED) as silent:
        silent.send("pong")
        assert silent.next()["reason"] == "no_pong"
    assert clients.none("a", "disconnect")


def test_two_nodes(packages: None, clients: Clients, redis_server: RedisServer, tmp_path: Path, channel: str) -> None:
    with two_nodes(tmp_path, redis_server.url, **SETTINGS) as (one, two):
        clients.anycable("a", one, auth={"token": token(1)})
        clients.anycable("b", two)
        clients.rails("r", two)
        for name in "abr":
            clients.subscribe(name, "s", stream_name=channel)
        publish(one, channel, 1)
        for name in "abr":
            assert clients.messages(name, "s", 1) == [1]
        clients.tell("a", do="whisper", sub="s", data="psst")
        for name in "br":
            assert clients.messages(name, "s", 1) == ["psst"]
        for name, id in (("a", "7"), ("b", "8")):
            clients.tell(name, do="join", sub="s", id=id, info={"is": name})
            for each in "ab":
                told = clients.heard(each, "presence", "s")["message"]
                assert told == {"type": "join", "id": id, "info": {"is": name}}
        clients.tell("b", do="who", sub="s")
        assert clients.heard("b", "who", "s")["message"] == {"7": {"is": "a"}, "8": {"is": "b"}}
        # It comes back to the other node, where its session is known, and has lost nothing.
        clients.tell("a", do="drop", url=url(two))
        publish(one, channel, 2)
        assert clients.heard("a", "connect")["restored"] is False
        assert clients.heard("a", "connect")["restored"] is True
        publish(two, channel, 3)
        for name in "abr":
            assert clients.messages(name, "s", 2) == [2, 3]
        # The application disconnects it from the first node.
        payload = {"identifier": json.dumps({"user_id": 1}), "reconnect": False}
        assert broadcast(one, {"command": "disconnect", "payload": payload}) == 201
        assert clients.heard("a", "close")["reason"] == "remote"
        # A node stops: its clients are told to come back, and do so to the other one.
        clients.rails("last", one)
        clients.subscribe("last", "s", stream_name=channel)
        with Cable(one) as plain:
            one.signal(15)
            assert plain.next() == {"type": "disconnect", "reason": "server_restart", "reconnect": True}
        assert clients.heard("last", "disconnect", "s")["again"]
        publish(two, channel, 4)
        for name in "br":
            assert clients.messages(name, "s", 1) == [4]


def test_nobody_is_left_where_a_node_was_killed(
    redis_server: RedisServer, tmp_path: Path, channel: str
) -> None:  # fmt: skip
    with two_nodes(tmp_path, redis_server.url, **SETTINGS) as (one, two):
        gone, stays = Cable(one, EXTENDED), Cable(two, EXTENDED)
        for client, id in ((gone, "1"), (stays, "2")):
            client.subscribe(public(channel), presence={"id": id})
        for client in (gone, stays):
            heard = {client.next()["message"]["id"] for _ in range(2 if client is gone else 1)}
            assert "2" in heard
        one.signal_all(9)
        one.process.wait()
        one.hang_up()
        assert stays.next()["message"] == {"type": "leave", "id": "1"}
        stays.send("presence", public(channel), data={})
        told = stays.next()["message"]
        assert told == {"type": "info", "total": 1, "records": [{"id": "2"}]}
        stays.settle()
        stays.socket.close()
        gone.socket.close()
