"""Subscribers of several lives: a session that is resumed at any node, and a late joiner at the ZeroMQ doors."""

from __future__ import annotations

import json
import time
from typing import Any

import zmq
from websockets.sync.client import ClientConnection

from tests.independent.clients import PATIENCE, REQ_PORT, SUB_PORT, Refused, Subscriber, World
from tests.independent.events import Began, Resumed
from tests.independent.truth import place


class Session(Subscriber):
    """A command socket whose session is resumed anywhere, and which then subscribes to one more channel. Its positions
    are given, or left out for the session to know. ``channels``: True, with history."""

    def __init__(self, world: World, name: str, channels: dict[str, bool]) -> None:
        super().__init__(world, name, "")
        self.channels = channels
        self.session: str | None = None
        self.had: set[str] = set()
        self.left = 0.0

    def wanted(self) -> list[str]:
        return [name for name, history in self.channels.items() if history and name in self.had]

    def live(self, node: int) -> None:
        with self.world.websocket(node, "/-/websocket") as socket:
            try:
                self.talk(node, socket)
            finally:
                self.left = time.monotonic()

    def talk(self, node: int, socket: ClientConnection) -> None:
        if self.session is None:
            self.had.clear()
            self.session = self.ask(socket, {"id": "s", "cmd": "session"})["session"]
            first = 2
        else:
            self.resume(node, socket)
            first = 1
        for channel in [name for name in self.channels if name not in self.had][:first]:
            asked, begun = self.cursors.get(channel), time.monotonic()
            since = {"since": asked} if asked and self.channels[channel] else {}
            reply = self.ask(socket, {"id": channel, "cmd": "subscribe", "channel": channel, **since})
            self.had.add(channel)
            self.subscribed(begun, node, channel, asked, reply, "unconfirmed" in reply)
        self.follow(socket)

    def resume(self, node: int, socket: ClientConnection) -> None:
        known = {name: cursor for name, cursor in self.cursors.items() if name in self.had and self.channels[name]}
        since = {name: cursor for name, cursor in known.items() if self.random.random() < 0.7}
        begun = time.monotonic()
        reply = self.ask(
            socket, {"id": "r", "cmd": "resume", "session": self.session, "since": since}, missing_is_said=True
        )
        if "error" in reply:
            self.world.log(Resumed(self.left, time.monotonic(), self.name, frozenset(self.had), None))
            self.session = None
            raise Refused("the session is over")
        back = reply["subscriptions"]
        self.world.log(Resumed(self.left, time.monotonic(), self.name, frozenset(self.had), frozenset(back)))
        self.had &= set(back)  # a store that went back may know less
        for channel, told in back.items():
            asked = since.get(channel) or self.cursors.get(channel)
            if asked is None and channel not in self.had:  # its reply was lost
                asked = told.get("cursor")
            self.had.add(channel)
            self.subscribed(begun, node, channel, asked, told, "unconfirmed" in reply, repeats=channel not in since)

    def subscribed(
        self, begun: float, node: int, channel: str, asked: str | None, told: dict[str, Any], unconfirmed: bool,
        *, repeats: bool = False,
    ) -> None:  # fmt: skip
        pattern = channel.endswith("*")
        cursor = None if pattern else told.get("cursor")
        recovered = None if pattern else told.get("recovered")
        asked = None if pattern else asked
        self.world.log(
            Began(begun, time.monotonic(), self.name, channel, node, asked, cursor, recovered, False, pattern,
                  unconfirmed or (pattern and repeats), repeats)
        )  # fmt: skip
        if cursor and (asked is None or repeats):
            self.keep(channel, cursor)

    def ask(
        self, socket: ClientConnection, command: dict[str, Any], *, missing_is_said: bool = False
    ) -> dict[str, Any]:
        """The reply to a command; what comes before it are messages."""
        socket.send(json.dumps(command))
        end = time.monotonic() + PATIENCE
        while True:
            frame: dict[str, Any] = json.loads(socket.recv(timeout=max(0.0, end - time.monotonic())))
            if frame.get("id") == command["id"]:
                break
            self.frame(frame)
        if "error" in frame and not (missing_is_said and frame["error"]["code"] == 404):
            self.check(frame["error"]["code"], f"{command}: {frame['error']}", str(command.get("channel", "")))
        return frame


class Door(Subscriber):
    """A late joiner at the ZeroMQ doors (zeromq.md, A late joiner, without a gap)."""

    def live(self, node: int) -> None:
        with self.world.zmq(node) as context:
            sub, self._req = context.socket(zmq.SUB), context.socket(zmq.REQ)
            sub.connect(f"tcp://127.0.0.1:{SUB_PORT}")
            self._req.connect(f"tcp://127.0.0.1:{REQ_PORT}")
            marker = f"-/in-force/{self.name}"
            for topic in (self.channel, marker):
                sub.subscribe(topic)
            until, in_force, heard = self.until() + 3, False, 0.0
            asked, begun = self.asked() or "earliest", time.monotonic()
            while self.staying(until):
                if sub.poll(200):
                    topic, payload, cursor = (frame.decode() for frame in sub.recv_multipart())
                    heard = time.monotonic()
                    if topic == marker:
                        if not in_force:
                            self.world.log(Began(begun, heard, self.name, self.channel, node, asked, None, None))
                        in_force = True
                        self.catch_up()
                    elif topic == self.channel and in_force:
                        if not self.is_next(cursor):
                            self.catch_up()
                        if self.is_next(cursor):
                            self.frame({"data": json.loads(payload), "cursor": cursor})
                elif in_force and time.monotonic() > heard + 3:
                    heard = time.monotonic()
                    self.catch_up()

    def is_next(self, cursor: str) -> bool:
        epoch, offset = self.reached.get(self.channel, (place(cursor).epoch, 0))
        return place(cursor) == (epoch, offset + 1)

    def catch_up(self) -> None:
        more = True
        while more:
            asked = self.cursors.get(self.channel, "")
            self._req.send_multipart([b"history", self.channel.encode(), asked.encode(), b"200"])
            if not self._req.poll(PATIENCE * 1000):
                raise Refused("no answer")
            status, summary, *rest = self._req.recv_multipart()
            self.check(int(status), summary.decode(), self.channel)
            told = json.loads(summary)
            if asked and "gap" in told:
                self.frame({"missing": told["gap"]["missing"]})
            for cursor, payload in zip(rest[::2], rest[1::2], strict=True):
                self.frame({"data": json.loads(payload), "cursor": cursor.decode()})
            more = told["more"]
            if asked and "gap" in told and not rest and told["cursor"]:
                self.keep(self.channel, told["cursor"])
