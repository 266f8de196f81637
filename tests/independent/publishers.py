"""Publishers by every door, consumers of a durable subscription, and readers of the past."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

import zmq
from websockets.exceptions import WebSocketException

from tests.independent.clients import PATIENCE, REQ_PORT, Client, Refused, World
from tests.independent.events import Done, Handed, Page, Published

NOBODY_KNOWS = "nobody knows"
RETRY_FOR = 60.0  # seconds: within the five minutes of a key
Answer = tuple[int, Any]  # a status, and the body or an error's text
Send = Callable[[Any, str, list[dict[str, Any]], str | None], Answer]


def by_http(connection: HTTPConnection, channel: str, values: list[dict[str, Any]], key: str | None) -> Answer:
    kind = "application/json" if len(values) == 1 else "application/x-ndjson"
    headers = {"Content-Type": kind, **({"Idempotency-Key": key} if key else {})}
    connection.request("POST", f"/{channel}", "\n".join(map(json.dumps, values)), headers)
    response = connection.getresponse()
    text = response.read()
    if response.status not in (200, 202):
        return response.status, text.decode()
    body = json.loads(text)
    return response.status, body["cursors"] if "cursors" in body else [body["cursor"]] if "cursor" in body else []


def to_several(connection: HTTPConnection, channels: str, values: list[dict[str, Any]], key: str | None) -> Answer:
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    body = json.dumps({"channels": channels.split(), "data": values[0]})
    connection.request("POST", "/-/publish", body, headers)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        return response.status, text.decode()
    cursors = json.loads(text)["cursors"]
    return 200, [cursors[channel] for channel in channels.split()]


def by_websocket(socket: Any, channel: str, values: list[dict[str, Any]], key: str | None) -> Answer:
    command = {"id": 1, "cmd": "publish", "channel": channel, "data": values[0], **({"key": key} if key else {})}
    socket.send(json.dumps(command))
    reply = json.loads(socket.recv(timeout=PATIENCE))
    if "error" in reply:
        return reply["error"]["code"], reply["error"]["message"]
    return 200, [reply["cursor"]]


def by_zmq(context: zmq.Context[Any], channel: str, values: list[dict[str, Any]], key: str | None) -> Answer:
    with context.socket(zmq.REQ) as req:
        req.linger = 0
        req.connect(f"tcp://127.0.0.1:{REQ_PORT}")
        frames = [b"publish", channel.encode(), json.dumps(values[0]).encode(), b"", (key or "").encode()]
        req.send_multipart(frames if key else frames[:3])
        if not req.poll(PATIENCE * 1000):
            raise Refused("no answer")
        status, text = req.recv_multipart()
    return int(status), [text.decode()] if status == b"200" else text.decode()


class Publisher(Client):
    """Publishes to channels, one after the other; what got no clear answer is published again if it has a key.
    ``door``: "http", "several", "websocket", "zmq". ``channels`` of "several" are lists, joined by a space."""

    def __init__(self, world: World, name: str, door: str, channels: list[str], *, batch: int = 1, pace: float = 0.4,
                 keys: float = 0.5) -> None:  # fmt: skip
        super().__init__(world, name)
        self.channels, self.batch, self.pace, self.keys = channels, batch, pace, keys
        self.number = self.lives = 0
        ways: dict[str, Send] = {"http": by_http, "several": to_several, "websocket": by_websocket, "zmq": by_zmq}
        self.send = ways[door]
        self.door = {"websocket": lambda node: world.websocket(node, "/-/websocket"), "zmq": world.zmq}.get(
            door, world.http
        )
        self.due: tuple[float, str, list[str], str] | None = None  # with a key, and not answered

    def finished(self) -> bool:
        over = time.monotonic() >= self.world.settled_at
        return over and (self.due is None or time.monotonic() > self.due[0] + RETRY_FOR)

    def live(self, node: int) -> None:
        self.lives += 1
        until = time.monotonic() + self.random.uniform(2, 20)
        with self.door(node) as door:
            while time.monotonic() < until and not self.finished() and not self.world.over.is_set():
                if self.due:
                    begun, channel, ids, key = self.due
                else:
                    begun, channel = time.monotonic(), self.random.choice(self.channels)
                    count = self.batch if self.random.random() < 0.5 else 1
                    ids = [f"{self.name}-{self.lives}.{self.number + each}" for each in range(count)]
                    self.number += count
                    key = f"{self.name} {ids[0]}" if self.random.random() < self.keys else ""
                self.publish(door, node, begun, channel, ids, key)
                self.world.pause(self.random.uniform(0, 2 * self.pace))

    def publish(self, door: Any, node: int, begun: float, channel: str, ids: list[str], key: str) -> None:
        values = [{"id": each, "odd": int(each.rpartition(".")[2]) % 2} for each in ids]
        self.due = (begun, channel, ids, key) if key else None
        try:
            status, answer = self.send(door, channel, values, key or None)
        except (OSError, HTTPException, WebSocketException, zmq.ZMQError):
            self.tell(begun, channel, ids, "unknown", [], node)
            raise
        if status in (200, 202):
            self.due = None
            self.tell(begun, channel, ids, "stored" if status == 200 else "taken", answer, node)
        else:
            refused = status == 503 and not key and NOBODY_KNOWS not in answer
            self.tell(begun, channel, ids, "refused" if refused else "unknown", [], node)
            self.check(status, answer, channel)

    def tell(self, begun: float, channel: str, ids: list[str], outcome: str, cursors: list[str], node: int) -> None:
        now, channels = time.monotonic(), channel.split()
        for index, name in enumerate(channels):
            own = cursors if len(channels) == 1 else cursors[index : index + 1]
            self.world.log(Published(begun, now, name, tuple(ids), outcome, tuple(own), node))


class Consumer(Client):
    """One of those that share a channel's messages, by command socket or by long-poll. Some acknowledgements are late,
    and some it owes when it leaves."""

    def __init__(self, world: World, name: str, channel: str, *, poll: bool) -> None:
        super().__init__(world, name)
        self.channel, self.poll = channel, poll
        self.attempts: dict[str, int] = {}
        self.asked_at: dict[str, float] = {}

    def live(self, node: int) -> None:
        self.until = time.monotonic() + self.random.uniform(1, self.world.stay)
        (self.by_poll if self.poll else self.by_socket)(node)

    def staying(self) -> bool:
        return time.monotonic() < self.until and not self.world.over.is_set()

    def handed(self, message: dict[str, Any]) -> str:
        cursor: str = message["cursor"]
        self.attempts[cursor] = message["attempt"]
        self.world.log(
            Handed(time.monotonic(), self.name, self.channel, cursor, message["data"]["id"], message["attempt"])
        )
        return cursor

    def by_socket(self, node: int) -> None:
        with self.world.websocket(node, "/-/websocket") as socket:
            told = {"channel": self.channel, "durable": "team"}
            first = {"id": 0, "cmd": "subscribe", **told, "ack": True, "window": 8, "since": "earliest"}
            socket.send(json.dumps(first))
            owed: list[str] = []
            while self.staying():
                frame = json.loads(socket.recv(timeout=max(0.1, self.until - time.monotonic())))
                if "error" in frame:
                    self.check(frame["error"]["code"], str(frame), self.channel)
                elif "data" in frame:
                    cursor = self.handed(frame)
                    if self.random.random() < 0.95:
                        owed.append(cursor)
                    while owed and self.random.random() < 0.9:
                        self.asked_at[owed[0]] = time.monotonic()
                        socket.send(json.dumps({"id": owed[0], "cmd": "ack", **told, "cursor": owed.pop(0)}))
                elif frame.get("acknowledged"):
                    done, now = frame["id"], time.monotonic()
                    self.world.log(Done(now, self.channel, done, self.attempts[done], self.asked_at[done]))

    def by_poll(self, node: int) -> None:
        owed: list[str] = []
        with self.world.http(node) as connection:
            while self.staying():
                ack = f"&_ack={','.join(owed)}" if owed else ""
                connection.request("GET", f"/{self.channel}?_durable=team&_wait=3&_limit=4&_since=earliest{ack}")
                response = connection.getresponse()
                text = response.read()
                if response.status != 204:
                    self.check(response.status, text.decode(), self.channel)
                owed = [self.handed(message) for message in json.loads(text)["messages"]] if text else []


class Reader(Client):
    """Reads pages of the past, from the earliest, or after a message that it knows."""

    def __init__(self, world: World, name: str, channels: list[str]) -> None:
        super().__init__(world, name)
        self.channels = channels

    def finished(self) -> bool:
        return time.monotonic() >= self.world.settled_at

    def live(self, node: int) -> None:
        with self.world.http(node) as connection:
            for channel in self.channels:
                page, _ = read(self.world, connection, channel, None, 50)
                if page.messages:
                    since = self.random.choice(page.messages)[0]
                    self.world.pause(self.random.choice([0, 1, 3]))
                    read(self.world, connection, channel, since, 50)
        self.world.pause(2)


def read(
    world: World, connection: HTTPConnection, channel: str, since: str | None, limit: int
) -> tuple[Page, str | None]:
    """One page; and the cursor to go on with, if there is more."""
    begun, after = time.monotonic(), f"&_since={since}" if since else ""
    connection.request("GET", f"/-/channels/{channel}/history?_limit={limit}{after}")
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise Refused(text)
    body = json.loads(text)
    messages = tuple((each["cursor"], each["data"]["id"]) for each in body["messages"])
    gap = body["gap"]["missing"] if "gap" in body else None
    page = Page(begun, time.monotonic(), channel, since, messages, gap)
    world.log(page)
    return page, messages[-1][0] if body["more"] else None


def read_all(world: World, node: int, channel: str) -> Page:
    """All that is left of a channel, for the judge."""
    with world.http(node) as connection:
        begun = time.monotonic()
        page, more = read(world, connection, channel, None, 1000)
        messages = list(page.messages)
        while more:
            page, more = read(world, connection, channel, more, 1000)
            messages += page.messages
    whole = Page(begun, time.monotonic(), channel, None, tuple(messages), last=True)
    world.log(whole)
    return whole
