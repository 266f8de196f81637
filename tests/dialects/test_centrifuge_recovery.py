"""Clients of the Centrifuge protocol that are cut off at random, amid frames too, and come back to either of two nodes,
while others publish by all doors: each gets each publication once and in order, and none is told of a loss."""

from __future__ import annotations

import itertools
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.daemons import PATIENCE, Daemon, wait_for
from tests.dialects.centrifuge_client import Client, token
from tests.dialects.test_centrifuge_api import call
from tests.dialects.test_centrifuge_clients import SETTINGS
from tests.multiplex import two_nodes
from tests.stores import RedisServer
from tests.tokens import JWT_KEYS
from tests.zeromq import OPEN, Clients

# Messages of each door to each channel; all of them together are not more than a reply may have.
EACH = 70
WANDERERS = 5
# Lives that begin while messages are published.
LIVES = 60
CHANNELS = ("one", "two", "own")


class Cut(Exception):
    """The connection is over."""


class Life:
    """One connection, of which so many bytes are read: what is behind them, or in the same frame, never came."""

    def __init__(self, node: Daemon, most: int) -> None:
        url = parse_uri(f"ws://{node.host}:{node.port}/connection/websocket")
        self.sock = socket.create_connection((node.host, node.port), PATIENCE)
        self._most = most
        self._ws = ClientProtocol(url, max_size=None)
        self._ws.send_request(self._ws.connect())
        self._flush()
        while self._ws.state is State.CONNECTING:
            self._receive(PATIENCE)
        list(self._ws.events_received())

    def _flush(self, most: int | None = None) -> None:
        try:
            self.sock.sendall(b"".join(self._ws.data_to_send())[:most])
        except OSError:
            raise Cut from None

    def _receive(self, timeout: float) -> None:
        if self._most <= 0:
            raise Cut
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(min(self._most, 65536))
        except TimeoutError:
            return
        except OSError:
            raise Cut from None
        if not data:
            raise Cut
        self._most -= len(data)
        self._ws.receive_data(data)

    def send(self, *commands: Any, most: int | None = None) -> None:
        """Send a frame of commands; ``most``: so many bytes of it, which are the last ones."""
        try:
            self._ws.send_text("\n".join(map(json.dumps, commands)).encode())
        except InvalidState:
            raise Cut from None
        self._flush(most)
        if most is not None:
            raise Cut

    def messages(self) -> Iterator[Any]:
        """What has come, after a moment."""
        self._receive(0.02)
        for event in self._ws.events_received():
            if not isinstance(event, Frame) or event.opcode is not Opcode.TEXT:
                raise Cut
            for line in bytes(event.data).split(b"\n"):
                if line == b"{}":
                    self.send({})
                else:
                    yield json.loads(line)

    def close(self, *, reset: bool) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Truth:
    """The publications that wanderers have got, by channel and offset; and what was wrong."""

    def __init__(self) -> None:
        self.found: dict[str, dict[int, Any]] = {name: {} for name in CHANNELS}
        self.wrong: list[str] = []
        self.ends: dict[str, int] = {}
        self.lives = self.recovered = 0


class Wanderer(threading.Thread):
    """A client that lives many lives, until it is at the ends of all channels, once these are known; ``places`` are
    those that it begins with. The server subscribes it to "own"."""

    life: Life

    def __init__(self, seed: str, nodes: list[Daemon], truth: Truth, places: dict[str, tuple[str, int]]) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._name = seed
        self._nodes = nodes
        self._truth = truth
        self.places = dict(places)
        self._on: set[str] = set()
        self._asked: dict[int, str] = {}
        self._numbers: Iterator[int]

    def run(self) -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            while not self._is_done() and not self._truth.wrong:
                assert time.monotonic() < deadline, f"{self.places} is not yet {self._truth.ends}"
                try:
                    self._live()
                except Cut:
                    pass
        except Exception as error:
            self._truth.wrong.append(f"{self._name}: {error!r}")

    def _is_done(self) -> bool:
        ends = self._truth.ends
        return bool(ends) and all(self.places[name][1] == end for name, end in ends.items())

    def _live(self) -> None:
        rng = self._rng
        most = rng.choice([1 << 30, rng.randrange(100, 1000), rng.randrange(100, 10_000)])
        self._numbers, self._asked, self._on = itertools.count(1), {}, set()
        self.life = life = Life(rng.choice(self._nodes), most)
        self._truth.lives += 1
        try:
            connect = {"token": token(self._name, channels=["own"]), "subs": {"own": self._back("own")}}
            commands = [{"id": self._ask("connect"), "connect": connect}]
            commands += [self._subscribe(name) for name in rng.sample(CHANNELS[:2], 2)]
            if rng.random() < 0.5:
                commands, rest = commands[:1], commands[1:]
                life.send(*commands)
                commands = rest
            life.send(*commands, most=rng.randrange(100) if rng.random() < 0.05 else None)
            end = time.monotonic() + rng.choice([0.0, 0.05, 0.3])
            while (time.monotonic() < end or self._truth.ends) and not self._is_done():
                for message in life.messages():
                    self._take(message)
                if rng.random() < 0.1 and (name := rng.choice(CHANNELS[:2])) in self._on:
                    # What comes before the next reply belongs to the subscription that is over.
                    self._on.remove(name)
                    life.send({"id": self._ask(""), "unsubscribe": {"channel": name}}, self._subscribe(name))
        finally:
            life.close(reset=rng.random() < 0.5)

    def _ask(self, what: str) -> int:
        number = next(self._numbers)
        self._asked[number] = what
        return number

    def _back(self, name: str) -> dict[str, Any]:
        epoch, offset = self.places[name]
        return {"recover": True, "epoch": epoch, "offset": offset}

    def _subscribe(self, name: str) -> dict[str, Any]:
        return {"id": self._ask(name), "subscribe": {"channel": name, **self._back(name)}}

    def _take(self, message: Any) -> None:
        push = message.get("push")
        if push is not None:
            assert "pub" in push, push
            if push["channel"] in self._on:
                self._publication(push["channel"], push["pub"])
            return
        assert "error" not in message, message
        if "connect" in message:
            for name, result in message["connect"]["subs"].items():
                self._begun(name, result)
        elif "subscribe" in message:
            self._begun(self._asked[message["id"]], message["subscribe"])

    def _begun(self, name: str, result: Any) -> None:
        place = result["epoch"], result.get("offset", 0)
        assert result.get("recovered") and place == self.places[name], (name, self.places, result)
        self._truth.recovered += 1
        self._on.add(name)
        for publication in result.get("publications", ()):
            self._publication(name, publication)

    def _publication(self, name: str, publication: Any) -> None:
        epoch, offset = self.places[name]
        assert publication["offset"] == offset + 1, (name, epoch, offset, publication)
        self.places[name] = epoch, offset + 1
        data = publication["data"]
        assert self._truth.found[name].setdefault(offset + 1, data) == data, (name, offset + 1, data)


def doors(nodes: list[Daemon], stack: ExitStack) -> dict[str, Callable[[int, str, str], Any]]:
    """What publishes a value to a channel, through a node's door."""
    clients = [stack.enter_context(Client(node)) for node in nodes]
    for client in clients:
        client.connected(token=token("publisher"))
    pushes = [stack.enter_context(Clients(node)).push() for node in nodes]
    return {
        "http": lambda at, name, value: nodes[at].post_json(f"/{name}", value),
        "api": lambda at, name, value: call(nodes[at], "publish", channel=name, data=value),
        "client": lambda at, name, value: clients[at].ask(publish={"channel": name, "data": value}),
        "zmq": lambda at, name, value: pushes[at].send_multipart([name.encode(), json.dumps(value).encode()]),
    }


def test_clients_come_back_and_miss_nothing(tmp_path: Path, redis_server: RedisServer) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    truth = Truth()
    settings = {**SETTINGS, **OPEN, "channels": {"*": {**SETTINGS["channels"]["*"], "history_size": 1000}}}
    with two_nodes(tmp_path, redis_server.url, workers=2, jwt_keys=JWT_KEYS, **settings) as nodes, ExitStack() as stack:
        with Client(nodes[0]) as client:
            client.connected()
            begin = {name: (client.subscribed(name)["epoch"], 0) for name in CHANNELS}
        wanderers = [Wanderer(f"{seed}-{number}", nodes, truth, begin) for number in range(WANDERERS)]
        publish = doors(nodes, stack)
        total = EACH * len(CHANNELS)
        sent: dict[str, list[str]] = {name: [] for name in CHANNELS}

        def publish_all(door: str) -> None:
            rng = random.Random(f"{seed}-{door}")
            for number in range(total):
                lives = LIVES * number // total
                wait_for(lambda: truth.lives >= lives or truth.wrong, "so many lives", every=0.001)  # noqa: B023
                name, value = CHANNELS[number % len(CHANNELS)], f"{door}-{number}"
                publish[door](rng.randrange(2), name, value)
                sent[name].append(value)

        publishers = [threading.Thread(target=publish_all, args=[door]) for door in publish]
        for thread in (*publishers, *wanderers):
            thread.start()
        for thread in publishers:
            thread.join()
        truth.ends = dict.fromkeys(CHANNELS, EACH * len(publish))
        for wanderer in wanderers:
            wanderer.join()
    assert not truth.wrong, "\n".join(truth.wrong)
    for name, found in truth.found.items():
        assert sorted(found) == list(range(1, EACH * len(publish) + 1))
        assert sorted(found.values()) == sorted(sent[name])
    assert truth.recovered > LIVES
