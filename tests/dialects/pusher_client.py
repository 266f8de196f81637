"""A client of the Pusher protocol for tests, and calls of its HTTP API, by the protocol's texts alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections import deque
from typing import Any, Self
from urllib.parse import quote, urlencode

from websockets.sync.client import connect

from tests.daemons import PATIENCE, Daemon

APP = {"id": "7", "key": "app-key", "secret": "app-secret"}


def hex_of(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class Client:
    """A connection; ``first`` is what it was told first. What comes while `expect` waits for something else is kept for
    later calls, in its order."""

    def __init__(
        self, node: Daemon, app: dict[str, Any] = APP, *, query: str = "?protocol=7", path: str = "", **more: Any
    ) -> None:  # fmt: skip
        self.app = app
        self.frames: deque[Any] = deque()
        url = f"ws://{node.host}:{node.port}{path}/app/{app['key']}{query}"
        self.ws = connect(
            url, sock=node.connect(), proxy=None, close_timeout=0.5, max_size=None, **{"compression": None, **more}
        ).__enter__()  # fmt: skip
        self.first = self.next()
        told = json.loads(self.first["data"]) if isinstance(self.first["data"], str) else {}
        self.socket_id: str = told.get("socket_id", "")

    def next(self) -> Any:
        """The next frame."""
        return self.frames.popleft() if self.frames else json.loads(self.ws.recv(PATIENCE))

    def expect(self, event: str, channel: str | None = None) -> Any:
        """The next frame of this event; its data as a value where it is JSON in a string."""
        passed = []
        while (frame := self.next())["event"] != event or (channel is not None and frame.get("channel") != channel):
            passed.append(frame)
        self.frames.extendleft(reversed(passed))
        if isinstance(frame.get("data"), str):
            try:
                frame["data"] = json.loads(frame["data"])
            except ValueError:
                pass
        return frame

    def send(self, event: str, data: Any = None, **more: Any) -> None:
        self.ws.send(json.dumps({"event": event, "data": {} if data is None else data, **more}))

    def ask(self, channel: str, **more: Any) -> None:
        """Subscribe as an application signs it; ``more`` replaces members of the command's data."""
        data: dict[str, Any] = {"channel": channel}
        if channel.startswith(("private-", "presence-")) and "auth" not in more:
            told = f":{more['channel_data']}" if "channel_data" in more else ""
            signed = hex_of(self.app["secret"], f"{self.socket_id}:{channel}{told}")
            data["auth"] = f"{self.app['key']}:{signed}"
        self.send("pusher:subscribe", {**data, **more})

    def subscribe(self, channel: str, **more: Any) -> Any:
        """Subscribe, and return what the reply tells."""
        self.ask(channel, **more)
        return self.expect("pusher_internal:subscription_succeeded", channel)["data"]

    def join(self, channel: str, user: Any, info: Any = None) -> Any:
        """Subscribe to a presence channel as a user."""
        return self.subscribe(channel, channel_data=json.dumps({"user_id": user, "user_info": info}))["presence"]

    def sign_in(self, user: str, **more: Any) -> None:
        data = json.dumps({"id": user, **more})
        signed = hex_of(self.app["secret"], f"{self.socket_id}::user::{data}")
        self.send("pusher:signin", {"auth": f"{self.app['key']}:{signed}", "user_data": data})

    def ping(self) -> list[Any]:
        """What has come before the answer to a ping."""
        self.send("pusher:ping")
        came = list(self.frames)
        self.frames.clear()
        while (frame := self.next())["event"] != "pusher:pong":
            came.append(frame)
        return came

    def close_code(self) -> int | None:
        """Wait until the server has closed; its code."""
        try:
            while True:
                self.frames.append(json.loads(self.ws.recv(PATIENCE)))
        except Exception:
            return self.ws.close_code

    def close(self) -> None:
        self.ws.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def signed(
    app: dict[str, Any], method: str, path: str, body: bytes | None = None, *, raw: bool = False, **query: str
) -> str:
    """The target of a signed request. ``query`` may replace what is signed; ``raw``: its values are not escaped."""
    told = {"auth_key": app["key"], "auth_timestamp": str(int(time.time())), "auth_version": "1.0"}
    if body is not None:
        told["body_md5"] = hashlib.md5(body).hexdigest()
    told |= query
    text = "\n".join([method, path, "&".join(f"{name}={told[name]}" for name in sorted(told))])
    told.setdefault("auth_signature", hex_of(app["secret"], text))
    written = "&".join(f"{name}={value}" for name, value in told.items()) if raw else urlencode(told)
    return f"{path}?{written}"


def call(
    node: Daemon, method: str, path: str, value: Any = None, *, app: dict[str, Any] = APP,
    headers: dict[str, str] | None = None, **query: Any,
) -> tuple[int, Any]:  # fmt: skip
    """Call the HTTP API; the status, and the answer as a value."""
    body = None if value is None else json.dumps(value).encode()
    target = signed(app, method, f"/apps/{app['id']}/{quote(path, safe='/#')}".replace("#", "%23"), body, **query)
    status, _, told = node.request(method, target, body, {"Content-Type": "application/json", **(headers or {})})
    return status, json.loads(told)


def trigger(node: Daemon, channel: str, name: str, data: str, *, app: dict[str, Any] = APP, **more: Any) -> Any:
    """Publish an event; what the answer tells."""
    status, told = call(node, "POST", "events", {"name": name, "channels": [channel], "data": data, **more}, app=app)
    assert status == 200, told
    return told
