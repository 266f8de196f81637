"""Let a node or two live with clients that come and go, and see whether anything is left behind:
``benchmarks/soak.py [--minutes N] [--nodes N] [--seed N] [--json FILE]``. Prints tables in Markdown; exit code 1 where
something is left or grows.

**Nodes** have two workers and the ZeroMQ doors. One keeps its history in SQLite, two are a cluster without history.

**Clients** are threads, each of one kind (`LIVES`), that live one life after the other: connect, subscribe, hear a
little, leave. One in three leaves by RST, polls also before their answer. Slow clients read nothing until the node cuts
them off, on channels of their own that go with them. Three publishers keep a pace, by HTTP, WebSocket and PUSH, on
channels whose names are new every `AGE` seconds; some channels are deleted. The load is varied, not fast: its own CPU
is told.

**What is looked at.** Every few seconds each process's memory, file descriptors and threads, and what the workers
count of themselves. From the second half comes the slope of each process's memory, by least squares. Samples that
follow each other are alike, so its error is not that of independent ones: the line is fitted to the means of `BLOCKS`
blocks, which are long enough to forget each other, and the interval is Student's for these.

**What fails.** Any life that did not go as it should; a count that within `QUIET` seconds after the last client is not
back where it was before the first; a slope whose 95 % interval lies above the bound: `BOUND`, or one of the
interpreter's arenas within the time that was looked at, for memory comes in these and the first one after the
half-time proves nothing. A worker is warm after a minute or two, so less than three minutes fail. The run tells what
the bound is per life: when that is below the 56 bytes of the smallest container, no life leaves even one behind.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from prometheus_client.parser import text_string_to_metric_families
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import cpu_of, stop_all
from benchmarks.tables import print_rows
from benchmarks.tools import Failed, write_json
from tests.daemons import Daemon, wait_for

WORKERS = 2
PATIENCE = 20.0  # seconds for any answer
SETTLED = 3.0  # seconds after a node is ready until it has all that it will have while idle
QUIET = 60.0  # seconds until everything is back; connections linger, rounds end
AGE = 20.0  # seconds that a channel's name is published to
NAMES = 12  # channels at a time
PACE = 25.0  # publishes a second, of each publisher
OUTBOX = 128 * 1024  # `max_outbox`: what slow clients are cut off at
SAMPLES = 100  # at least, in the whole run
EVERY = 5.0  # seconds between samples, at most
BLOCKS = 10
STUDENT = 2.306  # 97.5 % of Student's t with BLOCKS - 2 degrees of freedom
MB = 1e6
BOUND = 1.0  # MB/hour
ARENA = 1.048576  # MB, of CPython's allocator
SMALLEST = 56  # bytes: an empty list

SETTINGS: dict[str, Any] = {
    "workers": WORKERS, "max_outbox": OUTBOX, "keepalive": 5.0, "session_window": 5.0, "position_check": 2.0,
    "zmq_sub_port": 0, "zmq_push_port": 0, "zmq_req_port": 0, "zmq_heartbeat": 2.0, "drain_window": 0,
    # Short, so that the history has all it will ever have before the second half.
    "channels": {"*": {"history_size": 50, "history_ttl": 20}, "slow.*": {"history_size": 0}},
}  # fmt: skip


# The slope.


class Trend(NamedTuple):
    """A slope, and its 95 % confidence interval."""

    slope: float
    low: float
    high: float


def trend(points: Sequence[tuple[float, float]]) -> Trend:
    """Of y over x, where neighbouring points are not independent of each other. Raises Failed for too few."""
    if len(points) < 2 * BLOCKS:
        raise Failed(f"{len(points)} samples are too few for {BLOCKS} blocks")
    size = len(points) / BLOCKS
    blocks = [points[round(n * size) : round((n + 1) * size)] for n in range(BLOCKS)]
    xs = [statistics.fmean(x for x, _ in block) for block in blocks]
    ys = [statistics.fmean(y for _, y in block) for block in blocks]
    slope, intercept = statistics.linear_regression(xs, ys)
    middle = statistics.fmean(xs)
    rest = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    error = STUDENT * (rest / (BLOCKS - 2) / sum((x - middle) ** 2 for x in xs)) ** 0.5
    return Trend(slope, slope - error, slope + error)


# Clients.


class Soak:
    """What the clients share. `lived` are the lives of each kind; `failures`, what did not go as it should."""

    def __init__(self, nodes: Sequence[Daemon], seed: int) -> None:
        self.nodes = nodes
        self.seed = seed
        self.keeps_history = nodes[0].keeps_history
        self.over = threading.Event()
        self.lived: Counter[str] = Counter()
        self.failures: list[str] = []
        self.numbers = itertools.count(1)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._doors = [node.doors() for node in nodes]
        self._started = time.monotonic()

    def channels(self, random: random.Random, count: int = 1) -> list[str]:
        age = int((time.monotonic() - self._started) / AGE)
        return [f"soak.{age}.{number}" for number in random.sample(range(NAMES), count)]

    def door(self, random: random.Random, door: str, kind: int) -> zmq.Socket[bytes]:
        found = self.context.socket(kind)
        found.linger = 0
        found.rcvtimeo = found.sndtimeo = int(PATIENCE * 1000)
        found.connect(random.choice(self._doors)[door])
        return found

    def live(self, kind: str, life: Callable[[Soak, random.Random], None]) -> None:
        """One life after the other, until it is over."""
        chance = random.Random(f"{self.seed} {kind} {next(self.numbers)}")
        while not self.over.is_set():
            try:
                life(self, chance)
            except Exception:
                self.failures.append(f"{kind}: {traceback.format_exc(limit=-3)}")
                self.over.wait(1.0)
            self.lived[kind] += 1
            self.over.wait(chance.uniform(0.0, 0.2))


def leave(sock: socket.socket, chance: random.Random) -> None:
    """Close the connection; one in three breaks off with RST."""
    if chance.random() < 1 / 3:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextmanager
def connection(soak: Soak, chance: random.Random) -> Iterator[socket.socket]:
    sock = chance.choice(soak.nodes).connect(PATIENCE)
    try:
        yield sock
    finally:
        leave(sock, chance)


def head_of(sock: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(4096)
        if not data:
            raise Failed(f"the connection ended after {head!r}")
        head += data
    return head


def request(sock: socket.socket, method: str, path: str, fields: str = "", body: bytes = b"") -> None:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n".encode() + body)


def expect(head: bytes, *statuses: int) -> None:
    if int(head.split(b" ", 2)[1]) not in statuses:
        raise Failed(f"answered with {head!r}")


def hear(sock: socket.socket, seconds: float) -> None:
    """Read for so long, or until the end."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(65536)
        except TimeoutError:
            break
        if not data:
            break  # its channel was deleted
    sock.settimeout(PATIENCE)


class WebSocket:
    """A WebSocket on a socket: `send` texts, `receive` what comes within a time. `closed`: by the node."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._sock = sock
        self._protocol = ClientProtocol(parse_uri(f"ws://localhost{path}"), max_size=None)
        self._protocol.send_request(self._protocol.connect())
        self._send()
        while self._protocol.state is State.CONNECTING:
            self._feed(sock.recv(65536))
        if self._protocol.handshake_exc:
            raise Failed(f"no WebSocket: {self._protocol.handshake_exc}")

    @property
    def closed(self) -> bool:
        return self._protocol.state is not State.OPEN

    def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._sock.sendall(data)

    def _feed(self, data: bytes) -> None:
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._send()  # pongs

    def send(self, *texts: str) -> None:
        for text in texts:
            if not self.closed:
                self._protocol.send_text(text.encode())
        self._send()

    def receive(self, seconds: float) -> list[bytes]:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.closed:
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                break
            self._sock.settimeout(PATIENCE)
            self._feed(data)
        self._sock.settimeout(PATIENCE)
        events = self._protocol.events_received()
        return [bytes(event.data) for event in events if isinstance(event, Frame) and event.opcode is Opcode.TEXT]

    def close(self) -> None:
        if not self.closed:
            self._protocol.send_close(1000)
            self._send()


def stream(soak: Soak, chance: random.Random) -> None:
    """An HTTP stream or an event stream, of a channel, some channels or a pattern; some want what was before."""
    fields = chance.choice(("", "Accept: text/event-stream\r\n"))
    some = soak.channels(chance, 3)
    path = chance.choice((f"/{some[0]}", f"/{some[0]}?n=1&n=2", f"/-/subscribe?channel={'&channel='.join(some)}"))
    if chance.random() < 0.2:
        path = "/soak.*"
    elif soak.keeps_history and path == f"/{some[0]}":
        path += chance.choice(("", "?_last=5", "?_since=earliest"))
    if fields and "*" not in path and chance.random() < 0.3:
        path += "&_presence=1" if "?" in path else "?_presence=1"
    with connection(soak, chance) as sock:
        request(sock, "GET", path, fields)
        if chance.random() < 0.1:
            return  # it did not wait for its answer
        expect(head_of(sock), 200)
        hear(sock, chance.uniform(0.0, 1.5))


def poll(soak: Soak, chance: random.Random) -> None:
    with connection(soak, chance) as sock:
        for _ in range(chance.randint(1, 3)):
            watches = chance.choice(("", "", "&_presence=1"))
            request(sock, "GET", f"/{soak.channels(chance)[0]}?_wait=1{watches}")
            if chance.random() < 0.2:
                return
            expect(head_of(sock), 200, 204)
            hear(sock, 0.02)  # the rest of the answer


def websocket(soak: Soak, chance: random.Random) -> None:
    """A WebSocket of a channel, which publishes now and then."""
    with connection(soak, chance) as sock:
        ws = WebSocket(sock, f"/{soak.channels(chance)[0]}?_wrap=1")
        for _ in range(chance.randint(0, 3)):
            ws.send(json.dumps({"n": chance.randint(0, 3)}))
            ws.receive(chance.uniform(0.0, 0.5))
        ws.close()


def multiplex(soak: Soak, chance: random.Random) -> None:
    """`/-/websocket`: subscribes and unsubscribes, publishes, asks; with history also sessions and durables."""
    some = soak.channels(chance, 4)
    with connection(soak, chance) as sock:
        ws = WebSocket(sock, "/-/websocket")
        commands: list[dict[str, Any]] = [
            {"cmd": "subscribe", "channel": name, "presence": chance.random() < 0.3} for name in some
        ]
        commands += [{"cmd": "presence", "channel": name} for name in some[:2]]
        commands += [{"cmd": "subscribe", "channel": "soak.*"}, {"cmd": "ping"}]
        commands += [{"cmd": "unsubscribe", "channel": name} for name in some[:2]]
        commands += [
            {"cmd": "publish", "channel": name, "data": {"n": 1}, "key": str(chance.random())} for name in some
        ]
        if soak.keeps_history:
            durable = {"channel": some[3], "durable": chance.choice("ab")}
            commands += [{"cmd": "session"}, {"cmd": "history", "channel": some[0], "limit": 10}]
            commands += [{"cmd": "subscribe", **durable, "ack": False}]
        sent = replies = 0
        for command in commands[: chance.randint(1, len(commands))]:
            sent += 1
            ws.send(json.dumps({"id": sent, **command}))
            replies += replies_in(ws.receive(0.1)) if chance.random() < 0.3 else 0
        if chance.random() < 0.3:
            return  # in the middle of it
        end = time.monotonic() + PATIENCE
        while replies < sent:
            replies += replies_in(ws.receive(0.05))
            if ws.closed or time.monotonic() > end:
                raise Failed(f"of {sent} commands {replies} were answered")
        ws.close()


def ask(soak: Soak, chance: random.Random) -> None:
    """Asks servers, by HTTP and on `/-/websocket`, and may leave before the answer."""
    with connection(soak, chance) as sock:
        for _ in range(chance.randint(1, 5)):
            request(sock, "POST", "/soak.served?_request=1&_again=1", "Content-Type: application/json\r\n", b"1")
            if chance.random() < 0.2:
                return
            expect(head_of(sock), 200, 502, 503, 504)
            hear(sock, 0.02)  # the rest of the answer
    with connection(soak, chance) as sock:
        ws = WebSocket(sock, "/-/websocket")
        for number in range(10):
            ws.send(json.dumps({"id": number, "cmd": "request", "channel": "soak.served", "data": 1, "timeout": 1}))
        ws.receive(chance.uniform(0.0, 0.3))
        if chance.random() < 0.7:
            ws.close()


def serve(soak: Soak, chance: random.Random) -> None:
    """Serves for a while, on `/-/websocket` or by long-polls; answers some requests, and leaves others."""
    with connection(soak, chance) as sock:
        if chance.random() < 0.3:
            request(sock, "GET", "/soak.served?_serve=1&_wait=1")
            expect(head_of(sock), 200, 204)
            return
        ws = WebSocket(sock, "/-/websocket")
        ws.send(json.dumps({"id": 1, "cmd": "serve", "channel": "soak.served", "window": 4}))
        end = time.monotonic() + chance.uniform(0.1, 1.5)
        while time.monotonic() < end and not ws.closed:
            for frame in ws.receive(0.05):
                id = json.loads(frame).get("request")
                if id is not None and chance.random() < 0.8:
                    ws.send(json.dumps({"cmd": "answer", "request": id, "data": 1}))
        if chance.random() < 0.5:
            ws.send(json.dumps({"cmd": "unserve", "channel": "soak.served"}))
            ws.close()


def replies_in(frames: Sequence[bytes]) -> int:
    return sum(frame.startswith(b'{"id"') for frame in frames)


def slow(soak: Soak, chance: random.Random) -> None:
    """Reads nothing until the node has cut it off."""
    channel = f"slow.{next(soak.numbers)}"
    node = chance.choice(soak.nodes)
    with ExitStack() as stack:
        sock = stack.enter_context(connection(soak, chance))
        as_websocket = chance.random() < 0.5
        if as_websocket:
            WebSocket(sock, f"/{channel}")
        else:
            request(sock, "GET", f"/{channel}")
            expect(head_of(sock), 200)
        publisher = stack.enter_context(connection(soak, chance))
        body = json.dumps("x" * 100_000).encode()
        before = slow_consumers(soak)
        for _ in range(200):  # of which the kernel takes up to some 60 for the client
            request(publisher, "POST", f"/{channel}", "Content-Type: application/json\r\n", body)
            expect(head_of(publisher), 202)
            if slow_consumers(soak) > before:
                return
            soak.over.wait(0.02)
        raise Failed(f"a client of {node.url} that reads nothing was not cut off")


def slow_consumers(soak: Soak) -> float:
    return sum(node.metric("raiden_slow_consumers_total") for node in soak.nodes)


def sub(soak: Soak, chance: random.Random) -> None:
    """A SUB client: prefixes come and go."""
    prefixes = [b"soak.", b"", *(name.encode() for name in soak.channels(chance, 3))]
    with soak.door(chance, "SUB", zmq.SUB) as client:
        for prefix in chance.sample(prefixes, 3):
            client.subscribe(prefix)
        client.subscribe(b"-/in-force/1")
        end = time.monotonic() + chance.uniform(0.2, 1.0)
        while (left := end - time.monotonic()) > 0 and client.poll(int(left * 1000) + 1):
            client.recv_multipart()
        client.unsubscribe(b"-/in-force/1")
        if chance.random() < 0.5:
            client.subscribe(b"-/heartbeat")


def req(soak: Soak, chance: random.Random) -> None:
    """A REQ client: publishes, asks, reads the history."""
    channel = soak.channels(chance)[0].encode()
    with soak.door(chance, "REQ", zmq.REQ) as client:
        requests = [[b"publish", channel, b'{"n":1}'], [b"channels"], [b"ping"]]
        requests += [[b"history", channel]] if soak.keeps_history else []
        for each in chance.sample(requests, 2):
            client.send_multipart(each)
            answer = client.recv_multipart()
            if answer[0] not in (b"200", b"202"):
                raise Failed(f"{each} was answered with {answer}")


def delete(soak: Soak, chance: random.Random) -> None:
    """Deletes a channel, which ends its subscriptions."""
    with connection(soak, chance) as sock:
        request(sock, "DELETE", f"/{soak.channels(chance)[0]}")
        expect(head_of(sock), 202)
    soak.over.wait(3.0)


def push(soak: Soak, chance: random.Random) -> None:
    """A PUSH client that publishes at a pace for some seconds."""
    with soak.door(chance, "PUSH", zmq.PUSH) as client:
        for _ in paced(soak, 5.0):
            client.send_multipart([soak.channels(chance)[0].encode(), b'{"n":1,"by":"push"}'])


def post(soak: Soak, chance: random.Random) -> None:
    with connection(soak, chance) as sock:
        for _ in paced(soak, 5.0):
            body = json.dumps({"n": chance.randint(0, 3), "text": "x" * chance.randint(0, 2000)}).encode()
            request(sock, "POST", f"/{soak.channels(chance)[0]}", "Content-Type: application/json\r\n", body)
            expect(head_of(sock), 200, 202)


def publish_by_websocket(soak: Soak, chance: random.Random) -> None:
    with connection(soak, chance) as sock:
        ws = WebSocket(sock, "/-/websocket")
        for _ in paced(soak, 5.0):
            ws.send(json.dumps({"cmd": "publish", "channel": soak.channels(chance)[0], "data": {"n": 1}}))
            ws.receive(0.001)
        ws.close()


def paced(soak: Soak, seconds: float) -> Iterator[None]:
    """`PACE` times a second, for so long."""
    began = time.monotonic()
    for number in range(int(seconds * PACE)):
        if soak.over.wait(max(0.0, began + number / PACE - time.monotonic())):
            return
        yield


# What lives, and how many at a time.
LIVES: dict[str, tuple[int, Callable[[Soak, random.Random], None]]] = {
    "stream": (5, stream),
    "poll": (3, poll),
    "websocket": (3, websocket),
    "multiplex": (4, multiplex),
    "ask": (2, ask),
    "serve": (2, serve),
    "sub": (2, sub),
    "req": (1, req),
    "slow": (1, slow),
    "delete": (1, delete),
    "push": (1, push),
    "post": (1, post),
    "publish by WebSocket": (1, publish_by_websocket),
}


# What is looked at.

Key = tuple[str, str]  # a node or one of its processes, and what of it
COUNTS = (
    "descriptors", "threads", "connections", "channels", "orders", "greenlets", "subscribers", "requests_asked",
    "requests_served",
)  # fmt: skip


class Sampler:
    """Looks at the nodes: what each process has, and what its workers say."""

    def __init__(self, nodes: Sequence[Daemon]) -> None:
        self._nodes = nodes
        self.processes = {
            f"node {number} {name}": pid
            for number, node in enumerate(nodes, 1)
            for name, pid in {"supervisor": node.pid, **node.workers()}.items()
        }
        self.samples: defaultdict[Key, list[tuple[float, float]]] = defaultdict(list)

    def look(self) -> dict[Key, float]:
        found: dict[Key, float] = {}
        for name, pid in self.processes.items():
            found[name, "memory"] = memory_of(pid) / MB
            found[name, "descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
            found[name, "threads"] = len(os.listdir(f"/proc/{pid}/task"))
        for number, node in enumerate(self._nodes, 1):
            workers = [*(f"worker {n}" for n in range(WORKERS)), "zeromq"]
            _, _, body = node.request("GET", "/-/metrics")
            for family in text_string_to_metric_families(body.decode()):
                what = family.name.removeprefix("raiden_")
                for sample in family.samples if what in COUNTS else ():
                    key = f"node {number} {workers[int(sample.labels['worker'])]}", what
                    found[key] = found.get(key, 0.0) + sample.value
        carried = self._nodes[0].json("/-/channels")["channels"]
        found["all", "subscribers"] = sum(row["subscribers"] for row in carried.values())
        return found

    def sample(self, at: float) -> None:
        for key, value in self.look().items():
            self.samples[key].append((at, value))


def memory_of(pid: int) -> int:
    """The memory in bytes that a process has for itself (RssAnon, proc(5)). What it shares with others, libraries and
    what they have had in common since they were forked, changes by what these do."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def counts(look: dict[Key, float]) -> dict[Key, float]:
    return {key: value for key, value in look.items() if key[1] in COUNTS}


def left_behind(sampler: Sampler, before: dict[Key, float]) -> dict[Key, float]:
    """What there is more of than before the first client, when it has had its time to go."""
    end = time.monotonic() + QUIET
    while True:
        now = counts(sampler.look())
        more = {key: value - before.get(key, 0.0) for key, value in now.items() if value > before.get(key, 0.0)}
        if not more or time.monotonic() > end:
            return more
        time.sleep(1.0)


# The run.


class Result(NamedTuple):
    seconds: float
    lived: dict[str, int]
    trends: dict[str, Trend]  # of memory, MB/hour
    bound: float
    left: dict[Key, float]
    failures: list[str]
    cpu: dict[str, float]
    samples: dict[Key, list[tuple[float, float]]]

    @property
    def grows(self) -> list[str]:
        return [name for name, found in self.trends.items() if found.low > self.bound]

    @property
    def passed(self) -> bool:
        return not (self.grows or self.left or self.failures)


@contextmanager
def running(count: int) -> Iterator[list[Daemon]]:
    nodes: list[Daemon] = []
    settings = {**SETTINGS, **({"store": "none"} if count > 1 else {})}
    with tempfile.TemporaryDirectory(prefix="raiden-soak-") as folder:
        try:
            for number in range(1, count + 1):
                peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in nodes]
                nodes.append(Daemon(Path(folder, f"node{number}"), peers=peers, **settings))
            for node in nodes:
                wait_for(lambda node=node: node.json("/-/ready")["peers"] == count - 1, "all are connected")  # type: ignore[misc]
            yield nodes
        finally:
            codes = stop_all(nodes)
        faults = [node.log() for node in nodes if "Traceback" in node.log() or "died" in node.log()]
        if any(codes) or faults:
            raise Failed(f"nodes ended with {codes}: {faults}")


def soak(nodes: Sequence[Daemon], seconds: float, seed: int) -> Result:
    sampler, shared = Sampler(nodes), Soak(nodes, seed)
    pids = list(sampler.processes.values())
    sampler.look()  # the first one makes what answers it
    time.sleep(SETTLED)
    before = counts(sampler.look())
    threads = [
        threading.Thread(target=shared.live, args=(kind, life), name=kind)
        for kind, (count, life) in LIVES.items()
        for _ in range(count)
    ]
    began, load, served = time.monotonic(), time.process_time(), cpu_of(*pids)
    every = min(EVERY, seconds / SAMPLES)
    try:
        for thread in threads:
            thread.start()
        while (at := time.monotonic() - began) < seconds:
            sampler.sample(at)
            lives = sum(shared.lived.values())
            print(f"\r{at:5.0f} of {seconds:.0f} s, {lives} lives ", end="", file=sys.stderr, flush=True)
            time.sleep(every)
    finally:
        shared.over.set()
        for thread in threads:
            if thread.ident:
                thread.join()
        shared.context.destroy(linger=0)
    elapsed = time.monotonic() - began
    cpu = {"load": (time.process_time() - load) / elapsed, "nodes": (cpu_of(*pids) - served) / elapsed}
    trends = {
        name: trend([(at / 3600, value) for at, value in sampler.samples[name, "memory"] if at >= seconds / 2])
        for name in sampler.processes
    }
    bound = max(BOUND, ARENA / (seconds / 2 / 3600))
    left = left_behind(sampler, before)
    return Result(elapsed, dict(shared.lived), trends, bound, left, shared.failures, cpu, dict(sampler.samples))


def print_result(result: Result) -> None:
    lives = sum(result.lived.values())
    each = result.bound * MB / (lives / result.seconds * 3600)
    print(f"\n{result.seconds:.0f} s, {lives} lives: {', '.join(f'{n} {kind}' for kind, n in result.lived.items())}.")
    print(f"CPU of the nodes {result.cpu['nodes']:.0%} of a core, of the load {result.cpu['load']:.0%}.")
    print(f"The bound is {result.bound:.1f} MB/hour: {each:.0f} bytes a life; the smallest container has {SMALLEST}.\n")
    rows = []
    for name, found in result.trends.items():
        memory = [value for _, value in result.samples[name, "memory"]]
        row = [name, f"{memory[0]:.1f}", f"{memory[len(memory) // 2]:.1f}", f"{memory[-1]:.1f}"]
        row += [
            f"{found.slope:+.1f} ({found.low:+.1f} .. {found.high:+.1f})",
            "**grows**" if name in result.grows else "",
        ]
        rows.append(row)
    print_rows(("", "memory at first, MB", "at half-time", "at last", "slope and 95 %, MB/hour", ""), rows)
    print()
    rows = []
    for name in (*result.trends, "all"):
        of_it = {what: result.samples[name, what] for what in COUNTS if (name, what) in result.samples}
        for what, values in of_it.items():
            numbers = [value for _, value in values]
            more = result.left.get((name, what), 0.0)
            row = [f"{name}: {what}", f"{numbers[0]:.0f}", f"{max(numbers):.0f}"]
            rows.append([*row, f"**{more:+.0f}**" if more else "none"])
    print_rows(("", "at first", "at most", "left behind"), rows)
    for failure in result.failures[:10]:
        print(f"\n{failure}")
    print(f"\n{'Nothing is left behind, and nothing grows.' if result.passed else 'FAILED'}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Let nodes live with clients that come and go.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1, help="1 has history in SQLite, 2 have none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    arguments = parser.parse_args()
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with running(arguments.nodes) as nodes:
            result = soak(nodes, arguments.minutes * 60, arguments.seed)
    except (Failed, AssertionError, OSError) as error:
        print(f"\n{error or type(error).__name__}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}; {arguments.nodes} nodes, {WORKERS} workers each"
    )
    print_result(result)
    if arguments.json:
        named = {"samples", "left"}
        tables = {name: {": ".join(key): value for key, value in getattr(result, name).items()} for name in named}
        rest = {name: value for name, value in result._asdict().items() if name not in named}
        write_json(arguments.json, seed=arguments.seed, nodes=arguments.nodes, passed=result.passed, **rest, **tables)
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
