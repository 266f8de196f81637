"""Centrifugo's server API, and the streams of clients that send their commands by other requests."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from msgspec import Raw

from raiden.dialects.centrifuge.messages import Command, ConnectRequest, EmulationRequest, Reply, SubscribeRequest
from raiden.dialects.centrifuge.protobuf import decode, delimited, encode
from tests.collecting import Collecting
from tests.daemons import Daemon, running, wait_for
from tests.dialects.centrifuge_client import Client, token
from tests.stores import RedisServer
from tests.tokens import JWT_KEYS

KEY = "the-key-of-the-server-api"
JSON = {"Content-Type": "application/json"}
names = iter(f"api{number}" for number in range(1_000_000))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(
        tmp_path_factory.mktemp("node"), workers=2, dialects=["centrifuge"], jwt_keys=JWT_KEYS, centrifuge_api_key=KEY,
        channels={
            "*": {"subscribe": "anyone"}, "many:*": {"subscribe": "anyone", "publish": "anyone"},
            "none:*": {"subscribe": "anyone", "history_size": 0},
        },
        allowed_origins=["https://example.com"],
    )  # fmt: skip


@pytest.fixture
def channel() -> str:
    return next(names)


@pytest.fixture
def client(node: Daemon, channel: str) -> Iterator[Client]:
    """A client, of a user that is named as the channel, to which it is subscribed."""
    with Client(node) as client:
        client.connected(token=token(channel))
        client.subscribed(channel)
        yield client


def call(node: Daemon, method: str, **request: Any) -> Any:
    """The answer of the API."""
    status, _, body = node.request("POST", f"/api/{method}", json.dumps(request), {**JSON, "X-API-Key": KEY})
    assert status == 200, (status, body)
    return json.loads(body)


# The API.


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [({"X-API-Key": KEY}, "", 200), ({"Authorization": f"apikey {KEY}"}, "", 200), ({}, f"?api_key={KEY}", 200),
     ({}, "", 401), ({"X-API-Key": "wrong"}, "", 401), ({"Authorization": f"Bearer {KEY}"}, "", 401)],
)  # fmt: skip
def test_a_key_is_needed(node: Daemon, headers: dict[str, str], query: str, status: int) -> None:
    found, _, body = node.request("POST", f"/api/info{query}", "{}", {**JSON, **headers})
    assert found == status
    assert status == 200 or "X-API-Key" in json.loads(body)["detail"]


def test_what_is_no_request(node: Daemon) -> None:
    headers = {"X-API-Key": KEY}
    assert node.request("POST", "/api/publish", "nonsense", headers)[0] == 400
    assert node.request("POST", "/api/publish", '{"channel":5}', headers)[0] == 400
    assert "no request of publish" in json.loads(node.request("POST", "/api/publish", "nonsense", headers)[2])["detail"]
    for path in ("/api/dance", "/api/", "/api"):  # the last is that of old clients, and must not be a channel
        status, _, body = node.request("POST", path, '{"method": "publish"}', {**JSON, **headers})
        assert status == 404 and "/api/publish" in json.loads(body)["detail"]
    assert node.request("GET", "/api/info", headers=headers)[0] == 405
    assert call(node, "publish", channel="", data=1)["error"] == {"code": 107, "message": "bad request"}
    assert call(node, "publish", channel="news*", data=1)["error"]["code"] == 107
    assert call(node, "publish", channel="a", data=1, version=3)["error"]["code"] == 107
    status, _, body = node.request(
        "POST", "/api/history", '{"channel":"none:a"}', {**headers, "X-Centrifugo-Error-Mode": "transport"}
    )
    assert status == 400 and json.loads(body) == {"code": 108, "message": "not available"}


def test_publishing(node: Daemon, client: Client, channel: str) -> None:
    first = call(node, "publish", channel=channel, data={"a": 1}, tags={"color": "red"})["result"]
    assert first["offset"] == 1 and first["epoch"]
    assert client.push()["pub"] == {"data": {"a": 1}, "offset": 1, "tags": {"color": "red"}}
    for _ in range(2):
        result = call(node, "publish", channel=channel, data=2, idempotency_key="k")["result"]
        assert result["offset"] == 2
    assert client.push()["pub"]["data"] == 2
    encoded = base64.b64encode(b"\x00\xff").decode()
    call(node, "publish", channel=channel, b64data=encoded)
    assert client.push()["pub"]["data"] == {"base64": encoded}
    assert call(node, "publish", channel=channel, data=4, skip_history=True) == {"result": {}}
    assert client.push()["pub"] == {"data": 4}
    assert call(node, "publish", channel="none:x", data=4, idempotency_key="k") == {"result": {}}


def test_broadcast_and_batch(node: Daemon, client: Client, channel: str) -> None:
    found = call(node, "broadcast", channels=[channel, "", f"{channel}-2"], data=1)["result"]["responses"]
    assert [each.get("result", {}).get("offset") for each in found] == [1, None, 1]
    assert found[1]["error"]["code"] == 107
    assert client.push()["pub"]["data"] == 1
    commands = [
        {"publish": {"channel": channel, "data": 2}},
        {"dance": {}},
        {"history": {"channel": channel, "limit": 9}},
    ]
    replies = call(node, "batch", commands=commands)["replies"]
    assert replies[0]["publish"]["offset"] == 2 and replies[1]["error"]["code"] == 104
    assert [each["data"] for each in replies[2]["history"]["publications"]] == [1, 2]


def test_history_is_removed(node: Daemon, client: Client, channel: str) -> None:
    call(node, "publish", channel=channel, data=1)
    assert call(node, "history", channel=channel, limit=-1)["result"]["publications"] == [{"data": 1, "offset": 1}]
    assert call(node, "history_remove", channel=channel) == {"result": {}}
    assert "publications" not in call(node, "history", channel=channel, limit=-1)["result"]


def test_presence(node: Daemon, client: Client, channel: str) -> None:
    (known,) = call(node, "presence", channel=channel)["result"]["presence"].values()
    assert known["user"] == channel
    assert call(node, "presence_stats", channel=channel)["result"] == {"num_clients": 1, "num_users": 1}
    assert call(node, "channels", pattern=f"{channel[:-1]}*")["result"]["channels"][channel] == {"num_clients": 1}
    assert channel not in call(node, "channels", pattern="other*")["result"]["channels"]
    (row,) = call(node, "info")["result"]["nodes"]
    assert row["uid"] and row["version"]


def test_clients_are_subscribed_and_unsubscribed(node: Daemon, client: Client, channel: str) -> None:
    name = f"{channel}-server"
    call(node, "publish", channel=name, data=1)
    epoch = call(node, "history", channel=name)["result"]["epoch"]
    asked = {"user": channel, "channel": name, "data": {"hi": 1}, "recover_since": {"epoch": epoch}}
    assert call(node, "subscribe", **asked) == {"result": {}}
    push = client.push()
    assert push["subscribe"] == {"recoverable": True, "positioned": True, "epoch": epoch, "data": {"hi": 1}}
    assert client.push() == {"channel": name, "pub": {"data": 1, "offset": 1}}
    call(node, "publish", channel=name, data=2)
    assert client.push()["pub"]["data"] == 2
    assert call(node, "unsubscribe", user=channel, channel=name) == {"result": {}}
    assert client.push() == {"channel": name, "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
    assert call(node, "unsubscribe", channel=name)["error"]["code"] == 107


def test_clients_are_refreshed_and_disconnected(node: Daemon, client: Client, channel: str) -> None:
    with Client(node) as other:
        name = other.connected(token=token(channel))["client"]
        call(node, "refresh", user=channel, client=name, expire_at=4_000_000_000)
        assert other.push()["refresh"]["expires"] is True
        assert call(node, "disconnect", user=channel, disconnect={"code": 99})["error"]["code"] == 107
        asked = {"whitelist": [name], "disconnect": {"code": 4100, "reason": "later"}}
        assert call(node, "disconnect", user=channel, **asked) == {"result": {}}
        assert client.closed() == (4100, "later")
        call(node, "disconnect", client=name)
        assert other.closed() == (3503, "force disconnect")


def test_a_subscription_that_is_ended_before_it_has_begun_is_none(tmp_path: Path) -> None:
    """What the client missed is still being read when the subscription is ended: it is not told that it has one."""
    node = Daemon(
        tmp_path, workers=1, dialects=["centrifuge"], jwt_keys=JWT_KEYS, centrifuge_api_key=KEY,
        channels={"*": {"subscribe": "anyone", "publish": "anyone", "history": "anyone"}},
    )  # fmt: skip
    node.publish("c", 1)
    history = node.workers()["history"]
    with Client(node) as other, Client(node) as client:
        other.connected(token=token("bob"))
        epoch = other.subscribed("c")["epoch"]
        client.connected(token=token("ann"))
        os.kill(history, signal.SIGSTOP)
        try:
            asked = client.command(subscribe={"channel": "c", "recover": True, "epoch": epoch})
            wait_for(lambda: _unsubscribed(node, client), "it has been subscribed")
        finally:
            os.kill(history, signal.SIGCONT)
        assert client.reply(asked)["error"]["code"] == 100
        assert client.push() == {"channel": "c", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
        assert client.subscribed("c", recover=True, epoch=epoch)["recovered"] is True
    assert node.stop() == 0


def _unsubscribed(node: Daemon, client: Client) -> bool:
    """End ann's subscription; whether she was told of that."""
    call(node, "unsubscribe", user="ann", channel="c")
    with suppress(TimeoutError):
        client.read(0.1)
    return bool(client.pushes)


# Streams, and the requests of their clients.


class Stream:
    """A stream of HTTP or of events, and the commands of its client."""

    def __init__(self, node: Daemon, path: str = "/connection/http_stream", *, get: bool = False) -> None:
        self._node = node
        self._connection = node.open()
        connect = json.dumps({"id": 1, "connect": {"token": token()}})
        if get:
            self._connection.request("GET", f"{path}?cf_connect={quote(connect)}")
        else:
            self._connection.request("POST", path, connect, JSON)
        self.response = self._connection.getresponse()
        assert self.response.status == 200
        self.result = self.next()["connect"]

    def next(self) -> Any:
        """The next message; pings are left out."""
        while line := self.response.readline():
            text = line.strip().removeprefix(b"data: ")
            if text and text != b"{}":
                return json.loads(text)
        return None

    def address(self) -> dict[str, str]:
        """The fields of a request that say which stream it is for."""
        return {"session": self.result["session"], "node": self.result["node"]}

    def send(self, *commands: Any, node: Daemon | None = None) -> int:
        body = {**self.address(), "data": "\n".join(map(json.dumps, commands))}
        status, _, answer = (node or self._node).request("POST", "/emulation", json.dumps(body), JSON)
        assert answer == b"" or status != 204
        return status

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize(
    ("path", "get"), [("/connection/http_stream", False), ("/connection/sse", False), ("/connection/sse", True)]
)
def test_a_stream(node: Daemon, channel: str, path: str, get: bool) -> None:
    stream = Stream(node, path, get=get)
    kind = "text/event-stream" if path.endswith("sse") else "application/json"
    fields = dict(stream.response.getheaders())
    assert (fields["Content-Type"], fields["Cache-Control"], fields["X-Accel-Buffering"]) == (kind, "no-store", "no")
    for number in range(6):  # they come to both workers
        assert stream.send({"id": 2 + number, "subscribe": {"channel": f"{channel}-{number}"}}) == 204
        assert "subscribe" in stream.next()
    call(node, "publish", channel=f"{channel}-5", data=[1])
    assert stream.next()["push"]["pub"]["data"] == [1]
    call(node, "disconnect", user="ann", session=stream.result["session"])
    assert stream.next() == {"push": {"disconnect": {"code": 3503, "reason": "force disconnect"}}}
    assert stream.next() is None
    assert stream.send({"id": 9, "ping": {}}) == 404
    stream.close()


def test_a_stream_of_protobuf(node: Daemon, channel: str) -> None:
    kind = {"Content-Type": "application/octet-stream"}
    connection = node.open()
    connection.request(
        "POST", "/connection/http_stream", delimited(encode(Command(1, connect=ConnectRequest(token())))), kind
    )
    response = connection.getresponse()
    assert response.getheader("Content-Type") == kind["Content-Type"]
    result = decode(_delimited(response), Reply).connect
    assert result is not None and result.session
    frame = delimited(encode(Command(2, subscribe=SubscribeRequest(channel))))
    request = encode(EmulationRequest(result.node, result.session, _raw(frame)))
    assert node.request("POST", "/emulation", request, kind)[0] == 204
    assert decode(_delimited(response), Reply).subscribe is not None
    connection.close()


def _raw(data: bytes) -> Raw:
    return Raw(data)


def _delimited(response: http.client.HTTPResponse) -> bytes:
    size = response.read(1)[0]
    if size > 127:
        size = size - 128 + 128 * response.read(1)[0]
    return response.read(size)


def test_many_requests_of_a_stream_at_once(node: Daemon) -> None:
    """Each is taken, whichever worker it comes to, though they can't be left unread as those of a WebSocket can."""
    stream = Stream(node)
    assert stream.send({"id": 1, "subscribe": {"channel": "many:a"}}) == 204
    assert "subscribe" in stream.next()
    requests = [node.open() for _ in range(150)]
    for number, request in enumerate(requests, 2):
        commands = [{"id": number * 10 + n, "publish": {"channel": "many:a", "data": n}} for n in range(4)]
        body = {**stream.address(), "data": "\n".join(map(json.dumps, commands))}
        request.request("POST", "/emulation", json.dumps(body), JSON)
    assert [request.getresponse().status for request in requests] == [204] * 150
    found = [stream.next() for _ in range(1200)]
    assert len({reply["id"] for reply in found if "publish" in reply}) == 600
    assert [push["push"]["pub"]["offset"] for push in found if "push" in push] == list(range(1, 601))
    for request in requests:
        request.close()
    stream.close()


def test_requests_of_no_stream(node: Daemon) -> None:
    for body in ("nonsense", "[]", '{"session":"s","node":"n","data":{"id":1}}', ""):
        assert node.request("POST", "/emulation", body, JSON)[0] == 400
    for other in ("n", "127.0.0.1:1:0.0123456789abcdef", "\u00e9"):
        body = json.dumps({"session": "s", "node": other, "data": "{}"})
        assert node.request("POST", "/emulation", body, JSON)[0] == 404


def test_a_browser_asks_first(node: Daemon) -> None:
    fields = {
        "Origin": "https://example.com", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }  # fmt: skip
    for path in ("/emulation", "/connection/http_stream"):
        status, headers, _ = node.request("OPTIONS", path, headers=fields)
        assert status == 204 and headers["access-control-allow-origin"] == "https://example.com"
        assert "POST" in headers["access-control-allow-methods"]
        assert headers["access-control-allow-headers"].lower() == "content-type"
    assert node.request("OPTIONS", "/emulation")[1]["access-control-allow-methods"] == "POST, OPTIONS"


def test_a_node_that_stops_tells_its_clients(tmp_path: Path) -> None:
    node = Daemon(tmp_path, store="none", dialects=["centrifuge"], jwt_keys=JWT_KEYS)
    stream = Stream(node)
    with Client(node) as client:
        client.connected(token=token())
        node.signal(15)
        assert stream.next() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
        assert client.closed() == (3001, "shutdown")
        stream.close()
        assert node.stop() == 0


def test_secrets_are_not_logged(tmp_path: Path) -> None:
    node = Daemon(
        tmp_path, store="none", dialects=["centrifuge"], jwt_keys=JWT_KEYS, access_log=True, centrifuge_api_key=KEY
    )
    node.request("POST", f"/api/info?api_key={KEY}", "{}")
    Stream(node, "/connection/sse", get=True).close()
    wait_for(lambda: "cf_connect" in node.log(), "the log of the request")
    assert KEY not in node.log() and token()[:60] not in node.log()
    assert node.stop() == 0


def test_no_cycle_is_left(tmp_path: Path) -> None:
    node = Collecting(
        tmp_path, dialects=["centrifuge"], centrifuge_anonymous=True, centrifuge_api_key=KEY, centrifuge_join_leave=True
    )

    def live(number: int) -> None:
        with Client(node) as client:
            client.connected()
            client.subscribed("a", recover=number % 2 == 0)
            client.ask(publish={"channel": "a", "data": number})
            client.ask(presence={"channel": "a"})
            client.ask(history={"channel": "a", "limit": 5})
            if number % 3 == 0:
                client.send("garbage")
                client.closed()
        connection = node.open()
        commands = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"a"}}'
        connection.request("POST", "/connection/http_stream", commands)
        response = connection.getresponse()
        while b'"subscribe"' not in response.readline():
            pass
        response.close()
        connection.close()
        call(node, "presence", channel="a")

    node.collected()
    for number in range(6):
        live(number)
    wait_for(lambda: node.metric("raiden_connections", transport="centrifuge") == 0, "all have gone")
    assert node.collected() == ""
    assert node.stop() == 0


def test_a_store_that_is_away(tmp_path: Path, own_server: RedisServer) -> None:
    """Clients take an error that is not temporary for the end, and no answer within five seconds for a dead server."""
    node = Daemon(tmp_path, store=own_server.url, dialects=["centrifuge"], centrifuge_anonymous=True)
    with Client(node) as client:
        client.connected()
        own_server.kill()
        away = {"code": 100, "message": "internal server error", "temporary": True}
        assert client.ask(subscribe={"channel": "a"})["error"] == away
        assert client.ask(history={"channel": "a", "limit": 1})["error"] == away
        assert client.ask(publish={"channel": "a", "data": 1})["error"] == away
        assert client.ask(unsubscribe={"channel": "a"})["unsubscribe"] == {}
    node.stop()
