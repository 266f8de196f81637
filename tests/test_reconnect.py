"""Clients that come and go by themselves: long-polls with pauses between them, and a browser whose network is cut."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from random import Random
from typing import Any
from urllib.parse import quote

from tests import test_clients
from tests.daemons import Daemon, Stream, wait_for
from tests.test_clients import Browser

browser = test_clients.browser
page_port = test_clients.page_port

JSON = {"Content-Type": "application/json"}
# What is promised of long-polls: at so many messages a second, for so many seconds.
RATE, SECONDS = 5, 60.0
# What is published last.
LAST = 0


class Publisher(threading.Thread):
    """Publishes numbers to channels in turns, ``rate`` a second to each; ``acked`` is what was answered, by channel;
    the last ones are `LAST`."""

    def __init__(self, node: Daemon, channels: list[str], rate: float) -> None:
        super().__init__()
        self.acked: dict[str, list[tuple[str, int]]] = {channel: [] for channel in channels}
        self.wrong: list[str] = []
        self._connection = node.open()
        self._pause = 1 / rate
        self._stop_it = threading.Event()

    def run(self) -> None:
        with closing(self._connection):
            number = 0
            while not self._stop_it.wait(self._pause) and not self.wrong:
                number += 1
                for channel in self.acked:
                    self._publish(channel, number)
            for channel in self.acked:
                self._publish(channel, LAST)

    def _publish(self, channel: str, number: int) -> None:
        try:
            self._connection.request("POST", f"/{channel}", str(number), JSON)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(repr(error))
            return
        if response.status == 200:
            self.acked[channel].append((json.loads(body)["cursor"], number))
        else:
            self.wrong.append(f"{response.status} {body!r}")

    def stop(self) -> None:
        self._stop_it.set()
        self.join(20)

    def __enter__(self) -> Publisher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# Long-polls.


class Poller(threading.Thread):
    """Polls with pauses until each channel's last message has come, and then once more; ``got`` is what came, by
    channel. One that ``stays`` uses one connection, and so one worker; the others come by a new one each time."""

    def __init__(self, node: Daemon, channels: list[str], seed: int, *, stays: bool) -> None:
        super().__init__()
        self.channels = channels
        self.got: dict[str, list[tuple[str, int]]] = {channel: [] for channel in channels}
        self.wrong: list[str] = []
        self.polls = self.empty = 0
        self._node = node
        self._random = Random(seed)
        self._stays = stays
        query = "&".join(f"channel={channel}" for channel in channels)
        self._path = f"/-/subscribe?{query}&" if len(channels) > 1 else f"/{channels[0]}?"
        self._connection: http.client.HTTPConnection | None = None
        self._since = "earliest"

    def run(self) -> None:
        pause = threading.Event()
        deadline = time.monotonic() + SECONDS + 30
        try:
            while not self._done() and time.monotonic() < deadline:
                self._poll(self._random.choice([0, 1, 1, 3, 20]))
                pause.wait(self._random.choice([0, 0, self._random.uniform(0, 0.5), self._random.uniform(0, 3)]))
            self._poll(0)
        except Exception as error:
            self.wrong.append(repr(error))
        finally:
            if self._connection:
                self._connection.close()

    def _done(self) -> bool:
        return all(got and got[-1][1] == LAST for got in self.got.values())

    def _poll(self, wait: int) -> None:
        if self._connection is None:
            self._connection = self._node.open()
        self._connection.request("GET", f"{self._path}_wait={wait}&_since={self._since}")
        response = self._connection.getresponse()
        body = response.read()
        if not self._stays:
            self._connection.close()
            self._connection = None
        self.polls += 1
        self._since = response.headers["Raiden-Cursor"]
        if response.status == 204:
            self.empty += 1
            return
        answer = json.loads(body)
        if response.status != 200 or "gap" in answer or response.headers["Raiden-Recovered"] != "true":
            self.wrong.append(f"{response.status} {body[:300]!r}")
        for message in answer["messages"]:
            name = message.get("channel", self.channels[0])
            self.got[name].append((message["cursor"], message["data"]))


def test_long_polls_with_pauses_get_each_message_once(start: Callable[..., Daemon]) -> None:
    """For as long as is promised, many at the same time: of one channel and of several, on one worker and on both."""
    node = start(workers=2)
    names = ["a", "b", "c"]
    pollers = [
        Poller(node, channels, seed, stays=seed % 2 == 0)
        for seed, channels in enumerate(
            [["a"], ["a"], ["b"], ["b"], names, names, ["c", "a"], ["b", "c"], ["a"], ["c"]]
        )
    ]
    for poller in pollers:
        poller.start()
    with Publisher(node, names, RATE) as publisher:
        publisher.join(SECONDS)
        publisher.stop()
    for poller in pollers:
        poller.join(60)
        assert not poller.is_alive() and not poller.wrong, poller.wrong
    assert not publisher.wrong, publisher.wrong
    for name, acked in publisher.acked.items():
        assert len(acked) > 20
        for poller in pollers:
            assert poller.got.get(name, acked) == acked
    assert all(poller.empty for poller in pollers), "who has all finds nothing more"
    assert min(poller.polls for poller in pollers) > 10


# A browser.


class Network:
    """What a browser's connections go through, and can be cut: those that there are end, new ones are refused."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.connect()

    def connect(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._run(self._accept, listener)

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        with self._lock:
            for sock in self._sockets:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended by itself
        for thread in self._threads:
            thread.join(20)
        self._threads.clear()

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments))
        self._threads[-1].start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._sockets |= {client, server}
                for source, target in ((client, server), (server, client)):
                    self._run(self._pass_on, source, target)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass  # it is cut
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other direction was faster

    def close(self) -> None:
        self.cut()
        for sock in self._sockets:
            sock.close()


@contextmanager
def network(node: Daemon) -> Iterator[Network]:
    found = Network(node.port)
    try:
        yield found
    finally:
        found.close()


def test_a_browser_whose_network_is_cut_gets_each_message_once(
    browser: Browser, page_port: int, start: Callable[..., Daemon]
) -> None:
    """For five seconds, while others go on publishing; its event sources come back by themselves. One of them follows
    two channels."""
    node = start(
        workers=2, allowed_origins=[f"http://127.0.0.1:{page_port}"], channels={"*": {"history_size": 10_000}}
    )  # fmt: skip
    pause = threading.Event()
    with network(node) as net, Publisher(node, ["a", "b"], 50) as publisher:
        door = f"http://127.0.0.1:{net.port}"
        urls = [f"{door}/a?_since=earliest", f"{door}/-/subscribe?channel=a&channel=b&_since=earliest"]
        query = "&".join(f"url={quote(url, safe='')}" for url in urls)
        with browser.page(f"http://127.0.0.1:{page_port}/events.html?{query}") as report:

            def sources() -> list[dict[str, Any]]:
                pause.wait(0.1)  # the browser says all that came
                told = report()
                return [json.loads(told.get(f"source{number}", '{"got": [], "opened": 0}')) for number in range(2)]

            wait_for(lambda: min(len(source["got"]) for source in sources()) > 50, "they get messages")
            net.cut()
            before = min(len(acked) for acked in publisher.acked.values())
            pause.wait(5.0)
            assert min(len(acked) for acked in publisher.acked.values()) - before > 50, "there is load meanwhile"
            net.connect()
            wait_for(lambda: min(source["opened"] for source in sources()) == 2, "they are back")
            seen = publisher.acked["a"][-1][1]
            wait_for(lambda: publisher.acked["a"][-1][1] > seen + 50, "they get messages when they are back, too")
            publisher.stop()
            a, b = ([number for _, number in publisher.acked[name]] for name in "ab")

            def all_came() -> bool:
                single, several = (len(source["got"]) for source in sources())
                return single >= len(a) and several >= len(a) + len(b)

            wait_for(all_came, "they get the last")
            single, several = sources()
    assert not publisher.wrong, publisher.wrong
    assert (single["gaps"], several["gaps"]) == ([], [])
    assert single["got"] == a
    for name, numbers in (("a", a), ("b", b)):
        assert [each["data"] for each in several["got"] if each["channel"] == name] == numbers


def test_a_browser_that_is_cut_before_the_first_message_gets_it(
    browser: Browser, page_port: int, start: Callable[..., Daemon]
) -> None:
    """It was told where it stands when it had been told nothing else yet. One source follows two channels, and one gets
    none of the messages that come before the cut, by its filter."""
    node = start(
        workers=2, allowed_origins=[f"http://127.0.0.1:{page_port}"], keepalive=0.5,
        channels={"*": {"history_size": 2}},
    )  # fmt: skip
    with network(node) as net:
        door = f"http://127.0.0.1:{net.port}"
        urls = [f"{door}/a", f"{door}/-/subscribe?channel=a&channel=b", f"{door}/c?team=red"]
        query = "&".join(f"url={quote(url, safe='')}" for url in urls)
        with browser.page(f"http://127.0.0.1:{page_port}/events.html?{query}") as report:

            def sources() -> list[dict[str, Any]]:
                told = report()
                return [json.loads(told.get(f"source{number}", '{"got": [], "opened": 0}')) for number in range(3)]

            wait_for(lambda: [source["opened"] for source in sources()] == [1, 1, 1], "they are open")
            with Stream(node, "/c?team=red", {"Accept": "text/event-stream"}) as stream:
                for _ in range(5):
                    node.publish("c", {"team": "blue"})
                last = json.loads(node.request("GET", "/-/channels/c/history?_last=1")[2])["cursor"]
                # It gets its keep-alives when the browser does, or later.
                stream.response.readline()
                wait_for(lambda: stream.response.readline() == f"id: {last}\n".encode(), "the position has moved on")
                wait_for(lambda: stream.response.readline() == b": keep-alive\n", "and the next keep-alive has come")
            net.cut()
            for channel, value in (("a", 1), ("b", 2), ("c", {"team": "red"})):
                node.publish(channel, value)
            net.connect()
            wait_for(lambda: all(len(source["got"]) > number % 2 for number, source in enumerate(sources())), "it came")
            single, several, filtered = sources()
    assert [source["gaps"] for source in (single, several, filtered)] == [[], [], []]
    assert (single["got"], filtered["got"]) == ([1], [{"team": "red"}])
    assert [(each["channel"], each["data"]) for each in several["got"]] == [("a", 1), ("b", 2)]
