"""Many requests in a cluster while servers are killed, and a worker: each has exactly one answer, or a named error, and
none is answered by two.

``TESTS_REQUESTS=100000``, in the environment, is how many are made."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from tests.daemons import Daemon, wait_for

REQUESTS = int(os.environ.get("TESTS_REQUESTS", "3000"))
SERVERS, CLIENTS, UNDER_WAY = 20, 6, 40
# Of so many requests, one kills the server that it goes to.
DEADLY = 50
# The errors that a request may have here: its server has gone, or nobody was there in time.
NAMED = {502, 503, 504}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Daemon]]:
    found: list[Daemon] = []
    try:
        for number in range(3):
            peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in found]
            found.append(Daemon(tmp_path / f"node{number}", workers=2, store="none", peers=peers))
        for node in found:
            wait_for(lambda node=node: connected(node) == 2, "the nodes are connected")  # type: ignore[misc]
        yield found
    finally:
        for node in found:
            assert node.stop() == 0
            assert "Traceback" not in node.log(), node.log()


def connected(node: Daemon) -> int:
    status, _, body = node.request("GET", "/-/ready")
    return json.loads(body)["peers"] if status == 200 else 0


class Storm:
    """What was asked, and by whom it was answered."""

    def __init__(self, nodes: list[Daemon]) -> None:
        self.nodes = nodes
        self.serving = 0
        self.over = False
        self.outcomes: dict[int, list[Any]] = defaultdict(list)
        # The servers whose answers were taken, by the number of the request.
        self.taken: dict[int, list[str]] = defaultdict(list)
        self.killed = 0
        self._values = itertools.count()
        self._names = itertools.count()

    async def server(self, node: Daemon) -> None:
        """Servers at a node, one after the other: each ends by a deadly request."""
        while not self.over:
            try:
                async with connect(url(node), compression=None) as socket:
                    await self._serve(socket, f"{next(self._names)}")
            except (ConnectionClosed, OSError, InvalidMessage, EOFError):
                await asyncio.sleep(0)

    async def _serve(self, socket: ClientConnection, name: str) -> None:
        await socket.send(json.dumps({"id": -1, "cmd": "serve", "channel": "storm", "window": 8}))
        begun = False
        try:
            async for frame in socket:
                told = json.loads(frame)
                if "request" in told:
                    value, _ = told["data"]
                    if value % DEADLY == DEADLY - 1 and random.random() < 0.7:
                        self.killed += 1
                        socket.transport.abort()
                        return
                    answer = {"id": value, "cmd": "answer", "request": told["request"], "data": [value, name]}
                    await socket.send(json.dumps(answer))
                elif told.get("id") == -1:
                    assert "error" not in told, told
                    begun = True
                    self.serving += 1
                elif "id" in told and "error" not in told:
                    self.taken[told["id"]].append(name)
        finally:
            self.serving -= begun

    async def client(self, node: Daemon) -> None:
        """A client that makes requests until there are enough."""
        room = asyncio.Semaphore(UNDER_WAY)
        async with connect(url(node), compression=None) as socket, asyncio.TaskGroup() as group:
            group.create_task(self._hear(socket, room))
            while (value := next(self._values)) < REQUESTS:
                await room.acquire()
                data = [value, value % 2 == 0]
                asked = {"id": value, "cmd": "request", "channel": "storm", "data": data, "timeout": 60}
                await socket.send(json.dumps({**asked, "again": data[1]}))
            for _ in range(UNDER_WAY):
                await room.acquire()
            await socket.send(json.dumps({"id": -1, "cmd": "ping"}))

    async def _hear(self, socket: ClientConnection, room: asyncio.Semaphore) -> None:
        while (told := json.loads(await socket.recv()))["id"] != -1:
            outcome = told["error"]["code"] if "error" in told else told["data"]
            self.outcomes[told["id"]].append(outcome)
            room.release()

    async def run(self, victim: int) -> None:
        servers = [asyncio.create_task(self.server(self.nodes[n % 3])) for n in range(SERVERS)]
        while self.serving < SERVERS:
            await asyncio.sleep(0.01)
        # The clients are at workers that live: two of the nodes.
        clients = [asyncio.create_task(self.client(self.nodes[n % 2])) for n in range(CLIENTS)]
        while len(self.outcomes) < REQUESTS // 2:
            await asyncio.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*clients), 60 + REQUESTS / 50)
        self.over = True
        for task in servers:
            task.cancel()
        await asyncio.gather(*servers, return_exceptions=True)


def url(node: Daemon) -> str:
    return f"ws://127.0.0.1:{node.port}/-/websocket"


def test_each_request_has_one_answer_while_servers_are_killed(nodes: list[Daemon]) -> None:
    storm = Storm(nodes)
    asyncio.run(storm.run(nodes[2].workers()["worker 0"]))
    assert sorted(storm.outcomes) == list(range(REQUESTS))
    assert all(len(found) == 1 for found in storm.outcomes.values()), "one outcome each"
    codes = Counter(found[0] for found in storm.outcomes.values() if isinstance(found[0], int))
    assert codes.keys() <= NAMED, codes
    answered = {value: found[0] for value, found in storm.outcomes.items() if not isinstance(found[0], int)}
    assert all(answer[0] == value for value, answer in answered.items()), "its own answer"
    for value, answer in answered.items():
        taken = storm.taken.get(value, [])
        assert len(taken) <= 1 or value % 2 == 0, "without `again` it was answered by one"
        assert not taken or answer[1] in taken
    assert storm.killed >= REQUESTS / DEADLY / 2
    assert len(answered) >= REQUESTS * 0.9, codes
    print(f"{len(answered)} answered, {dict(codes)}, {storm.killed} servers killed")
    for node in nodes:
        for what in ("requests_asked", "requests_served"):
            wait_for(lambda: node.metric(f"raiden_{what}") == 0, f"no {what} are left behind")  # noqa: B023
