"""The HTTP and WebSocket door, as clients see it, on a real node of two workers."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.utils import accept_key

from raiden.protocols.parser import MAX_PIPELINED
from tests.daemons import Daemon, Stream, running, wait_for

JSON = {"Content-Type": "application/json"}
SSE = {"Accept": "text/event-stream"}


# Publish.


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json", b'{"a": [1, "\\u00e9"]}', {"a": [1, "é"]}),
        ("application/json", b'{\n  "pretty": true\r\n}', {"pretty": True}),
        ("application/problem+json", b'"x"', "x"),
        ("application/x-www-form-urlencoded", b"a=1&b=x+y&a=2&c=", {"a": ["1", "2"], "b": "x y", "c": ""}),
        ("text/plain", "grüße\n".encode(), "grüße\n"),
        ("text/plain; charset=latin-1", "grüße".encode("latin-1"), "grüße"),
        ("application/octet-stream", b"\0\xff", {"base64": base64.b64encode(b"\0\xff").decode()}),
        ("image/png", b"", {"base64": ""}),
    ],
)
def test_publish_by_content_type(daemon: Daemon, channel: str, content_type: str, body: bytes, value: Any) -> None:
    with Stream(daemon, f"/{channel}") as stream:
        status, _, answer = daemon.request("POST", f"/{channel}", body, {"Content-Type": content_type})
        assert (status, list(json.loads(answer))) == (200, ["cursor"])
        assert stream.value() == value


def test_publish_batch(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}") as stream:
        bad = b'1\n{"a":\n3'
        status, _, body = daemon.request("POST", f"/{channel}", bad, {"Content-Type": "application/x-ndjson"})
        assert status == 400 and b"line 2" in body
        lines = b"".join(b"%d\n" % i for i in range(500))
        assert daemon.request("POST", f"/{channel}", lines, {"Content-Type": "application/x-ndjson"})[0] == 200
        assert [stream.value() for _ in range(500)] == list(range(500))


def test_publish_to_many(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}.a") as a, Stream(daemon, f"/{channel}.b") as b:
        order = {"channels": [f"{channel}.a", f"{channel}.b"], "data": {"x": 1}}
        assert daemon.request("POST", "/-/publish", json.dumps(order), JSON)[0] == 200
        assert a.value() == b.value() == {"x": 1}


def test_delete_ends_subscriptions(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}") as stream, connect(f"ws://127.0.0.1:{daemon.port}/{channel}") as ws:
        daemon.publish(channel, 1)
        assert daemon.request("DELETE", f"/{channel}")[0] == 202
        assert stream.line() == b"1" and stream.line() == b""
        assert ws.recv() == "1"
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4504


# Subscribe.


def test_event_stream(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}", SSE) as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        answer = json.loads(daemon.post_json(f"/{channel}", {"n": 1})[2])
        assert [stream.line(), stream.line()] == [b"id: %b" % answer["cursor"].encode(), b'data: {"n": 1}']


def test_event_stream_tells_of_a_gap(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}", {**SSE, "Last-Event-ID": "abc:17"}) as stream:
        assert stream.response.headers["Raiden-Recovered"] == "false"
        assert stream.line() == b"event: gap"


def test_binary_stream(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}", {"Accept": "application/octet-stream"}) as stream:
        daemon.request("POST", f"/{channel}", b"\0\1\2")
        assert stream.response.read(3) == b"\0\1\2"


def poll(daemon: Daemon, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    return daemon.request("GET", path, None, headers)


def subscribers(daemon: Daemon, channel: str) -> int:
    return daemon.json(f"/-/channels/{channel}")["subscribers"]


@pytest.mark.parametrize(
    "preference",
    [None, "respond-async, wait=20", 'a="x, wait=0", WAIT = "20" ; a=b, wait=0', "wait=20;a, wait=0"],
    ids=["query", "list", "quoted", "parameters"],
)
def test_long_poll(daemon: Daemon, channel: str, preference: str | None) -> None:
    headers = {} if preference is None else {"Prefer": preference}
    path = f"/{channel}" if headers else f"/{channel}?_wait=20"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(poll, daemon, path, headers)
        wait_for(lambda: subscribers(daemon, channel) == 1, "the poll waits")
        cursor = json.loads(daemon.post_json(f"/{channel}", {"n": 1})[2])["cursor"]
        status, fields, body = answer.result()
    assert (status, fields["raiden-cursor"]) == (200, cursor)
    assert json.loads(body) == {"cursor": cursor, "messages": [{"data": {"n": 1}, "cursor": cursor}]}
    assert subscribers(daemon, channel) == 0


def test_a_long_answer_is_not_cut(start: Callable[..., Daemon]) -> None:
    """An answer may be larger than what may wait for a subscriber, also where the connection goes on."""
    node = start(max_outbox=100_000)
    for _ in range(12):
        node.request("POST", "/long", b"x" * 900_000, {"Content-Type": "text/plain"})
    connection = node.open()
    for path in (
        "/long?_wait=0&_since=earliest",
        "/long?_wait=0&_durable=d&_since=earliest",
        "/-/channels/long/history",
    ):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200 and json.loads(response.read())["messages"][0]["data"] == "x" * 900_000
    connection.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_long_polls_with_equal_heads_miss_nothing(start: Callable[..., Daemon], workers: int) -> None:
    """Each goes on from the position that it was told, on one connection, while others publish."""
    node = start(workers=workers, channels={"*": {"history_size": 1000}})
    node.publish("a", -1)
    position = json.loads(node.post_json("/a", 0)[2])["cursor"]

    def follow(_: int) -> list[int]:
        connection, since = node.open(), position
        got: list[int] = []
        while len(got) < 150:
            connection.request("GET", "/a?_wait=20", headers={"Last-Event-ID": since})
            response = connection.getresponse()
            body = json.loads(response.read())
            assert (response.status, response.headers["Raiden-Recovered"]) == (200, "true")
            got += [message["data"] for message in body["messages"]]
            since = body["cursor"]
            assert since == response.headers["Raiden-Cursor"]
        connection.close()
        return got

    with ThreadPoolExecutor(12) as pool:
        followers = pool.map(follow, range(10))
        list(pool.map(lambda number: node.post_json("/a", number), range(1, 151)))
        got = list(followers)
    assert sorted(got[0]) == list(range(1, 151))
    assert all(each == got[0] for each in got), "there is one order"


def test_long_polls_that_wait_together_part_again(start: Callable[..., Daemon]) -> None:
    """With equal heads: each waits as long as it asked for, leaves when it likes, and counts."""
    node = start()
    node.publish("a", 0)
    head = b"GET /a?_wait=%b HTTP/1.1\r\nHost: a\r\n\r\n"

    def wait(seconds: bytes, *, others: int) -> socket.socket:
        connection = node.connect()
        connection.sendall(head % seconds)
        wait_for(lambda: subscribers(node, "a") == others + 1, "it waits")
        return connection

    polls = [wait(b"60", others=number) for number in range(4)]
    polls.pop(0).close()  # that which began
    wait_for(lambda: subscribers(node, "a") == 3, "it is gone")
    delivered, requests = node.metric("raiden_delivered_total"), node.metric("raiden_requests_total")
    node.publish("a", 1)
    for connection in polls:
        (body,) = answers(connection, 1)
        assert [message["data"] for message in json.loads(body)["messages"]] == [1]
    assert node.metric("raiden_requests_total") == requests + 3 + 2, "with that for the metrics, and the publish"
    assert node.metric("raiden_delivered_total") == delivered + 3

    with wait(b"1", others=0) as early, wait(b"60", others=1) as late:
        assert answers(early, 1) == [b""]
        wait_for(lambda: subscribers(node, "a") == 1, "the other waits on")
        early.sendall(head % b"60")
        wait_for(lambda: subscribers(node, "a") == 2, "it has come again")
        assert node.request("DELETE", "/a")[0] == 202
        assert answers(early, 1) == answers(late, 1) == [b""]
        late.sendall(head % b"60")
        wait_for(lambda: subscribers(node, "a") == 1, "it waits for the new channel of that name")
        node.publish("a", 2)
        assert b'"data":2' in answers(late, 1)[0]
    for connection in polls:
        connection.close()


def answers(connection: socket.socket, count: int) -> list[bytes]:
    """The bodies of so many answers, which say how long they are, or have none."""
    bodies = []
    with connection.makefile("rb") as lines:
        for _ in range(count):
            status, length = lines.readline(), 0
            while (line := lines.readline().lower()) != b"\r\n":
                length = int(line[15:]) if line.startswith(b"content-length:") else length
            assert status.startswith(b"HTTP/1.1 20"), status
            bodies.append(lines.read(length))
    return bodies


def test_more_publishes_at_once_than_wait_in_a_queue(daemon: Daemon, channel: str) -> None:
    """With equal heads: they are published in their order, and the connection goes on after them."""
    with Stream(daemon, f"/{channel}") as stream, daemon.connect() as connection:
        head = f"POST /{channel} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n"
        for first in (100, 300, 500):  # the heads of the first are not known yet
            connection.sendall(b"".join(head.encode() + b"%d" % number for number in range(first, first + 200)))
            assert all(body.startswith(b'{"cursor"') for body in answers(connection, 200))
            assert [stream.value() for _ in range(200)] == list(range(first, first + 200))


def test_more_polls_at_once_than_wait_in_a_queue(daemon: Daemon, channel: str) -> None:
    """With equal heads: each is answered, one after the other."""
    poll = f"GET /{channel}?_wait=0 HTTP/1.1\r\nHost: a\r\nX-Long: {'x' * (MAX_PIPELINED // 4)}\r\n\r\n".encode()
    with daemon.connect() as connection:
        for _ in range(3):
            connection.sendall(poll * 8)  # twice what waits
            assert answers(connection, 8) == [b""] * 8


GET_KINDS = {
    "line": "GET /{channel}?_last=1 HTTP/1.1\r\nHost: a\r\n",
    "event": "GET /{channel} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n",
    "raw": "GET /{channel} HTTP/1.1\r\nHost: a\r\nAccept: application/octet-stream\r\n",
    "page": "GET /{channel} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nOrigin: http://a\r\n",
    "websocket": "GET /{channel} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
    "wrapped": "GET /{channel}?_wrap=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nOrigin: http://a\r\n",
}


@pytest.mark.parametrize("kind", GET_KINDS)
def test_who_comes_again_with_an_equal_head_gets_the_same(daemon: Daemon, channel: str, kind: str) -> None:
    keys = [base64.b64encode(bytes([number] * 16)).decode() for number in range(6)]
    with contextlib.ExitStack() as stack:
        heads, streams = [], []
        for key in keys:
            connection = stack.enter_context(daemon.connect())
            stream = stack.enter_context(connection.makefile("rb"))
            connection.sendall((GET_KINDS[kind].format(channel=channel, key=key) + "\r\n").encode())
            head = list(iter(stream.readline, b"\r\n"))
            if "{key}" in GET_KINDS[kind]:
                assert f"Sec-WebSocket-Accept: {accept_key(key)}\r\n".encode() in head
            own = (b"Date", b"Sec-WebSocket-Accept", b"Raiden-Connection")
            heads.append({line for line in head if not line.startswith(own)})
            streams.append(stream)
        assert all(head == heads[0] for head in heads) and len(heads[0]) > 3
        daemon.publish(channel, {"n": 1})
        for stream in streams:
            got = b""
            while b'{"n": 1}' not in got:  # in a frame, an event, a chunk or nothing
                got += stream.read1()
            assert got.count(b'{"n": 1}') == 1


def test_a_head_does_not_outlive_the_settings_it_was_served_by(start: Callable[..., Daemon], tmp_path: Path) -> None:
    config = tmp_path / "raiden.conf.py"
    config.write_text("allowed_origins = ['http://b']\n")
    node = start(config=config, workers=1)
    head = GET_KINDS["page"].format(channel="a").replace("http://a", "http://b") + "\r\n"

    def status() -> int:
        with node.connect() as connection, connection.makefile("rb") as stream:
            connection.sendall(head.encode())
            return int(stream.readline().split()[1])

    assert [status(), status()] == [200, 200]
    config.write_text("allowed_origins = []\n")
    node.signal(signal.SIGHUP)
    wait_for(lambda: status() == 403, "pages of others are refused")


def test_a_head_is_known_whatever_it_is_sent_to(daemon: Daemon, channel: str) -> None:
    """A publisher's head differs in its target only: each is served, or refused, as if it were the first."""
    targets = {
        f"/{channel}": 200, f"/{channel}/%61": 200, f"/{channel}?a=b": 200, f"/{channel}*": 400, "/": 400, "/%zz": 400,
        "/-/publish": 400, "/-/status": 405, "/-/nothing": 405, f"/{channel}/a": 200, "/" + "x" * 600: 400,
    }  # fmt: skip
    with daemon.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            for target, expected in targets.items():
                head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1\r\n"
                connection.sendall(f"{head}\r\n1".encode())
                answer = HTTPResponse(connection)
                answer.begin()
                body = answer.read()
                assert answer.status == expected, (target, answer.status, body)
        del stream
    history = daemon.json(f"/-/channels/{channel}/a/history")["messages"]
    assert len(history) == 6


def test_a_publish_that_is_under_way_when_the_node_stops(start: Callable[..., Daemon]) -> None:
    """Its answer says that the connection ends, and nothing keeps the node from stopping."""
    node = start(workers=1, drain_timeout=20)
    connection = node.open()
    connection.request("POST", "/a", b"1", JSON)
    assert connection.getresponse().read().startswith(b'{"cursor"')
    history = node.workers()["history"]
    os.kill(history, signal.SIGSTOP)
    try:
        with node.connect() as idle:
            connection.request("POST", "/a", b"2", JSON)
            wait_for(lambda: node.metric("raiden_history_waiting") >= 1, "it waits for the history")
            node.signal(signal.SIGTERM)
            assert idle.recv(1) == b"", "the node lets go of who has nothing under way"
    finally:
        os.kill(history, signal.SIGCONT)
    response = connection.getresponse()
    assert response.read().startswith(b'{"cursor"') and response.headers["Connection"] == "close"
    begin = time.monotonic()
    connection.close()
    assert node.stop() == 0 and time.monotonic() - begin < 10


def test_a_head_that_came_before_with_another_body(daemon: Daemon, channel: str) -> None:
    """Bad bodies are told so each time, and good ones are published."""
    connection = daemon.open()
    with Stream(daemon, f"/{channel}") as stream:
        for body, status in [(b"10", 200), (b"1,", 400), (b"20", 200), (b"x2", 400), (b"30", 200)]:
            connection.request("POST", f"/{channel}", body, JSON)
            response = connection.getresponse()
            assert (response.status, b"detail" in response.read()) == (status, status == 400)
        assert [stream.value() for _ in range(3)] == [10, 20, 30]
    connection.close()


def test_a_channel_builder_is_asked_each_time(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Though the head is the same: what it looks at, nobody knows."""
    config = tmp_path / "raiden.conf.py"
    config.write_text("import itertools\ndef channel_builder(request, n=itertools.count()): return f'n{next(n)}'\n")
    node = start(config=config, workers=1, store="none")
    with Stream(node, "/-/subscribe?channel=n*") as stream:
        connection = node.open()
        for _ in range(3):
            connection.request("POST", "/a", b"1", JSON)
            assert connection.getresponse().read() == b"{}"
        connection.close()
        assert len({stream.value()["channel"] for _ in range(3)}) == 3


def test_long_poll_times_out(daemon: Daemon, channel: str) -> None:
    status, fields, body = poll(daemon, f"/{channel}?_wait=0")
    assert (status, body) == (204, b"") and "content-length" not in fields


def test_multiplexed_and_patterns(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/-/subscribe?channel={channel}.a&channel={channel}.b.*") as stream:
        daemon.publish(f"{channel}.a", 1)
        daemon.publish(f"{channel}.c", 2)
        daemon.publish(f"{channel}.b.x", 3)
        first, second = stream.value(), stream.value()
        assert (first["channel"], first["data"]) == (f"{channel}.a", 1) and ":1:" in first["cursor"]
        assert (second["channel"], second["data"]) == (f"{channel}.b.x", 3) and ":1:" in second["cursor"]


def test_filters(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}?team=a&team=b&n=1") as stream:
        for message in (
            {"team": "a"},
            {"team": "c", "n": 1},
            [1],
            {"team": "b", "n": 1, "x": {}},
            {"team": "a", "n": 1},
        ):
            daemon.publish(channel, message)
        assert [stream.value(), stream.value()] == [{"team": "b", "n": 1, "x": {}}, {"team": "a", "n": 1}]


def test_names_are_percent_decoded(daemon: Daemon) -> None:
    with Stream(daemon, "/caf%C3%A9/a%20b") as stream:
        daemon.request("POST", "/caf%c3%a9/a%20b", "1", JSON)
        assert stream.value() == 1
        assert subscribers(daemon, "caf%C3%A9/a%20b") == 1


def test_head_and_options(daemon: Daemon, channel: str) -> None:
    status, fields, body = daemon.request("HEAD", f"/{channel}")
    assert (status, body, fields["content-type"]) == (200, b"", "application/x-ndjson")
    status, fields, _ = daemon.request("OPTIONS", f"/{channel}")
    assert status == 204 and "DELETE" in fields["allow"]


# WebSocket.


def ws(daemon: Daemon, path: str, **options: Any) -> Any:
    return connect(f"ws://127.0.0.1:{daemon.port}{path}", **options)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_channel_socket(daemon: Daemon, channel: str, compression: str | None) -> None:
    long = json.dumps({"text": "hello " * 500})
    with ws(daemon, f"/{channel}", compression=compression) as one, ws(daemon, f"/{channel}?_raw=1") as two:
        one.send(long)
        one.send("no JSON")
        one.send(b"\0bytes")
        assert [one.recv(), one.recv(), one.recv()] == [long, '"no JSON"', b"\0bytes"]
        assert [two.recv(), two.recv(), two.recv()] == [long, "no JSON", b"\0bytes"]


def test_pattern_socket_cannot_publish(daemon: Daemon, channel: str) -> None:
    with ws(daemon, f"/{channel}*") as socket_:
        daemon.publish(channel, 1)
        assert json.loads(socket_.recv())["data"] == 1
        socket_.send("1")
        with pytest.raises(ConnectionClosed) as closed:
            socket_.recv()
        assert closed.value.rcvd and closed.value.rcvd.code == 1008


def test_multiplex_socket(daemon: Daemon, channel: str) -> None:
    with ws(daemon, "/-/websocket") as socket_:

        def ask(**command: Any) -> Any:
            socket_.send(json.dumps(command))
            return json.loads(socket_.recv())

        assert ask(id=1, cmd="ping") == {"id": 1}
        assert ask(id=2, cmd="subscribe", channel=channel, filters={"n": [1, 3]})["channel"] == channel
        assert ask(id=3, cmd="subscribe", channel=channel)["error"]["code"] == 409
        cursors = [json.loads(daemon.post_json(f"/{channel}", {"n": n})[2])["cursor"] for n in (1, 2, 3)]
        assert json.loads(socket_.recv()) == {"channel": channel, "data": {"n": 1}, "cursor": cursors[0]}
        assert json.loads(socket_.recv()) == {"channel": channel, "data": {"n": 3}, "cursor": cursors[2]}
        assert ask(id=4, cmd="unsubscribe", channel=channel) == {"id": 4, "channel": channel}
        with Stream(daemon, f"/{channel}") as stream:
            reply = ask(id="five", cmd="publish", channel=channel, data={"x": 1})
            assert (reply["id"], reply["cursor"].split(":")[1]) == ("five", "4")
            assert stream.value() == {"x": 1}
        assert ask(id=6, cmd="unsubscribe", channel=channel)["error"]["code"] == 404


@pytest.mark.parametrize(
    "text",
    ["nonsense", "[]", "{}", '{"cmd": "dance", "id": 1}', '{"cmd": 1}', '{"id": [], "cmd": "ping"}',
     '{"cmd": "subscribe"}', '{"cmd": "subscribe", "channel": 5}', '{"cmd": "subscribe", "channel": ""}',
     '{"cmd": "subscribe", "channel": "a\\u0000"}', '{"cmd": "subscribe", "channel": "a", "filters": [1]}',
     '{"cmd": "subscribe", "channel": "a", "filters": {"x": {}}}', '{"cmd": "publish", "channel": "a"}',
     '{"cmd": "publish", "channel": "a*", "data": 1}', '{"cmd": "publish", "channel": "\\ud800", "data": 1}',
     '{"cmd": "ping", "id": NaN}', "[" * 5000],
)  # fmt: skip
def test_bad_commands(daemon: Daemon, text: str) -> None:
    with ws(daemon, "/-/websocket") as socket_:
        socket_.send(text)
        answer = json.loads(socket_.recv())
        assert answer["error"]["code"] == 400 and answer["error"]["message"]
        socket_.send(b"binary")
        assert json.loads(socket_.recv())["error"]["code"] == 400
        socket_.send('{"id": 9, "cmd": "ping"}')
        assert json.loads(socket_.recv()) == {"id": 9}


# Browsers from elsewhere.


def test_origins(start: Callable[..., Daemon]) -> None:
    node = start(allowed_origins=["https://good.example"])
    own = f"http://127.0.0.1:{node.port}"
    for origin in 3 * ("https://good.example", own):
        status, fields, _ = node.request("POST", "/a", "1", {**JSON, "Origin": origin})
        assert status == 200 and fields["access-control-allow-origin"] == origin and fields["vary"] == "Origin"
        status, fields, _ = node.request("GET", "/a?_wait=0&_since=earliest", None, {"Origin": origin})
        assert status == 200 and fields["access-control-allow-origin"] == origin and fields["vary"] == "Origin"
        with ws(node, "/a", origin=origin):
            pass
    status, fields, _ = node.request("OPTIONS", "/a", None, {"Origin": "https://good.example"})
    assert status == 204 and "POST" in fields["access-control-allow-methods"]
    for origin in ("https://evil.example", "null"):
        status, fields, _ = node.request("POST", "/a", "1", {**JSON, "Origin": origin})
        assert status == 403 and "access-control-allow-origin" not in fields
        with pytest.raises(InvalidStatus):
            ws(node, "/a", origin=origin)


# One connection, many requests.


def raw(daemon: Daemon, data: bytes) -> bytes:
    """All that the server answers until it closes."""
    with socket.create_connection((daemon.host, daemon.port), timeout=20) as sock:
        sock.sendall(data)
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer


def post(channel: str, body: bytes, *fields: bytes) -> bytes:
    head = [b"POST /%b HTTP/1.1" % channel.encode(), b"Host: a", b"Content-Type: application/json", *fields]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


def test_pipelining(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}") as stream:
        requests = b"".join(post(channel, b"%d" % i) for i in range(200)) + b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = raw(daemon, requests + post(channel, b"200", b"Connection: close"))
        assert answer.count(b"HTTP/1.1 200") == 202
        assert [stream.value() for _ in range(201)] == list(range(201))


def test_pipelining_goes_on_after_a_pause(daemon: Daemon, channel: str) -> None:
    """More requests at once than wait for a connection, again and again on one connection."""
    with daemon.connect() as sock:
        for _ in range(3):
            sock.sendall(b"".join(post(channel, b"%d" % i) for i in range(100)))
            answers = b""
            while answers.count(b'{"cursor":"') < 100 or not answers.endswith(b'"}'):
                answers += sock.recv(65536)
            assert answers.count(b"HTTP/1.1 200 OK\r\n") == 100


def test_chunked_body_and_continue(daemon: Daemon, channel: str) -> None:
    head = f"POST /{channel} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nConnection: close\r\n".encode()
    with Stream(daemon, f"/{channel}") as stream:
        chunks = (
            b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n"
        )
        answer = raw(daemon, head + chunks)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
        assert stream.value() == "abcde"


def test_http10(daemon: Daemon, channel: str) -> None:
    answer = raw(daemon, b"GET /-/health HTTP/1.0\r\n\r\n")
    assert b"Connection: close" in answer and answer.endswith(b'{"status":"ok"}')
    with socket.create_connection((daemon.host, daemon.port), timeout=20) as sock:
        sock.sendall(f"GET /{channel} HTTP/1.0\r\n\r\n".encode())
        reader = sock.makefile("rb")
        head = b"".join(iter(reader.readline, b"\r\n"))
        assert b"chunked" not in head.lower()
        assert reader.readline() == b"\n"
        daemon.publish(channel, 1)
        assert reader.readline() == b"1\n"
        reader.close()


# Control.


def test_control_pages(daemon: Daemon, channel: str) -> None:
    assert daemon.json("/-/health") == {"status": "ok"}
    assert daemon.json("/-/ready") == {"status": "ready", "peers": 0}
    before = daemon.metric("raiden_published_total")
    streams = [Stream(daemon, f"/{channel}") for _ in range(8)]
    for n in range(10):
        daemon.publish(channel, n)
    assert [[stream.value() for _ in range(10)] for stream in streams] == [list(range(10))] * 8
    assert daemon.json("/-/channels")["channels"][channel] == {"subscribers": 8, "messages": 10}
    assert daemon.metric("raiden_published_total") - before == 10
    assert daemon.metric("raiden_connections", transport="stream") >= 8
    assert daemon.metric("raiden_delivery_seconds_count") >= 10
    for stream in streams:
        stream.close()
    wait_for(lambda: subscribers(daemon, channel) == 0, "the subscriptions are gone")


def test_pages_of_channels(daemon: Daemon, channel: str) -> None:
    """Of all workers, in the order of the names; none is missing, and none comes twice."""
    names = sorted([f"{channel}.{number}" for number in range(40)] + [f"{channel}.*"])
    with contextlib.ExitStack() as stack:
        for part in (names[:30], names[30:], names[10:20]):
            query = "&".join(f"channel={name}" for name in part)
            stack.enter_context(Stream(daemon, f"/-/subscribe?{query}"))
        everything = daemon.json(f"/-/channels?_prefix={channel}.")
        assert list(everything) == ["channels"] and list(everything["channels"]) == names
        assert [row["subscribers"] for row in everything["channels"].values()] == [1] * 10 + [2] * 10 + [1] * 21
        for limit in (1, 7, 41):
            found, page = list[str](), daemon.json(f"/-/channels?_prefix={channel}.&_limit={limit}")
            while True:
                assert len(page["channels"]) <= limit
                found += page["channels"]
                if "next" not in page:
                    break
                page = daemon.json(f"/-/channels?_prefix={channel}.&_limit={limit}&_after={page['next']}")
            assert found == names
    for wrong in ("_limit=0", "_limit=1001", "_limit=x"):
        assert daemon.request("GET", f"/-/channels?{wrong}")[0] == 400


# Limits, each by its setting.


def status_of(daemon: Daemon, data: bytes) -> int:
    return int(raw(daemon, data).split()[1])


def test_limits_of_requests(start: Callable[..., Daemon]) -> None:
    node = start(max_url=100, max_header=500, max_headers=12, max_body=1000, max_subscriptions=2, max_channels=3)
    get = b"GET /%b HTTP/1.1\r\nHost: a\r\n%b\r\n"
    assert status_of(node, get % (b"a" * 101, b"")) == 414
    assert status_of(node, get % (b"a", b"X: %b\r\n" % (b"a" * 500))) == 431
    assert status_of(node, get % (b"a", b"X: a\r\n" * 12)) == 431
    assert status_of(node, post("a", b"1" * 1001)) == 413
    assert node.request("GET", "/-/subscribe?channel=a&channel=b&channel=c")[0] == 400
    with Stream(node, "/-/subscribe?channel=a&channel=b"), Stream(node, "/c") as third:
        assert third.status == 200
        assert node.request("GET", "/d")[0] == 503
        with ws(node, "/-/websocket") as socket_:
            for number, code in ((1, None), (2, None), (3, 403)):
                name = "abc"[number - 1]
                socket_.send(json.dumps({"id": number, "cmd": "subscribe", "channel": name}))
                assert json.loads(socket_.recv()).get("error", {}).get("code") == code


def test_limit_of_the_bytes_of_names(start: Callable[..., Daemon]) -> None:
    node = start(max_channel_bytes=300)
    with Stream(node, "/" + "a" * 200), Stream(node, "/" + "b" * 100):
        status, headers, body = node.request("GET", "/c")
        assert status == 503 and "max_channel_bytes" in json.loads(body)["detail"] and headers["retry-after"]
        with ws(node, "/-/websocket") as socket_:
            socket_.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": "c"}))
            assert json.loads(socket_.recv())["error"]["code"] == 503
    wait_for(lambda: node.request("GET", "/c?_wait=0")[0] == 204, "there is room again")


def test_limit_of_filters(daemon: Daemon, channel: str) -> None:
    values = [f"{number}" for number in range(101)]
    with Stream(daemon, f"/{channel}?" + "&".join(f"a={value}" for value in values[:100])) as stream:
        assert stream.status == 200
        daemon.publish(channel, {"a": 100})
        daemon.publish(channel, {"a": 99})
        assert stream.value() == {"a": 99}
    for headers in ({}, SSE, {"Prefer": "wait=1"}):
        query = "&".join(f"a={value}" for value in values)
        status, _, body = daemon.request("GET", f"/{channel}?{query}", headers=headers)
        assert status == 400 and "at most 100 values" in json.loads(body)["detail"]
    with ws(daemon, "/-/websocket") as socket_:
        for filters in ({"a": values}, {value: value for value in values}, {"a": "x" * 5000}):
            socket_.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": channel, "filters": filters}))
            assert json.loads(socket_.recv())["error"]["code"] == 400


def test_limits_of_connections(start: Callable[..., Daemon]) -> None:
    node = start(max_connections=4, max_connections_per_address=2)
    held = [Stream(node, "/a") for _ in range(2)]
    with socket.create_connection((node.host, node.port), timeout=20) as refused:
        assert refused.recv(20).startswith(b"HTTP/1.1 503")
    others = [
        socket.create_connection((node.host, node.port), timeout=20, source_address=(f"127.0.0.{n}", 0)) for n in (2, 3)
    ]
    others += [socket.create_connection((node.host, node.port), timeout=20, source_address=("127.0.0.4", 0))]
    assert others[2].recv(20).startswith(b"HTTP/1.1 503")
    for stream in held:
        stream.close()
    for sock in others:
        sock.close()
    wait_for(lambda: node.metric("raiden_refused_connections_total") >= 2, "the refusals are counted")


def test_limits_of_time(start: Callable[..., Daemon]) -> None:
    node = start(request_timeout=0.5, idle_timeout=0.5, keepalive=0.5, max_wait=0.5)
    assert status_of(node, b"GET /-/health HT") == 408
    assert raw(node, b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n").count(b"200 OK") == 1
    assert poll(node, "/a?_wait=1000")[0] == 204
    with Stream(node, "/a", SSE) as stream:
        lines = [stream.response.readline() for _ in range(3)]
        assert re.fullmatch(rb"id: [0-9a-f]{8}:0\n", lines[0]) and lines[1:] == [b"\n", b": keep-alive\n"]
    with socket.create_connection((node.host, node.port), timeout=20) as dead:
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        dead.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n")
        answer = b""
        while part := dead.recv(65536):
            answer += part
    assert b"\x89\x00" in answer and answer.endswith(b"\x88\x14\x0f\xa3no pong: reconnect")


def test_limits_of_websocket_messages(start: Callable[..., Daemon]) -> None:
    node = start(max_ws_message=1000)
    for options in ({"compression": None}, {"compression": "deflate"}):
        with ws(node, "/a", **options) as socket_:
            socket_.send("1" * 1001)
            with pytest.raises(ConnectionClosed) as closed:
                socket_.recv()
            assert closed.value.rcvd and closed.value.rcvd.code == 1009


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("narrow"), max_outbox=65536)


@pytest.mark.parametrize("transport", ["stream", "event", "websocket"])
def test_slow_consumer_is_closed_alone(narrow: Daemon, channel: str, transport: str) -> None:
    node, logged = narrow, len(narrow.log())
    before = node.metric("raiden_slow_consumers_total")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    fields = {
        "stream": "", "event": "Accept: text/event-stream\r\n",
        "websocket": f"Connection: Upgrade\r\nUpgrade: websocket\r\n{key}",
    }  # fmt: skip
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.settimeout(20)
    stalled.connect((node.host, node.port))
    stalled.sendall(f"GET /{channel} HTTP/1.1\r\nHost: a\r\n{fields[transport]}\r\n".encode())
    wait_for(lambda: subscribers(node, channel) == 1, "the slow one has subscribed")
    with Stream(node, f"/{channel}") as healthy:
        connection = http.client.HTTPConnection(node.host, node.port, timeout=20)
        for n in range(400):
            connection.request("POST", f"/{channel}", json.dumps([n, "x" * 16000]), JSON)
            connection.getresponse().read()
            assert healthy.value()[0] == n
            if n % 20 == 19 and node.metric("raiden_slow_consumers_total") == before + 1:
                break  # what it is told at its end does not wait for it for ever
        connection.close()
    assert node.metric("raiden_slow_consumers_total") == before + 1, "the slow one is counted"
    answer = b""
    while part := stalled.recv(65536):
        answer += part
    stalled.close()
    assert len(answer) < n * 16000
    assert answer.endswith(b"0\r\n\r\n") if transport != "websocket" else b"\x0f\xa1slow consumer" in answer[-80:]
    log = node.log()[logged:]
    assert "slow consumer closed" in log and "outbox=" in log
