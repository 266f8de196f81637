"""Streaming publishes: `POST /{channel}?_stream=1`, whose lines are published as they come."""

from __future__ import annotations

import itertools
import json
import select
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from raiden.http.lines import Lines
from raiden.model.message import Kind
from raiden.model.refusals import TooLarge
from raiden.model.strict_json import InvalidPayload
from raiden.sessions.asks import PublishLines
from tests.application import Application
from tests.daemons import Daemon, Stream, memory, wait_for
from tests.tokens import API_KEYS, JWT_KEYS, KEY, bearer, on, token

TEXT = {"Content-Type": "text/plain"}


class Upload:
    """A streaming publish: the body is sent piece by piece, chunked."""

    def __init__(self, node: Daemon, channel: str, **fields: str) -> None:
        self.sock = node.connect()
        named = "".join([f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()])
        head = f"POST /{channel}?_stream=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{named}\r\n"
        self.sock.sendall(head.encode())

    def send(self, *lines: Any) -> None:
        self.raw("".join([json.dumps(line) + "\n" for line in lines]).encode())

    def raw(self, data: bytes) -> None:
        self.sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> tuple[int, dict[str, Any]]:
        self.sock.sendall(b"0\r\n\r\n")
        return self.answer()

    def answer(self) -> tuple[int, dict[str, Any]]:
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            piece = self.sock.recv(65536)
            assert piece, received
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def published(node: Daemon, channel: str) -> list[Any]:
    page = node.json(f"/-/channels/{channel}/history?_limit=1000")
    return [message["data"] for message in page["messages"]]


# The lines.


def lines(charset: str | None = None, most: int = 256) -> Lines:
    return Lines(PublishLines("a", charset, False, None, most), 8192)


def test_lines_are_messages_however_they_are_cut() -> None:
    body = b'{"a": 1}\n\n  \r\n2\r\n"three"'
    for size in range(1, len(body) + 1):
        found, reader = [], lines()
        for at in range(0, len(body), size):
            reader.feed(body[at : at + size])
            while (some := reader.take()) is not None:
                found += some
        reader.finish()
        while (some := reader.take()) is not None:
            found += some
        assert [(message.kind, message.payload) for message in found] == [
            (Kind.JSON, b'{"a": 1}'), (Kind.JSON, b"2"), (Kind.JSON, b'"three"'),
        ]  # fmt: skip


def test_lines_of_text_keep_the_blank_ones() -> None:
    reader = lines("iso-8859-1")
    reader.feed(b"caf\xe9\r\n\nend\n")
    assert [message.payload.decode() for message in reader.take() or ()] == ["café", "", "end"]


def test_a_bad_line_is_told_when_those_before_it_were_taken() -> None:
    reader = lines(most=2)
    reader.feed(b"1\n2\n3\nnonsense\n5\n")
    assert [len(reader.take() or ()) for _ in range(2)] == [2, 1]
    with pytest.raises(InvalidPayload, match="text/plain"):
        reader.take()
    assert reader.number == 4


def test_a_line_that_is_too_long() -> None:
    reader = lines()
    reader.feed(b"1\n" + b"x" * 9000)
    assert len(reader.take() or ()) == 1
    with pytest.raises(TooLarge):
        reader.take()
    assert reader.number == 2


def test_blank_lines_have_their_turns() -> None:
    reader = lines()
    reader.feed(b"\n" * 1000)
    turns: list[int] = []
    while (some := reader.take()) is not None:
        turns.append(len(some))
    assert turns == [0] * 4


# The door.


def test_each_line_is_published_when_it_comes(daemon: Daemon) -> None:
    with Stream(daemon, "/lines") as stream, Upload(daemon, "lines") as upload:
        for number in range(3):
            upload.send({"n": number})
            assert stream.value() == {"n": number}
        upload.raw(b'{"n": 3')
        upload.raw(b"}")
        status, answer = upload.finish()
        assert stream.value() == {"n": 3}, "the last line needs no line break"
        assert (status, answer["published"]) == (200, 4)
        assert answer["cursor"] == daemon.json("/-/channels/lines")["cursor"]


def test_a_connection_goes_on_behind_the_stream(daemon: Daemon) -> None:
    body = b"1\n2\n"
    head = b"POST /goes-on?_stream=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with daemon.connect() as sock:
        sock.sendall(head + body + b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n" + head + body)
        received = b""
        while received.count(b"published") < 2:
            received += sock.recv(65536)
        assert received.count(b"200 OK") == 3
    assert published(daemon, "goes-on") == [1, 2, 1, 2]


def test_a_body_may_be_larger_than_any_other(start: Callable[..., Daemon]) -> None:
    node = start(max_body=4096, channels={"*": {"history_size": 5000}})
    with Upload(node, "large") as upload:
        for start_at in range(0, 3000, 100):
            upload.send(*range(start_at, start_at + 100))
        assert upload.finish()[1]["published"] == 3000
    assert node.json("/-/channels/large")["cursor"].split(":")[1] == "3000"


def test_text_from_curl(daemon: Daemon) -> None:
    """curl waits for leave to send the body."""
    command = ["curl", "-sS", "-X", "POST", "-T", "-", "-H", "Content-Type: text/plain", "-H", "Raiden-End: true"]
    done = subprocess.run([*command, f"{daemon.url}/told?_stream=1"], input=b"It\n was\n\nonce", capture_output=True)
    assert json.loads(done.stdout)["published"] == 4, done.stderr
    page = daemon.json("/-/channels/told/history")
    assert [message["data"] for message in page["messages"]] == ["It", " was", "", "once", None]
    assert daemon.post_json("/told", 1)[0] == 409


def test_leave_is_given_only_to_who_may_publish(daemon: Daemon) -> None:
    head = b"POST /leave?_stream=1%b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with daemon.connect() as sock:
        sock.sendall(head % b"")
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"1\n")
        assert b"200 OK" in sock.recv(65536)
    with daemon.connect() as sock:
        sock.sendall(head % b"&_last=1")
        received = sock.recv(65536)
        assert received.startswith(b"HTTP/1.1 400") and b"Connection: close" in received


def test_a_bad_line_is_named_and_those_before_it_stay(daemon: Daemon) -> None:
    with Upload(daemon, "bad-line") as upload:
        upload.raw(b"1\n\n2\n{nonsense\n3\n")
        status, answer = upload.answer()
    assert status == 400 and answer["published"] == 2 and answer["detail"].startswith("line 4: ")
    assert answer["cursor"] == daemon.json("/-/channels/bad-line")["cursor"]
    assert published(daemon, "bad-line") == [1, 2]


def test_broken_chunks(daemon: Daemon) -> None:
    with Upload(daemon, "broken") as upload:
        upload.send(1)
        upload.sock.sendall(b"nonsense\r\n")
        status, answer = upload.answer()
    assert (status, answer["published"]) == (400, 1) and published(daemon, "broken") == [1]


@pytest.mark.parametrize(
    ("query", "fields", "status"),
    [
        ("?_stream=2", {}, 400), ("?_stream=1&_since=earliest", {}, 400), ("?_stream=1", {"Idempotency-Key": "k"}, 400),
        ("?_stream=1", {"Content-Type": "image/png"}, 415), ("?_stream=1", {"If-Match": "*"}, 400),
        ("?_stream=1", {"Content-Type": "text/plain; charset=utf-16"}, 415),
        ("?_stream=1", {"Raiden-End": "yes"}, 400), ("?_stream=1", {"If-Match": "k3x9:1"}, 412),
    ],
)  # fmt: skip
def test_what_is_no_stream(daemon: Daemon, query: str, fields: dict[str, str], status: int) -> None:
    assert daemon.request("POST", f"/none{query}", "1\n", fields)[0] == status
    assert published(daemon, "none") == []


def test_who_leaves_has_published_the_lines_that_came(daemon: Daemon) -> None:
    with Upload(daemon, "left", Raiden_End="true") as upload:
        upload.send(1, 2)
        upload.raw(b"3")
    wait_for(lambda: published(daemon, "left") == [1, 2], "the lines were published")
    assert daemon.post_json("/left", 4)[0] == 200, "it has not ended"


def test_an_end_that_another_made_stops_the_stream(daemon: Daemon) -> None:
    with Upload(daemon, "both") as upload:
        upload.send(1)
        wait_for(lambda: published(daemon, "both") == [1], "it is published")
        assert daemon.request("POST", "/both", None, {"Raiden-End": "true"})[0] == 200
        upload.send(2)
        status, answer = upload.answer()
    assert status == 409 and answer["published"] == 1 and "DELETE" in answer["detail"]


def test_a_condition_is_for_the_beginning(daemon: Daemon) -> None:
    with Upload(daemon, "begin", If_Match="0:0") as upload:
        upload.send(1)
        wait_for(lambda: published(daemon, "begin") == [1], "it is published")
        upload.send(2)
        assert upload.finish()[0] == 200
    with Upload(daemon, "begin", If_Match="0:0") as upload:
        upload.send(3)
        assert upload.answer()[0] == 412
    assert published(daemon, "begin") == [1, 2]


def test_limits_of_streams(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, max_streams=2, stream_timeout=0.5, channels={"plain": {"history_size": 0}, "*": {}})
    with Upload(node, "plain") as first, Upload(node, "a") as second:
        first.send(1)
        second.send(1)
        wait_for(lambda: published(node, "a") == [1], "it is published")
        with Upload(node, "b") as third:
            status, answer = third.answer()
            assert status == 503 and "max_streams" in answer["detail"]
        status, answer = first.answer()
        assert (status, answer["published"]) == (408, 1) and "stream_timeout" in answer["detail"]
        assert second.answer()[0] == 408
    with Upload(node, "plain") as upload:
        upload.send(1, 2)
        assert upload.finish() == (202, {"published": 2})


def test_lines_that_wait_are_bounded(start: Callable[..., Daemon]) -> None:
    """Of a client that sends faster than rates allow, no more is read than a few portions."""
    node = start(workers=1, rates={"publish": (1, 1)}, max_unfinished=1 << 20)
    with Upload(node, "fast") as upload:
        upload.sock.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                upload.raw(b"1\n" * 32768)
                sent += 65536
    assert sent < 32 << 20
    assert memory(node.workers()["worker 0"]) < 200 << 20


def test_a_line_that_never_ends_counts_among_what_has_not_come_whole(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, max_unfinished=100_000)
    with Upload(node, "long") as upload:
        upload.send(1)
        upload.raw(b"x" * 200_000)
        assert upload.answer()[0] == 503
    with Upload(node, "long") as upload:
        upload.send(2)
        assert upload.finish()[0] == 200
    assert published(node, "long") == [1, 2]


def test_who_leaves_amid_a_line_counts_no_more(start: Callable[..., Daemon]) -> None:
    """The bytes of many that break off would fill `max_unfinished`, and nobody could send anything."""
    node = start(workers=1, max_unfinished=100_000)
    for _ in range(20):
        with Upload(node, "left") as upload:
            upload.raw(b'"' + b"x" * 10_000)
    attempts = itertools.count()

    def goes() -> bool:
        channel = f"next{next(attempts)}"
        with Upload(node, channel) as upload:
            upload.send("y" * 60_000)
            wait_for(
                lambda: published(node, channel) or select.select([upload.sock], [], [], 0)[0], "the line was looked at"
            )
            return upload.finish()[0] == 200

    wait_for(goes, "there is room again")


def test_a_body_that_came_whole_ends_with_its_client(start: Callable[..., Daemon]) -> None:
    """By whichever spelling of the parameter: nobody waits for rates on behalf of a client that has gone."""
    node = start(workers=1, max_streams=1, rates={"publish": (0.001, 2)})
    body = b"1\n" * 1000
    head = f"POST /gone?%5fstream=1 HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    with node.connect() as sock:
        sock.sendall(head.encode() + body)
        wait_for(lambda: published(node, "gone") == [1, 1], "it publishes what rates allow")
    wait_for(lambda: node.request("POST", "/next?_stream=1", "", {})[0] != 503, "there is room for another stream")


def test_rates_slow_a_stream_down(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, rates={"publish": (1000, 5)})
    began = time.monotonic()
    with Upload(node, "slow") as upload:
        upload.send(*range(300))
        assert upload.finish()[1]["published"] == 300
    assert time.monotonic() - began > 0.25


def test_a_node_that_stops_tells_how_much_it_has_published(start: Callable[..., Daemon]) -> None:
    node = start(workers=1)
    with Upload(node, "stops") as upload:
        upload.send(1, 2)
        wait_for(lambda: published(node, "stops") == [1, 2], "they are published")
        node.hang_up()
        node.signal(15)
        status, answer = upload.answer()
        assert (status, answer["published"]) == (503, 2)
    assert node.stop() == 0 and "Traceback" not in node.log()


def test_a_token_may_end_meanwhile(start: Callable[..., Daemon]) -> None:
    node = start(jwt_keys=JWT_KEYS, api_keys=API_KEYS, jwt_leeway=0)
    short = bearer(token(lasts=3, **on("*")))["Authorization"]
    with Upload(node, "token", Authorization=short) as upload:
        upload.send(1)
        status, answer = upload.answer()
        assert (status, answer["published"]) == (401, 1)
    with Upload(node, "token") as upload:
        assert upload.answer()[0] == 401
    with Upload(node, "token", Authorization=bearer(token("bob", **on("*")))["Authorization"]) as upload:
        upload.send(2)
        path = "/-/channels/token/history?_last=1"
        wait_for(lambda: b'"data":2' in node.request("GET", path, None, bearer(KEY))[2], "it is published")
        headers = {"Content-Type": "application/json", **bearer(KEY)}
        assert node.request("POST", "/-/revoke", '{"sub": "bob"}', headers)[0] == 200
        assert upload.answer()[0] == 401


def test_a_delegate_is_asked_about_each_line(start: Callable[..., Daemon]) -> None:
    def decide(question: dict[str, Any]) -> dict[str, Any]:
        data = question.get("data")
        return {"allow": data != "bad", **({"data": 20} if data == 2 else {})}

    with Application(decide) as application:
        node = start(delegate={"url": application.url})
        with Upload(node, "asked") as upload:
            upload.send(1, 2, "bad", 4)
            status, answer = upload.answer()
        assert (status, answer["published"]) == (403, 2)
        with Stream(node, "/asked?_since=earliest") as stream:
            assert [stream.value(), stream.value()] == [1, 20]
