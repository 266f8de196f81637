"""benchmarks/load against a small server that makes mistakes on purpose, each of which must show in its counter, and
against a real node by all the transports that it has."""

from __future__ import annotations

import shutil
import socketserver
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.peers import DIALECTS, Door, cable, centrifuge, pusher
from benchmarks.tools import check_delivered, compile_tools, run_load
from tests.daemons import Daemon, running

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc) to build load with")

SUBSCRIBERS, MESSAGES = 3, 20
DELAY = 0.03
ALL = {"expected": 60, "delivered": 60, "lost": 0, "duplicates": 0, "out_of_order": 0, "misrouted": 0, "stale": 0}
ALL |= {"published": 20, "pub_ok": 20, "pub_errors": 0, "disconnects": 0}


class Message(NamedTuple):
    channel: str
    payload: bytes


class Server(socketserver.ThreadingTCPServer):
    """Lines `SUB channel`, `UNSUB channel` and `PUB channel payload` over TCP, or WebSockets to subscribe and POST to
    publish, on one port. ``fault`` makes of a message, and how many came before, those that are delivered."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fault: Callable[[Server, int, Message], list[Message]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = fault
        self.subscribers: dict[str, list[Handler]] = defaultdict(list)
        self.published = 0
        self.subscribed = 0
        self.unsubscribed = 0
        self.pongs = 0
        self.refused: set[int] = set()  # publishes that are answered 503
        self.pieces = 0  # how many bytes are sent at once, if not all
        self.lock = threading.Lock()

    def subscribe(self, channel: str, handler: Handler) -> None:
        with self.lock:
            self.subscribers[channel].append(handler)
            self.subscribed += 1

    def publish(self, message: Message) -> bool:
        with self.lock:
            number, self.published = self.published, self.published + 1
            if number in self.refused:
                return False
            for channel, payload in self.fault(self, number, message):
                for subscriber in self.subscribers[channel]:
                    subscriber.deliver(payload)
        return True


class Handler(socketserver.StreamRequestHandler):
    server: Server
    disable_nagle_algorithm = True
    websocket = False

    def handle(self) -> None:
        try:
            while line := self.rfile.readline():
                self.take(*line.split())
        except OSError:
            pass  # the client has closed

    def take(self, command: bytes, target: bytes, last: bytes = b"") -> None:
        channel = target.decode().lstrip("/")
        if command == b"SUB":
            self.server.subscribe(channel, self)
            self.wfile.write(b"PING\r\nready\n")
        elif command == b"UNSUB":
            self.server.unsubscribed += 1
            self.wfile.write(b"ready\n")
        elif command == b"PUB":
            self.server.publish(Message(channel, last))
            self.wfile.write(b"+OK\n")
        elif command == b"GET":
            self.fields()
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
            self.websocket = True
            self.server.subscribe(channel, self)
            self.read_frames()
        else:
            body = self.rfile.read(int(self.fields()["content-length"]))
            accepted = self.server.publish(Message(channel, body))
            status = b"200 OK" if accepted else b"503 Service Unavailable"
            self.wfile.write(b"HTTP/1.1 %b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n" % status)

    def fields(self) -> dict[str, str]:
        lines = iter(lambda: self.rfile.readline().decode().strip(), "")
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    def read_frames(self) -> None:
        while head := self.rfile.read(2):
            mask, payload = self.rfile.read(4), self.rfile.read(head[1] & 127)
            if head[0] & 15 == 10 and bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) == b"alive?":
                self.server.pongs += 1

    def deliver(self, payload: bytes) -> None:
        data = b"MSG " + payload + b"\n"
        if self.websocket:
            size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
            data = b"\x89\x06alive?\x82" + size + payload
        step = self.server.pieces or len(data)
        for at in range(0, len(data), step):
            self.wfile.write(data[at : at + step])
            if self.server.pieces:
                time.sleep(0.0002)  # so that they are not read together


def none(server: Server, number: int, message: Message) -> list[Message]:
    return [message]


@contextmanager
def serving(fault: Callable[[Server, int, Message], list[Message]] = none) -> Iterator[Server]:
    with Server(fault) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


SUBSCRIBE = ("--sub", "tcp", "--sub-send", r"SUB {ch}\n", "--ready-marker", r"ready\n")
TCP = (*SUBSCRIBE, "--pub", "tcp", "--pub-body", r"PUB {ch} {msg}\n", "--pub-ack", r"+OK\n")
HTTP = ("--sub", "ws", "--pub", "http")


def load(server: Server, *options: str, **numbers: float) -> dict[str, Any]:
    compile_tools("load")
    at = f"127.0.0.1:{server.server_address[1]}"
    numbers = {"subs": SUBSCRIBERS, "msgs": MESSAGES, "size": 64, "settle": 10, "drain": 100, **numbers}
    return run_load(*options, "--sub-addr", at, "--pub-addr", at, timeout=10, **numbers)


def assert_counts(result: dict[str, Any], **other: int) -> None:
    expected = {**ALL, **other}
    assert {name: result[name] for name in expected} == expected


@pytest.mark.parametrize("options", [TCP, HTTP], ids=["tcp", "websocket"])
@pytest.mark.parametrize("pieces", [0, 7], ids=["whole", "pieces"])
def test_that_nothing_is_counted_where_nothing_is_wrong(options: tuple[str, ...], pieces: int) -> None:
    with serving() as server:
        server.pieces = pieces
        assert_counts(load(server, *options))


def test_pings_are_answered() -> None:
    with serving() as server:
        assert load(server, *HTTP, rate=200)["pings"] == ALL["delivered"]
        assert server.pongs >= ALL["delivered"] // 2  # at the end it does not wait until they are read


def test_a_lost_message() -> None:
    with serving(lambda server, number, message: [] if number == 5 else [message]) as server:
        assert_counts(load(server, *TCP), delivered=57, lost=3)


def test_a_doubled_message() -> None:
    with serving(lambda server, number, message: [message] * (2 if number == 5 else 1)) as server:
        assert_counts(load(server, *TCP), duplicates=3)


def test_swapped_messages() -> None:
    held: list[Message] = []

    def swap(server: Server, number: int, message: Message) -> list[Message]:
        if number == 5:
            held.append(message)
            return []
        return [message, held.pop()] if held else [message]

    with serving(swap) as server:
        assert_counts(load(server, *TCP), out_of_order=3)


def test_a_message_on_a_wrong_channel() -> None:
    def misroute(server: Server, number: int, message: Message) -> list[Message]:
        return [message._replace(channel="ch000001") if number == 4 else message]

    with serving(misroute) as server:  # two of the three subscribers have channel 0
        result = load(server, *TCP, channels=2)
        assert_counts(result, expected=30, delivered=28, lost=2, misrouted=1)


def test_messages_from_before() -> None:
    before: list[Message] = []

    def remember(server: Server, number: int, message: Message) -> list[Message]:
        if number < MESSAGES:
            before.append(message)
            return [message]
        return [message, before.pop()]

    with serving(remember) as server:
        assert_counts(load(server, *TCP))
        server.subscribers.clear()
        assert_counts(load(server, *TCP), stale=60)


def test_a_closed_connection() -> None:
    def close(server: Server, number: int, message: Message) -> list[Message]:
        if number == 5:
            server.subscribers[message.channel].pop().connection.shutdown(2)
        return [message]

    with serving(close) as server:
        result = load(server, *TCP)
        assert_counts(result, delivered=45, lost=15, disconnects=1)
        assert result["disconnects_in_run"] == 1


def test_a_refused_publish() -> None:
    with serving() as server:
        server.refused = {5, 6}
        result = load(server, *HTTP)
        assert_counts(result, pub_ok=18, pub_errors=2, delivered=54, lost=6)
        assert result["statuses"] == {"200": 18, "503": 2}


def test_a_subscriber_that_reads_nothing_is_not_expected_to() -> None:
    with serving() as server:
        result = load(server, *TCP, stall=1)
        assert_counts(result, expected=40, delivered=40)
        assert (result["stalled"], result["stalled_closed"]) == (1, 0)


def test_latency_and_pace() -> None:
    def delay(server: Server, number: int, message: Message) -> list[Message]:
        time.sleep(DELAY)
        return [message]

    with serving(delay) as server:
        result = load(server, *TCP, msgs=5, rate=10)
    # A delivery comes before its publish is acknowledged, and both after the delay.
    assert DELAY * 1e6 <= result["latency_us"]["p50"] <= result["pub_ack_us"]["max"] < 1e6
    assert 0.4 <= result["elapsed_s"] < 1


def test_what_is_published_is_bounded_by_time() -> None:
    with serving() as server:
        result = load(server, *TCP, msgs=500, seconds=0.2, rate=100)
    assert 1 <= result["published"] <= 21
    assert result["delivered"] == result["expected"] == result["published"] * SUBSCRIBERS


def test_batches_and_windows() -> None:
    with serving() as server:
        assert_counts(load(server, *TCP, msgs=400, window=16), published=400, pub_ok=400, expected=1200, delivered=1200)
    with serving() as server:
        result = load(server, *HTTP, batch=5, inflight=10, channels=2)
        # Of the four batches two went to each channel, of which one has two subscribers.
        assert_counts(result, expected=30, delivered=30)
        assert result["statuses"] == {"200": 4}


def test_storm() -> None:
    with serving() as server:
        result = load(server, *TCP, "--storm", "0.2")
        assert 0 < result["connects"] <= server.subscribed <= result["connects"] + SUBSCRIBERS


def test_churn() -> None:
    with serving() as server:
        off = ("--churn-off", r"UNSUB {ch}\n", "--churn-ok", r"ready\n", "--churn-seconds", "0.2")
        result = load(server, *TCP, "--churn-on", r"SUB {ch}\n", *off)
        changes = server.subscribed - SUBSCRIBERS + server.unsubscribed
        assert 0 < result["changes"] <= changes <= result["changes"] + SUBSCRIBERS
        assert abs(server.subscribed - SUBSCRIBERS - server.unsubscribed) <= SUBSCRIBERS
        assert len(server.subscribers) == server.subscribed - SUBSCRIBERS + 1  # each channel is a new one


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(
        Path(tmp_path_factory.mktemp("node")), workers=1, zmq_sub_port=0, zmq_push_port=0, drain_window=0
    )


POST = ("--pub", "http", "--pub-header", "Content-Type: application/json", "--pub-body", '"{msg}"')
PUSH = ("--pub", "zmq", "--pub-zmq", "PUSH", "--pub-part", "{ch}", "--pub-part", '"{msg}"')
CURSOR = "Raiden-Cursor=Last-Event-ID"
TRANSPORTS = {
    "websocket": ("--sub", "ws"),
    "stream": ("--sub", "http"),
    "events": ("--sub", "http", "--sub-header", "Accept: text/event-stream"),
    "poll": ("--sub", "http", "--longpoll", "--sub-path", "/{ch}?_wait=20", "--cursor-header", CURSOR),
    "SUB": ("--sub", "zmq", "--sub-topic", "{ch}", "--sub-topic", "-/in-force/{i}", "--ready-marker", "-/in-force/"),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_node(node: Daemon, transport: str) -> None:
    compile_tools("load")
    http, doors = f"127.0.0.1:{node.port}", {name: at.removeprefix("tcp://") for name, at in node.doors().items()}
    options = [*TRANSPORTS[transport], "--sub-addr", doors.get(transport, http), "--pid", str(node.pid)]
    options += [*PUSH, "--pub-addr", doors["PUSH"]] if transport == "SUB" else [*POST, "--pub-addr", http]
    options += ["--channel-prefix", f"{transport}-"]
    # The time to settle is for long-polls, which are not told that their subscription is in force.
    result = run_load(*options, subs=6, channels=2, msgs=30, rate=300, size=70_000, settle=100, timeout=10)
    check_delivered(result)
    assert (result["published"], result["delivered"], result["ready"]) == (30, 90, 6)
    assert result["server_procs"] == 1 + len(node.workers())
    assert result["pss_after_kb"] > 0
    if transport != "SUB":
        assert result["statuses"] == {"200": 30}


@pytest.fixture(scope="module")
def dialects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(Path(tmp_path_factory.mktemp("dialects")), workers=1, drain_window=0, **DIALECTS)
    yield node
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


@pytest.mark.parametrize("protocol", [cable, centrifuge, pusher])
def test_protocols_of_other_servers(dialects: Daemon, protocol: Callable[[int], Door]) -> None:
    """What is published by their APIs, for which Pusher's asks for a signature, comes to their subscribers."""
    compile_tools("load")
    options = protocol(dialects.port).options(128)
    result = run_load(*options, subs=6, channels=2, msgs=30, rate=300, settle=10, timeout=10)
    check_delivered(result)
    assert (result["published"], result["delivered"], result["ready"]) == (30, 90, 6)


def test_a_wrong_signature(dialects: Daemon) -> None:
    compile_tools("load")
    options = [*pusher(dialects.port).options(128), "--pub-sign", "key:another"]
    result = run_load(*options, subs=1, msgs=3, settle=10, drain=100, timeout=10)
    assert (result["statuses"], result["delivered"]) == ({"401": 3}, 0)
