"""Who comes with a cursor to a worker whose backbone lags behind the history: what the history has no more is told
once, and what it has is delivered once, though all of it is still on its way to the worker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.daemons import Daemon, Stream, post, wait_for
from tests.multiplex import Client, two_nodes
from tests.stores import RedisServer

# How many messages come before the backbone lags, are kept, and are published in all.
BEFORE, SIZE, COUNT = 10, 20, 100

# What a subscriber sees: offsets, and pairs of the first and the last one of a gap.
Seen = list[Any]
# Reads a channel of a node, behind a cursor; or what the session of this name has subscribed to.
Read = Callable[[Daemon, str, str, str], Iterator[Any]]


@pytest.fixture(scope="module")
def nodes(shared_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    channels = {"*": {"history_size": SIZE}}
    with two_nodes(tmp_path_factory.mktemp("nodes"), shared_server.url, channels=channels) as nodes:
        yield nodes


def seen(told: dict[str, Any]) -> Any:
    if told.get("recovered") is False:
        return told["missing"]["first"], told["missing"]["last"]
    assert str(told["data"]) == told["cursor"].split(":")[1]
    return told["data"]


def events(node: Daemon, channel: str, cursor: str, name: str) -> Iterator[Any]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": cursor}
    with Stream(node, f"/{channel}", headers) as stream:
        while True:
            name, data = stream.line().decode(), json.loads(stream.line().decode().removeprefix("data: "))
            yield seen(data if name == "event: gap" else {"data": data, "cursor": name.removeprefix("id: ")})


def socket(node: Daemon, channel: str, cursor: str, name: str) -> Iterator[Any]:
    url = f"ws://127.0.0.1:{node.port}/{channel}?_wrap=1&_since={cursor}"
    with connect(url, proxy=None, max_queue=None) as websocket:
        assert json.loads(websocket.recv(20))["recovered"] is False
        while True:
            yield seen(json.loads(websocket.recv(20)))


def polls(node: Daemon, channel: str, cursor: str, name: str) -> Iterator[Any]:
    while True:
        status, headers, body = node.request("GET", f"/{channel}?_wait=20&_since={cursor}")
        assert status == 200, body
        answer = json.loads(body)
        if "gap" in answer:
            yield seen(answer["gap"])
            assert int(answer["cursor"].split(":")[1]) >= answer["gap"]["missing"]["last"]
        for message in answer["messages"]:
            yield seen(message)
        cursor = answer["cursor"]
        assert cursor == headers["raiden-cursor"]


def session(node: Daemon, channel: str, cursor: str, name: str) -> Iterator[Any]:
    with Client(node) as client:
        told = client.ask(cmd="resume", session=name, since={channel: cursor})
        assert told["subscriptions"][channel]["recovered"] is False
        while True:
            yield seen(client.push())


@pytest.mark.parametrize("offset", [50, 5])
@pytest.mark.parametrize("read", [events, socket, polls, session])
def test_a_gap_is_told_once_and_nothing_comes_again(nodes: list[Daemon], channel: str, read: Read, offset: int) -> None:
    one, two = nodes
    with Client(one) as client:
        name = client.ask(cmd="session")["session"]
        client.ask(cmd="subscribe", channel=channel)
        client.abort()
    backbone = two.workers()["backbone"]
    with Stream(two, f"/{channel}?_wrap=1") as other, ThreadPoolExecutor(1) as pool:
        epoch = post(one, channel, *range(1, BEFORE + 1))[0].partition(":")[0]
        theirs = [seen(other.value()) for _ in range(BEFORE)]
        os.kill(backbone, signal.SIGSTOP)
        try:
            for number in range(BEFORE + 1, COUNT + 1):
                post(one, channel, number)
            reader = read(two, channel, f"{epoch}:{offset}", name)
            first = pool.submit(next, reader)
            wait_for(first.done, "the worker fetches what its backbone does not bring")
        finally:
            os.kill(backbone, signal.SIGCONT)
        got = [first.result()]
        while got[-1] != COUNT:
            got.append(next(reader))
        post(one, channel, COUNT + 1)
        got.append(next(reader))
        assert got == [(offset + 1, COUNT - SIZE), *range(COUNT - SIZE + 1, COUNT + 2)]
        reader.close()  # type: ignore[attr-defined]
        while theirs[-1] != COUNT + 1:
            theirs.append(seen(other.value()))
        told = [
            offset for each in theirs for offset in ([each] if isinstance(each, int) else range(each[0], each[1] + 1))
        ]
        assert told == list(range(1, COUNT + 2)), theirs
