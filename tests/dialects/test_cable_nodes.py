"""Action Cable's clients on two nodes that share a store: cut off at any point, they come back to either node, one of
which is killed meanwhile, and get each message once and in order."""

from __future__ import annotations

import json
import os
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import WebSocketException

from tests.daemons import PATIENCE, Daemon, wait_for
from tests.dialects.cable import EXTENDED, Cable, broadcast, public
from tests.multiplex import two_nodes
from tests.stores import RedisServer

STREAMS = ("a", "b")
CLIENTS, MESSAGES = 8, 200
AWAY = (OSError, WebSocketException, HTTPException)


class World:
    """The nodes that are there, and the places at which the streams end, once all is published."""

    def __init__(self, nodes: list[Daemon], seed: int) -> None:
        self.nodes = list(nodes)
        self.seed = seed
        self.ends: dict[str, int] = {}
        self.restored = 0
        self.has_failed = False

    def is_over(self, last: dict[str, int]) -> bool:
        return self.has_failed or (bool(self.ends) and last == self.ends)


class Wanderer:
    """A client that is cut off again and again. ``got`` are its messages by stream, and ``places`` those of the last
    ones."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._random = random.Random(f"{world.seed} {number}")
        self._sid = ""
        self._streams = {public(name): name for name in STREAMS}
        self.got: dict[str, list[Any]] = {name: [] for name in STREAMS}
        self.places: dict[str, dict[str, Any]] = {}
        # What it has sent and got, for the one who looks for a fault.
        self._trail: deque[tuple[float, Any]] = deque(maxlen=40)

    @property
    def last(self) -> dict[str, int]:
        return {name: place["offset"] for name, place in self.places.items()}

    def wander(self) -> None:
        begun = time.monotonic()
        while not self._world.is_over(self.last):
            assert time.monotonic() < begun + PATIENCE, (self.last, self._world.ends)
            try:
                self._live(self._random.choice(self._world.nodes))
            except AWAY:
                pass
            except BaseException:  # raised again: the others need not go on
                self._world.has_failed = True
                raise
            time.sleep(self._random.choice((0.0, 0.05, 0.2)))  # a client waits before it comes back

    def _live(self, node: Daemon) -> None:
        client = Cable(node, EXTENDED, sid=self._sid)
        try:
            self._sid = client.sid
            known = client.welcome.get("restored_ids", [])
            self._world.restored += bool(known)
            for identifier, name in self._streams.items():
                place = {"streams": {name: self.places[name]}} if name in self.places else {"since": 1}
                client.send("history" if identifier in known else "subscribe", identifier, history=place)
                self._note(node.port, "history" if identifier in known else "subscribe", name, place)
            for _ in range(self._random.randrange(1, 80)):
                if self._world.is_over(self.last):
                    return
                self._take(json.loads(client.socket.recv(1)))
            if self._random.random() < 0.3:
                identifier = self._random.choice(list(self._streams))
                client.send("unsubscribe", identifier)
                client.send("subscribe", identifier, history={"streams": self.places})
                self._note("again", identifier, dict(self.places))
        except TimeoutError:
            pass
        finally:
            if self._random.random() < 0.7:
                client.socket.socket.sendall(b"\x81\xfe\x01")  # amid a frame
                client.socket.socket.shutdown(2)
            client.socket.close()

    def _note(self, *what: Any) -> None:
        self._trail.append((time.monotonic(), what))

    def _take(self, told: dict[str, Any]) -> None:
        self._note(told)
        kinds = (None, "ping", "confirm_subscription", "confirm_history", "disconnect")
        assert told.get("type") in kinds, "\n".join(map(str, self._trail))
        if "message" in told and "type" not in told:
            name = self._streams[told["identifier"]]
            assert told["offset"] == self.last.get(name, 0) + 1, "\n".join(map(str, self._trail))
            self.places[name] = {"epoch": told["epoch"], "offset": told["offset"]}
            self.got[name].append(told["message"])


@pytest.fixture
def nodes(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Daemon]]:
    channels = {"*": {"history_size": 4 * MESSAGES}}
    with two_nodes(tmp_path, redis_server.url, dialects=["cable"], cable_public=True, channels=channels) as found:
        yield found


def published(world: World, node: Daemon, which: str) -> None:
    """Publish until the node is killed, or enough is published."""
    for number in range(MESSAGES):
        for name in STREAMS:
            try:
                assert broadcast(node, {"stream": name, "data": json.dumps(f"{which} {number}")}, key=None) in (
                    201,
                    503,
                )
            except AWAY:
                return


def past(node: Daemon, name: str) -> list[Any]:
    page = node.json(f"/-/channels/{name}/history?_limit=1000")
    assert not page["more"]
    return [each["data"] for each in page["messages"]]


def test_each_message_comes_once_and_in_order(nodes: list[Daemon]) -> None:
    world = World(nodes, int(os.environ.get("TESTS_SEED", time.time())))
    print("seed", world.seed)
    one, two = nodes
    clients = [Wanderer(world, number) for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS + 2) as pool:
        try:
            wandering = [pool.submit(client.wander) for client in clients]
            publishing = [pool.submit(published, world, node, which) for node, which in ((one, "one"), (two, "two"))]
            wait_for(
                lambda: world.has_failed or sum(map(len, clients[0].got.values())) > MESSAGES, "half of the messages"
            )  # fmt: skip
            print("killed at", time.monotonic())
            one.signal_all(9)
            world.nodes.remove(one)
            one.process.wait()
            one.hang_up()
            for each in publishing:
                each.result()
            ends = {name: past(two, name) for name in STREAMS}
            world.ends = {name: len(messages) for name, messages in ends.items()}
            for each in wandering:
                each.result()
        except BaseException:  # raised again: the others need not go on
            world.has_failed = True
            raise
    for client in clients:
        assert client.got == ends
    assert world.restored
