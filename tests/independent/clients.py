"""Subscribers, on every transport: threads that leave and come back at random nodes with the last position they were
told, and tell the log what they see. Each does what the documents tell a client to do, and nothing else."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from random import Random
from typing import Any

import zmq
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.cluster.network import Host
from tests.independent.events import Bad, Began, Ended, Event, Got, Missed, Moved
from tests.independent.truth import Place, place

HTTP_PORT, SUB_PORT, REQ_PORT = 8088, 7071, 7073
PATIENCE = 15.0  # seconds for an answer: a publish takes up to 13 (history.md, When the store fails)


class Refused(OSError):
    """503, or no answer in time: try again later, elsewhere."""


class World:
    """What clients share: the hosts, of which the first ``nodes`` have one, the log, and how far the run is.
    ``targets`` are the last messages to be got. A client with history stays at a node for ``stay`` seconds at most."""

    def __init__(self, hosts: list[Host], seed: int, nodes: int = 3, stay: float = 12.0) -> None:
        self.hosts, self.seed, self.nodes, self.stay = hosts, seed, nodes, stay
        self.events: list[Event] = []
        self.errors: list[str] = []
        self.over = threading.Event()
        self.settled_at = float("inf")
        self.targets: dict[str, Place] = {}

    def log(self, event: Event) -> None:
        self.events.append(event)

    def pause(self, seconds: float) -> None:
        self.over.wait(seconds)

    @contextmanager
    def http(self, node: int) -> Iterator[HTTPConnection]:
        connection = HTTPConnection("a")
        connection.sock = self.hosts[node - 1].connect(HTTP_PORT, PATIENCE)
        connection.auto_open = 0
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def websocket(self, node: int, path: str) -> Iterator[ClientConnection]:
        with (
            self.hosts[node - 1].connect(HTTP_PORT, PATIENCE) as sock,
            connect(
                f"ws://a{path}", sock=sock, compression=None, open_timeout=PATIENCE, close_timeout=1,
                ping_interval=None, proxy=None,
            ) as socket,
        ):  # fmt: skip
            yield socket

    @contextmanager
    def zmq(self, node: int) -> Iterator[zmq.Context[Any]]:
        """A context whose sockets are on the node's host: its thread begins with its first socket."""
        context: zmq.Context[Any] = zmq.Context()
        try:
            with self.hosts[node - 1].inside():
                context.socket(zmq.PAIR)
            yield context
        finally:
            context.destroy(linger=0)


class Client(threading.Thread):
    """`live` is one stay at a node; it ends by returning, or by what networks and nodes do to it."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name=name)
        self.world = world
        self.random = Random(f"{world.seed} {name}")

    def run(self) -> None:
        try:
            while not self.world.over.is_set() and not self.finished():
                try:
                    self.stay(self.random.randint(1, self.world.nodes))
                except (OSError, HTTPException, WebSocketException, InvalidHandshake, zmq.ZMQError):
                    pass
                self.world.log(Ended(time.monotonic(), self.name))
                if not self.finished():
                    self.world.pause(self.random.choice([0.05, 0.3, 1, 3]))
        except Exception:
            self.world.errors.append(f"{self.name}: {traceback.format_exc()}")

    def stay(self, node: int) -> None:
        try:
            self.live(node)
        except InvalidStatus as error:
            self.check(error.response.status_code, str(error.response.body))

    def live(self, node: int) -> None:
        raise NotImplementedError

    def finished(self) -> bool:
        return False

    def check(self, status: int, text: str, channel: str = "") -> None:
        """Refuse what is no success; what is a mistake is told to the judge."""
        if status == 500 or 400 <= status < 500:
            self.world.log(Bad(time.monotonic(), self.name, channel, f"{status} {text}"))
        if status not in (200, 101):
            raise Refused(status)


class Subscriber(Client):
    def __init__(
        self, world: World, name: str, channel: str, *, history: bool = True, filtered: bool = False,
        pattern: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(world, name)
        self.channel, self.history, self.filtered, self.pattern = channel, history, filtered, pattern
        self.cursors: dict[str, str] = {}
        self.begun = 0.0
        self.reached: dict[str, Place] = {}

    def wanted(self) -> list[str]:
        if self.pattern:
            return [name for name in self.world.targets if name.startswith(self.channel[:-1])]
        return [self.channel] if self.history else []

    def finished(self) -> bool:
        targets = self.world.targets
        return bool(targets) and all(self.has_reached(name, targets[name]) for name in self.wanted())

    def has_reached(self, channel: str, target: Place) -> bool:
        epoch, offset = self.reached.get(channel, (None, 0))
        return epoch == target.epoch and offset >= target.offset

    def until(self) -> float:
        """When this stay ends. At the end of the run, who can't come back with a position stays; who has no position
        at all stays for longer, for only what comes within a stay is promised."""
        settled = time.monotonic() >= self.world.settled_at
        at_most = self.world.stay if self.history or self.pattern else 50
        stay = 90.0 if settled and self.pattern else self.random.uniform(1, at_most)
        return time.monotonic() + stay

    def asked(self) -> str | None:
        return self.cursors.get(self.channel) if self.history and not self.pattern else None

    def begin(self, asked_at: float, node: int, asked: str | None, head: Any) -> None:
        recovered = {"true": True, "false": False, None: None}[head.get("Raiden-Recovered")]
        cursor, unconfirmed = head.get("Raiden-Cursor"), head.get("Raiden-Unconfirmed") is not None
        if self.history and not self.pattern and cursor is None:
            raise Refused("a stream that is refused by an event")
        self.begun = asked_at
        now = time.monotonic()
        self.world.log(
            Began(asked_at, now, self.name, self.channel, node, asked, cursor, recovered, self.filtered, self.pattern,
                  unconfirmed)
        )  # fmt: skip
        if cursor and asked is None:
            self.keep(self.channel, cursor)

    def keep(self, channel: str, cursor: str) -> None:
        self.cursors[channel] = cursor
        self.reached[channel] = place(cursor)

    def frame(self, frame: dict[str, Any]) -> None:
        """A wrapped line or frame, or a command socket's."""
        now, channel, cursor = time.monotonic(), frame.get("channel", self.channel), frame.get("cursor")
        if "missing" in frame:
            self.world.log(Missed(now, self.name, channel, frame["missing"]))
            if frame["missing"]:
                self.reached[channel] = Place(frame["missing"]["epoch"], frame["missing"]["last"])
        elif "data" in frame:
            self.world.log(Got(now, self.name, channel, cursor, frame["data"]["id"]))
        elif cursor:
            self.world.log(Moved(now, self.name, channel, cursor))
        if cursor and "missing" not in frame:
            self.keep(channel, cursor)

    def staying(self, until: float) -> bool:
        return time.monotonic() < until and not self.finished() and not self.world.over.is_set()

    def follow(self, socket: ClientConnection) -> None:
        until = self.until()
        while self.staying(until):
            try:
                text = socket.recv(timeout=1)
            except TimeoutError:
                continue
            self.frame(json.loads(text))

    def query(self, *more: str) -> str:
        return "&".join([*more, *(["odd=1"] if self.filtered else [])])


class Stream(Subscriber):
    """Server-sent events, or wrapped lines."""

    def __init__(self, *arguments: Any, events: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.events = events

    def live(self, node: int) -> None:
        with self.world.http(node) as connection:
            asked, begun, sock = self.asked(), time.monotonic(), connection.sock
            headers = {"Accept": "text/event-stream" if self.events else "application/x-ndjson"}
            since = [f"_since={asked}"] if asked and not self.events else []
            if asked and self.events:
                headers["Last-Event-ID"] = asked
            path = f"/{self.channel}?{self.query(*([] if self.events else ['_wrap=1']), *since)}"
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            with response:
                self.check(response.status, "" if response.status == 200 else str(response.read()), self.channel)
                self.begin(begun, node, asked, response.headers)
                until = self.until()
                while self.staying(until):
                    sock.settimeout(max(0.01, until - time.monotonic()))
                    if not (self.event(response) if self.events else self.line(response)):
                        return

    def line(self, response: HTTPResponse) -> bool:
        line = response.readline()
        if line.strip() and line.endswith(b"\n"):
            self.frame(json.loads(line))
        return bool(line)

    def event(self, response: HTTPResponse) -> bool:
        fields: dict[str, str] = {}
        while (line := response.readline()).strip():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            fields[name] = value
        if not line.endswith(b"\n"):
            return False  # an event that is not whole is none
        if fields.get("event") == "refused":
            raise Refused(fields["data"])
        if fields.get("event") == "gap":
            self.frame({"missing": json.loads(fields["data"])["missing"]})
        else:
            data = {"data": json.loads(fields["data"])} if "data" in fields else {}
            self.frame({**data, **({"cursor": fields["id"]} if "id" in fields else {})})
        return True


class WebSocket(Subscriber):
    def live(self, node: int) -> None:
        asked, begun = self.asked(), time.monotonic()
        path = f"/{self.channel}?{self.query('_wrap=1', *([f'_since={asked}'] if asked else []))}"
        with self.world.websocket(node, path) as socket:
            assert socket.response
            self.begin(begun, node, asked, socket.response.headers)
            self.follow(socket)


class Poll(Subscriber):
    """A long-poll. It has no head before its answer, so it begins with the earliest."""

    def live(self, node: int) -> None:
        until = self.until()
        with self.world.http(node) as connection:
            while self.staying(until):
                asked, begun = self.asked() or "earliest", time.monotonic()
                connection.request("GET", f"/{self.channel}?{self.query('_wait=3', f'_since={asked}')}")
                response = connection.getresponse()
                text = response.read()
                if response.status != 204:
                    self.check(response.status, str(text), self.channel)
                body = json.loads(text) if text else {}
                told = response.getheader("Raiden-Recovered") != "false"
                now, cursor = time.monotonic(), response.getheader("Raiden-Cursor")
                self.world.log(Began(begun, now, self.name, self.channel, node, asked, None, told, self.filtered))
                if "gap" in body:
                    self.frame({"missing": body["gap"]["missing"]})
                for message in body.get("messages", []):
                    self.frame(message)
                if cursor:
                    self.frame({"cursor": cursor})
