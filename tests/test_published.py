"""What may be published: the same by every door, and nothing of what is refused has an effect."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import zmq
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from raiden.history.client import MAX_WAITING_BYTES, OVERHEAD, History
from raiden.history.store import Append, StoreFailed
from raiden.model import payload
from raiden.model.message import Kind
from raiden.model.payload import WRAPPING, TooLarge
from raiden.model.strict_json import MAX_DEPTH
from tests.daemons import Daemon, Stream, running, wait_for
from tests.multiplex import Client
from tests.zeromq import BYTES, OPEN, TEXT, Clients, ask, payloads, wait_for_metric

JSON = {"Content-Type": "application/json"}
MIB = 1 << 20

Socket: TypeAlias = "zmq.Socket[bytes]"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), workers=1, max_batch=100, **OPEN)


@pytest.fixture(scope="module")
def clients(node: Daemon) -> Iterator[Clients]:
    with Clients(node) as found:
        yield found


@pytest.fixture(scope="module")
def push(clients: Clients) -> Socket:
    return clients.push()


@pytest.fixture(scope="module")
def req(clients: Clients) -> Socket:
    return clients.req()


@pytest.fixture
def channel() -> str:
    """A short name that no other test uses."""
    return f"channel-{next(_numbers)}-"


def history(node: Daemon, channel: str) -> list[Any]:
    """What was published to a channel."""
    return [message["data"] for message in node.json(f"/-/channels/{channel}/history")["messages"]]


# Charsets.


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain; format=flowed; charset=iso-8859-1", b"caf\xe9", "café"),
        ("text/plain; charset=utf-8; format=flowed", "café".encode(), "café"),
        ('text/plain; format="a;charset=latin1"', "café".encode(), "café"),
        ('text/plain;CHARSET="UTF-8"', "café".encode(), "café"),
        ("text/html; charset=Windows-1252", b"\x80 5", "€ 5"),
        ("text/plain; charset=us-ascii", b"cafe", "cafe"),
        ("text/plain; charset=utf-16", "café".encode("utf-16"), "café"),
        ("text/plain; charset=UTF-16", "café".encode("utf-16-be"), "café"),
        ("text/plain; charset=utf-16le", "café".encode("utf-16-le"), "café"),
        ("text/plain", "a\u2028b\u2029c\x85d".encode(), "a\u2028b\u2029c\x85d"),
    ],
)
def test_a_text_has_the_charset_that_its_type_says(
    node: Daemon, clients: Clients, push: Socket, req: Socket, channel: str, content_type: str, body: bytes, text: str
) -> None:
    sub = clients.sub(channel)
    assert node.request("POST", f"/{channel}", body, {"Content-Type": content_type})[0] == 200
    assert ask(req, "publish", channel, body, content_type)[0] == b"200"
    push.send_multipart([channel.encode(), body, content_type.encode()])
    assert payloads(sub, 3) == [text.encode()] * 3
    assert history(node, channel) == [text] * 3


BAD_TYPES = [
    "text/plain; charset=punycode", "text/plain; charset=idna", "text/plain; charset=unicode_escape",
    "text/plain; charset=raw_unicode_escape", "text/plain; charset=utf-7", "text/plain; charset=a\0b",
    "text/plain; charset=nope", "text/plain; charset=" + "x" * 5000, "text/plain; charset = utf-8",
    "text/plain; charset=", 'text/plain; charset="utf-8', "text/plain; charset=utf-8; charset=latin1", "text/plain; x",
    "text", "text/", "/plain", "te xt/plain", "text/plain, text/html",
]  # fmt: skip


@pytest.mark.parametrize("content_type", BAD_TYPES)
def test_other_charsets_and_types_are_refused_by_every_door(
    node: Daemon, push: Socket, req: Socket, channel: str, content_type: str
) -> None:
    if "\0" not in content_type:
        assert node.request("POST", f"/{channel}", b"xn--a-", {"Content-Type": content_type})[0] == 400
    assert ask(req, "publish", channel, b"xn--a-", content_type)[0] == b"400"
    before = node.metric("raiden_bad_messages_total")
    push.send_multipart([channel.encode(), b"xn--a-", content_type.encode()])
    wait_for_metric(node, "bad_messages_total", before + 1)
    assert history(node, channel) == []


def test_the_refusal_names_the_charsets_that_are_taken(node: Daemon) -> None:
    status, _, body = node.request("POST", "/a", b"x", {"Content-Type": "text/plain; charset=punycode"})
    detail = json.loads(body)["detail"]
    assert status == 400 and all(
        name in detail for name in ("UTF-8", "US-ASCII", "ISO-8859-1", "Windows-1252", "UTF-16")
    )


def test_two_content_types_are_refused(node: Daemon) -> None:
    with node.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(
                b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1\r\n\r\n1"
            )
            assert answer_of(stream)[0] == 400
    assert history(node, "two") == []


def answer_of(stream: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """The status, fields and body of the next answer."""
    status = int(stream.readline().split()[1])
    fields = dict(line.rstrip().lower().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
    return status, fields, stream.read(int(fields.get(b"content-length", 0)))


def test_a_bad_message_takes_none_of_the_good_ones_with_it(node: Daemon, clients: Clients, push: Socket) -> None:
    sub = clients.sub("beside")
    before, log = node.metric("raiden_bad_messages_total"), node.log()
    started = time.monotonic()
    for n in range(200):  # some of one read
        push.send_multipart([b"beside", b"%d" % n])
        push.send_multipart([b"beside", b"x", b"text/plain; charset=a\0b"])
    assert payloads(sub, 200) == [b"%d" % n for n in range(200)]
    wait_for_metric(node, "bad_messages_total", before + 200)
    lines = node.log()[len(log) :].count("dropped what a ZeroMQ client pushed")
    assert lines <= 2 + (time.monotonic() - started)


# JSON.

EXACT = [
    "9" * 5000,
    f'{{"n":{"1" * 4301},"team":"red"}}',
    f'{{"team":"red","n":-{"7" * 100_000}}}',
    "-0",
    '{"a":1,"a":2,"b": [ 1.10,\t1e999 ]}',
    '"\\ud83d"',
    '{"\\ud83d":"\u2028"}',
    "[" * MAX_DEPTH + "]" * MAX_DEPTH,
    f'{{"team":"red","a":{"[" * (MAX_DEPTH - 1)}1{"]" * (MAX_DEPTH - 1)}}}',
]
NO_JSON = [
    "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    *['{"a":' * depth + "1" + "}" * depth for depth in (513, 978, 979, 1023, 1024, 1025, 1500, 9000)],
    "01", "[1,]", "NaN", "-Infinity", '"\\x"', "{'a':1}", '{"a":1',
]  # fmt: skip


@pytest.mark.parametrize("body", EXACT, ids=lambda body: f"{body[:20]}, {len(body)}")
def test_json_is_what_was_written_by_every_door(
    node: Daemon, clients: Clients, push: Socket, req: Socket, channel: str, body: str
) -> None:
    data = body.encode()
    with Stream(node, f"/{channel}") as stream, Client(node) as client:
        sub = clients.sub(channel)
        assert node.request("POST", f"/{channel}", data, JSON)[0] == 200
        order = b'{"channels": ["%b"], "data": %b }' % (channel.encode(), data)
        assert node.request("POST", "/-/publish", order, JSON)[0] == 200
        client.ws.send(f'{{"id":1,"cmd":"publish","channel":"{channel}","data":{body}}}')
        assert "cursor" in client.reply(1)
        assert ask(req, "publish", channel, data)[0] == b"200"
        push.send_multipart([channel.encode(), data])
        with connect(f"ws://127.0.0.1:{node.port}/{channel}") as ws:
            ws.send(body)
        assert [stream.line() for _ in range(6)] == [data] * 6
        assert payloads(sub, 6) == [data] * 6
    if '"team":"red"' in body:
        with Stream(node, f"/{channel}?_since=earliest&team=red") as stream:
            assert stream.line() == data


@pytest.mark.parametrize("body", NO_JSON, ids=lambda body: f"{body[:20]}, {len(body)}")
def test_what_is_no_json_is_refused_by_every_door(
    node: Daemon, push: Socket, req: Socket, channel: str, body: str
) -> None:
    data = body.encode()
    assert node.request("POST", f"/{channel}", data, JSON)[0] == 400
    order = b'{"channels": ["%b"], "data": %b}' % (channel.encode(), data)
    assert node.request("POST", "/-/publish", order, JSON)[0] == 400
    with Client(node) as client:
        client.ws.send(f'{{"cmd":"publish","channel":"{channel}","data":{body}}}')
        assert json.loads(client.ws.recv(20))["error"]["code"] == 400
        assert client.ask(cmd="ping") == {}
    assert ask(req, "publish", channel, data)[0] == b"400"
    before = node.metric("raiden_bad_messages_total")
    push.send_multipart([channel.encode(), data])
    wait_for_metric(node, "bad_messages_total", before + 1)
    assert history(node, channel) == []


def test_texts_have_no_line_breaks_of_unicode_in_json_and_json_keeps_its_own(node: Daemon) -> None:
    text = "a\u2028b\u2029c\x85d"
    with Stream(node, "/breaks") as stream:
        node.request("POST", "/breaks", text.encode(), {"Content-Type": "text/plain"})
        node.request("POST", "/breaks", json.dumps(text, ensure_ascii=False).encode(), JSON)
        assert stream.line() == b'"a\\u2028b\\u2029c\\u0085d"'
        assert stream.line() == f'"{text}"'.encode()


@pytest.mark.parametrize("number", ['"' + "x" * 254 + '"', "true", "[1]", "9" * 256])
def test_an_id_is_a_short_string_or_a_number(node: Daemon, number: str) -> None:
    with Client(node) as client:
        client.ws.send(f'{{"id":{number},"cmd":"ping"}}')
        assert json.loads(client.ws.recv(20))["error"]["code"] == 400
        client.ws.send(f'{{"id":{"9" * 255},"cmd":"ping"}}')
        assert client.ws.recv(20) == f'{{"id":{"9" * 255}}}'


# Sizes.


def test_a_batch_has_a_number_of_messages(node: Daemon) -> None:
    ndjson = {"Content-Type": "application/x-ndjson"}
    assert node.request("POST", "/batch", b"1\n" * 100 + b"\n\n", ndjson)[0] == 200
    status, _, body = node.request("POST", "/batch", b"2\n" * 101, ndjson)
    assert status == 413 and "max_batch" in json.loads(body)["detail"]
    large = b'"%b"\n' % (b"x" * (MIB - WRAPPING - 1))
    assert node.request("POST", "/batch", b"3\n" + large, ndjson)[0] == 413
    assert set(history(node, "batch")) == {1}


def test_small_messages_that_wait_for_the_history_count_for_more_than_their_payloads(tmp_path: Path) -> None:
    """A process that does not answer: no more is asked than has a bound in bytes of memory."""
    address = str(tmp_path / "history")
    batch = Append("a", [(Kind.JSON, b"1")] * 10_000)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        line = History(address)
        try:
            with pytest.raises(StoreFailed, match="too much to do"):
                for _ in range(100):
                    line.append([batch], lambda outcome: None)
            assert line.waiting * 10_000 * OVERHEAD <= MAX_WAITING_BYTES
        finally:
            line.close()


def test_a_batch_that_is_too_large_is_not_taken_apart() -> None:
    """500,000 lines would be 20 MB of objects. Blank lines are none."""
    body = b"1\n" * 500_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="max_batch"):
            payload.batch(body, 1000, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    lines = b"\r\n \t\n" + b" 1 \r\n\n" * 1000
    assert payload.batch(lines, 1000, 1 << 20) == [b"1"] * 1000


def test_a_form_has_a_number_of_fields(node: Daemon, channel: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert node.request("POST", f"/{channel}", "&".join(["a=1"] * 1000), form)[0] == 200
    assert node.request("POST", f"/{channel}", "&".join(["a=1"] * 1001), form)[0] == 413
    assert [len(value["a"]) for value in history(node, channel)] == [1000]


def sizes() -> list[tuple[str, bytes, bytes]]:
    """A content type, the largest body of it that is taken, and one that has a byte more."""
    room = MIB - WRAPPING
    return [
        ("application/json", b'"%b"' % (b"x" * (room - 2)), b'"%b"' % (b"x" * (room - 1))),
        ("text/plain", b"x" * (room - 2), b"x" * (room - 1)),
        ("text/plain", b"\1" * ((room - 2) // 6), b"\1" * ((room - 2) // 6 + 1)),
        ("application/octet-stream", b"\0" * (room // 4 * 3), b"\0" * (room // 4 * 3 + 1)),
    ]


@pytest.mark.parametrize("number", range(4))
def test_whatever_is_taken_can_be_received_by_clients_that_take_a_mebibyte(
    node: Daemon, push: Socket, req: Socket, number: int
) -> None:
    channel = f"{number}" + '"' * 254  # as long as it can be, and longer in JSON
    path = f"/{number}" + "%22" * 254
    content_type, good, bad = sizes()[number]
    for body, expected in ((good, 200), (bad, 413)) * 2:
        assert node.request("POST", path, body, {"Content-Type": content_type})[0] == expected
        assert ask(req, "publish", channel, body, content_type)[0] == b"%d" % expected
    before = node.metric("raiden_bad_messages_total")
    push.send_multipart([channel.encode(), bad, content_type.encode()])
    wait_for_metric(node, "bad_messages_total", before + 1)
    if content_type == "application/json":
        name = json.dumps(channel).encode()
        order = b'{"channels":[%b],"data":%b}' % (name, bad)
        assert node.request("POST", "/-/publish", order, JSON)[0] == 413
        with Client(node) as client:
            client.ws.send(b'{"cmd":"publish","channel":%b,"data":%b}' % (name, bad), text=True)
            assert json.loads(client.ws.recv(20))["error"]["code"] == 413
    else:
        opcode = content_type == "text/plain"
        with connect(f"ws://127.0.0.1:{node.port}{path}") as ws:
            ws.send(bad, text=opcode)
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(20)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    node.request("POST", path, b'"after"', JSON)
    with connect(f"ws://127.0.0.1:{node.port}{path}?_wrap=1&_since=earliest") as ws:
        got = data_of(ws)
        assert got[-1] == "after" and len(str(got[0])) > 100_000
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket") as ws:
        for command in ({"since": "earliest"}, {"since": "earliest", "durable": "d" * 128}):
            ws.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": channel, **command}))
            assert data_of(ws) == got


def test_a_page_of_history_is_no_larger_than_a_message_may_be(node: Daemon, channel: str) -> None:
    values = [f"{n}" + "x" * 400_000 for n in range(5)]
    for value in values:
        node.post_json(f"/{channel}", value)
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket") as ws:
        for name, step in (("since", 1), ("before", -1)):
            got: list[str] = []
            place, more = None, True
            while more:
                ws.send(json.dumps({"id": "i" * 253, "cmd": "history", "channel": channel, name: place}))
                page = json.loads(ws.recv(20))
                found = page["messages"]
                assert 1 <= len(found) <= 2
                more, place = page["more"], found[-1 if step == 1 else 0]["cursor"]
                data = [message["data"] for message in found]
                got = got + data if step == 1 else data + got
            assert got == values


def data_of(ws: ClientConnection) -> list[Any]:
    """Of the next five messages, without what is told besides."""
    got: list[Any] = []
    while len(got) < 5:
        frame = json.loads(ws.recv(20))
        got += [frame["data"]] if "data" in frame else []
    return got


def test_a_larger_message_needs_a_setting(start: Callable[..., Daemon]) -> None:
    node = start(max_body=8 * MIB, max_message=4 * MIB)
    for size, expected in ((3 * MIB, 200), (4 * MIB, 413)):
        body = b'"%b"' % (b"x" * size)
        for _ in range(3):
            assert node.request("POST", "/large", body, JSON)[0] == expected
    status, _, answer = node.request("POST", "/large", body, JSON)
    assert status == 413 and "max_message" in json.loads(answer)["detail"]


SERVICE = """
from raiden.service import Service

class Tries(Service):
    def __init__(self, worker):
        super().__init__()
        self.worker = worker

    def do_start(self):
        self.spawn(self.run)

    def run(self):
        endless, deep = [], 1
        endless.append(endless)
        for _ in range(513):
            deep = [deep]
        for value in (float("nan"), [float("inf")], endless, deep, "x" * (1 << 20), {1, 2}):
            try:
                self.worker.publish("of-service", value)
            except Exception as error:
                self.worker.publish("told", type(error).__name__)
        self.worker.publish("of-service", deep[0])

def service(worker):
    return Tries(worker)
"""


def test_a_service_of_an_application_publishes_by_the_same_rules(start: Callable[..., Daemon], tmp_path: Path) -> None:
    config = tmp_path / "raiden.conf.py"
    config.write_text(SERVICE)
    node = start(config=config)
    (nested,) = wait_for(lambda: history(node, "of-service"), "the service has come to its end")
    assert json.dumps(nested) == "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    assert history(node, "told") == ["InvalidPayload"] * 4 + ["TooLarge", "TypeError"]


# Content codings.


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "identity, gzip", "deflate, identity"])
@pytest.mark.parametrize("path", ["/coded", "/-/publish"])
def test_a_content_coding_is_refused(node: Daemon, coding: str, path: str) -> None:
    body = gzip.compress(b'{"channels":["coded"],"data":1}')
    for content_type, sent in (("application/octet-stream", body), ("text/plain", b"xx"), ("application/json", b"1")):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Encoding: {coding}\r\n"
            f"Content-Length: {len(sent)}\r\n\r\n"
        ).encode()
        with node.connect() as connection, connection.makefile("rb") as stream:
            for _ in range(4):  # also where the head is known
                connection.sendall(head + sent)
                status, fields, _ = answer_of(stream)
                assert (status, fields[b"accept-encoding"]) == (415, b"identity")
    assert history(node, "coded") == []


def test_of_codings_in_several_fields_each_counts(node: Daemon) -> None:
    with node.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(
                b"POST /coded HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
                b"Content-Encoding: identity\r\nContent-Length: 1\r\n\r\n1"
            )
            assert answer_of(stream)[0] == 415
    assert history(node, "coded") == []


def test_identity_is_no_coding(node: Daemon) -> None:
    for n in range(3):
        assert node.request("POST", "/plain", b"%d" % n, {**JSON, "Content-Encoding": "identity"})[0] == 200
    assert history(node, "plain") == [0, 1, 2]


# What people type first.

CURL = shutil.which("curl")


def curl(*arguments: str) -> str:
    assert CURL is not None
    return subprocess.run([CURL, "-s", *arguments], capture_output=True, text=True, timeout=20, check=True).stdout


@pytest.mark.skipif(CURL is None, reason="needs curl")
@pytest.mark.parametrize("body", ['{"a":1}', "[1]", '"hi"', ' \n{"a": "x&y=z"}', "{'a': 1}", '{"a":1}\n{"a":2}'])
def test_json_as_curl_sends_it_by_default_is_refused(node: Daemon, body: str) -> None:
    told = json.loads(curl("-d", body, f"{node.url}/first"))
    assert told["status"] == 400 and "Content-Type: application/json" in told["detail"] and "--json" in told["detail"]
    assert history(node, "first") == []


@pytest.mark.skipif(CURL is None, reason="needs curl")
def test_forms_as_curl_sends_them_are_taken(node: Daemon) -> None:
    for form in ("text=hi&lang=en", "hello", "a[]=1", "%7B%22a%22%3A1%7D"):
        assert "cursor" in curl("-d", form, f"{node.url}/forms")
    assert "cursor" in curl("--data-urlencode", 'a={"b": 1}', f"{node.url}/forms")
    assert history(node, "forms") == [
        {"text": "hi", "lang": "en"}, {"hello": ""}, {"a[]": "1"}, {'{"a":1}': ""}, {"a": '{"b": 1}'},
    ]  # fmt: skip


def test_json_as_urllib_sends_it_by_default_is_refused(node: Daemon) -> None:
    program = (
        "import urllib.request, urllib.error, json\n"
        f"request = urllib.request.Request('{node.url}/urllib', data=json.dumps({{'a': 1}}).encode())\n"
        "try: urllib.request.urlopen(request)\n"
        "except urllib.error.HTTPError as error: print(error.code, json.load(error)['detail'])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True).stdout
    assert re.match("400 .*application/json", out), out
    assert history(node, "urllib") == []


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":1}', None), (b" [1, 2]\n", None), (b'"hi"', None),
        (b'{"a":', "eyJhIjo="), (b"42", "NDI="), (b"hello", "aGVsbG8="), (b"{\xff}", "e/99"), (b"", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["", "Content-Type:\r\n"])
def test_what_has_no_type_is_bytes_unless_it_is_json(
    node: Daemon, channel: str, body: bytes, value: str | None, field: str
) -> None:
    """As python-requests sends ``data=json.dumps(...)``, httpx ``content=...``, and Go's NewRequest."""
    head = f"POST /{channel} HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n{field}Content-Length: {len(body)}\r\n\r\n"
    with node.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(head.encode() + body)
            status, _, told = answer_of(stream)
            assert status == (400 if value is None else 200), told
            assert value is not None or b"application/octet-stream" in told
    assert history(node, channel) == ([] if value is None else [{"base64": value}] * 3)


def test_bytes_that_say_so_are_bytes_whatever_they_hold(node: Daemon, req: Socket) -> None:
    body = b'{"a":1}'
    assert node.request("POST", "/octets", body, {"Content-Type": BYTES.decode()})[0] == 200
    assert ask(req, "publish", "octets", body, BYTES)[0] == b"200"
    assert node.request("POST", "/octets", body, {"Content-Type": TEXT.decode()})[0] == 200
    assert history(node, "octets") == [{"base64": "eyJhIjoxfQ=="}] * 2 + ['{"a":1}']
