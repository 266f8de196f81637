"""Clients that try to take more of a node than their share: each `Attack` sends what one bound is about.

One runs in a process of its own (``python -m benchmarks.attackers NAME SECONDS``, and the `Target` as JSON on standard
input): it gets ready, says so, waits for a line, strikes for so many seconds, and prints what it has done.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import socket
import sys
import threading
import time
import zlib
from encodings.aliases import aliases
from functools import partial

import zmq

from benchmarks.attack import (
    CONTINUED,
    JSON_TYPE,
    MIB,
    PATIENCE,
    SUBSCRIPTIONS,
    Attack,
    Target,
    command,
    frame,
    long_names,
    post,
    request,
    to_many,
)
from benchmarks.bystanders import get


class Burning(Attack):
    """Nothing is sent: this process only takes a core, as all others do. What its bystanders see is the machine's."""

    label = "nothing, a core is taken"

    def strike(self, until: float) -> None:
        while time.monotonic() < until:
            sum(range(10_000))


class UnreadPages(Attack):
    """Pages of history that nobody reads: 40 sockets ask for 128 pages of 1 MB each, and 500 more requests for one
    each; when all have been sent they leave, and come again. What is bounded: pages under way between worker and
    history, one page at a time for each socket, and what is kept for a client that does not take it."""

    label = "40 x 128 + 500 pages of 1 MB, unread"
    channel = "attack.past"
    # A page of each socket, 64 KiB and a message of each request, and the pages under way.
    bounds = {"history": 8, "worker 0": 40 * 1.05 + 500 * 0.078 + 4}

    def prepare(self) -> None:
        body = b'"' + b"." * 10_000 + b'"'
        self.ask(time.monotonic() + PATIENCE, [post(f"/{self.channel}", body, "application/json")] * 100)

    def strike(self, until: float) -> None:
        pages = b"".join(command(id=n, cmd="history", channel=self.channel, limit=100) for n in range(128))
        while time.monotonic() < until:
            socks = []
            for _ in range(40):
                socks.append(self.websocket(buffer=4096))
                socks[-1].sendall(pages)
                self.done["commands"] += 128
            for _ in range(500):
                socks.append(self.connect(buffer=4096))
                socks[-1].sendall(get(f"/{self.channel}?_last=100"))
                self.done["requests"] += 1
            time.sleep(min(3.0, max(0.0, until - time.monotonic())))
            for sock in socks:
                sock.close()


class LeavingPatterns(Attack):
    """Patterns that leave at once, of 127 lengths and one that matches all, when they have brought 100,000 channels
    with history; made again as often as there is time. What is bounded: the look for the channels that nobody wants
    any more, in slices."""

    label = "128 patterns leave 100,000 channels"
    bounds = {"worker 0": 60, "history": 8}

    def prepare(self) -> None:
        self._round = itertools.count()
        self._follow()
        self._fill(time.monotonic() + 60)

    def _follow(self) -> None:
        self._prefix = f"attack.{next(self._round)}." + "x" * 170
        self._sock = self.websocket()
        for size in range(SUBSCRIPTIONS - 1):
            self._sock.sendall(command(id=size, cmd="subscribe", channel=self._prefix[: 20 + size] + "*"))
        self._sock.sendall(command(id=999, cmd="subscribe", channel="attack.*"))
        told = b""
        while b'"id":999' not in told:
            told = told[-20:] + self._sock.recv(65536)
        # From now on nothing is read: what is not taken ends this socket only when max_outbox is reached.
        threading.Thread(target=self._read, args=(self._sock,), daemon=True).start()

    def _read(self, sock: socket.socket) -> None:
        try:
            while sock.recv(MIB):
                pass
        except OSError:
            pass

    def _fill(self, until: float) -> None:
        self.ask(until, to_many(f"{self._prefix}{number:06d}" for number in range(100_000)))

    def strike(self, until: float) -> None:
        while time.monotonic() < until:
            self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
            self.done["leaving"] += 1
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
            self._follow()
            self._fill(until)


class Codecs(Attack):
    """Texts of 1 MiB in all codecs of Python by all their names, among them ones that take minutes, and names of 15 KB
    that no codec has. What is bounded: the charsets, by a table; what is remembered of content types."""

    label = "texts in all codecs, unknown ones of 15 KB"
    bounds = {"worker 0": 2}

    def strike(self, until: float) -> None:
        names = sorted({*aliases, *aliases.values()}, key=lambda name: name != "punycode")
        body = b"a" * (MIB - 4096)
        known = [post("/attack", body, f"text/plain; charset={name}") for name in names]
        unknown = (post("/attack", b"a", f"text/plain; charset={n:x}{'y' * 15_000}") for n in itertools.count())
        short = (post("/attack", b"a", f"text/plain; charset={n:x}{'y' * 900}") for n in itertools.count())
        self.at_once(
            [
                lambda: self.ask(until, itertools.cycle(known)),
                lambda: self.ask(until, unknown),
                lambda: self.ask(until, short),
            ]
        )


class Listings(Attack):
    """The pages of channels, asked for at another node by 8 clients as fast as they are answered, when the first node
    has 100,000 channels. What is bounded: one question of a kind under way, and a page's names."""

    label = "/-/channels of 100,000 names, 8 clients"
    settings = {"store": "none", "keepalive": 60.0}
    nodes = 2
    bounds = {"worker 0": 5, "backbone": 5, "2: worker 0": 5, "2: backbone": 5}

    def prepare(self) -> None:
        names = iter(f"attack.{number:06d}" for number in range(99_900))
        self._socks = []
        while some := list(itertools.islice(names, SUBSCRIPTIONS)):
            sock = self.websocket()
            sock.sendall(b"".join(command(id=name, cmd="subscribe", channel=name) for name in some))
            told = b""
            while told.count(b'"id"') < len(some):
                told += sock.recv(65536)
            if b"error" in told:
                raise ConnectionError(told[:200].decode())
            self._socks.append(sock)

    def strike(self, until: float) -> None:
        def work(path: str) -> None:
            self.ask(until, itertools.repeat(("GET", path, b"", {})), 1)

        paths = ("/-/channels/hello", "/-/channels?_prefix=attack&_limit=1000")
        self.at_once([partial(work, path) for path in paths * 4])


class Names(Attack):
    """Subscriptions to names of 255 bytes with little in common, until no more are taken, and on; between two nodes.
    What is bounded: the bytes of the names of a worker, which the backbones of both keep many times."""

    label = "subscriptions to names of 255 bytes"
    settings = {"store": "none"}
    nodes = 2
    bounds = {"worker 0": 160, "backbone": 500, "2: backbone": 700, "2: worker 0": 5}

    def strike(self, until: float) -> None:
        names = iter(long_names("attack.", 60_000))
        socks = []
        while time.monotonic() < until and (some := list(itertools.islice(names, SUBSCRIPTIONS))):
            sock = self.websocket()
            socks.append(sock)
            sock.sendall(
                b"".join(command(id=number, cmd="subscribe", channel=name) for number, name in enumerate(some))
            )
            told = b""
            while told.count(b'"id"') < len(some):
                told += sock.recv(65536)
            self.done["503"] += told.count(b'"code":503')
            self.done["subscribed"] += len(some) - told.count(b'"error"')
        while time.monotonic() < until:
            time.sleep(0.1)


class FullStore(Attack):
    """New channels, durable subscriptions and sessions, as fast as they are taken, in a file of 32 MB. What is bounded:
    the shares of `max_data` that names, durables and sessions may take, so that the rest is for messages; and what
    waits for the history."""

    label = "names, durables, sessions fill 32 MB"
    settings = {"max_data": 32_000_000, "channels": {"*": {"history_ttl": 1}}}
    bounds = {"worker 0": 67, "history": 8}

    def strike(self, until: float) -> None:
        def sessions() -> None:
            names = long_names("attack.session", SUBSCRIPTIONS, 100)
            filters = {"k": "v" * 1500}
            while time.monotonic() < until:
                sock = self.websocket()
                sock.sendall(command(id=0, cmd="session"))
                sock.sendall(b"".join(command(id=1, cmd="subscribe", channel=name, filters=filters) for name in names))
                told = b""
                while told.count(b'"id"') <= len(names):
                    told += sock.recv(65536)
                self.done["sessions"] += 1
                sock.close()

        def durables() -> None:
            paths = (f"/attack.jobs?_wait=1&_durable=d{n}{'d' * 50}" for n in itertools.count())
            self.ask(until, (("GET", path, b"", {}) for path in paths))

        self.at_once([lambda: self.ask(until, to_many(long_names("attack.", 200_000))), durables, sessions])


class Connecting(Attack):
    """More connections than the node has descriptors for, made and cut off as fast as possible, when its limit is 200.
    What is bounded: the descriptors that clients may have; the node's own are kept."""

    label = "connections, 200 descriptors"
    descriptors = 200
    bounds = {"worker 0": 2}

    def strike(self, until: float) -> None:
        while time.monotonic() < until:
            socks = []
            for _ in range(400):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", self.target.ports[0]))
                socks.append(sock)
            self.done["connections"] += len(socks)
            time.sleep(0.05)
            for sock in socks:
                sock.close()


class Storm(Attack):
    """Connections that are made and cut off at once, as fast as possible. What is bounded: how many are accepted in a
    turn."""

    label = "connections, made and cut off"
    bounds = {"worker 0": 5}

    def strike(self, until: float) -> None:
        while time.monotonic() < until:
            socks = []
            for _ in range(1000):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", self.target.ports[0]))
                socks.append(sock)
            self.done["connections"] += len(socks)
            time.sleep(0.01)
            for sock in socks:
                sock.close()


class SlowHeads(Attack):
    """Heads that do not end: 8,000 connections, each with 15 KB of fields, a few bytes at a time. What is bounded: what
    has not come whole, of all clients together."""

    label = "8,000 unfinished heads"
    # 15 KB and 160 bytes more for each field.
    bounds = {"worker 0": 8000 * 0.0295}

    def strike(self, until: float) -> None:
        head = b"GET /attack HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(
            b"X-%d: %b\r\n" % (n, b"v" * 150) for n in range(90)
        )
        self.feed(until, self.connect, [head] * 8000, 4096)


class LateCalls(Attack):
    """Publishes of 100 KB by 700 clients while the history process stands still for 9 seconds. What is bounded: what
    waits for the history, in bytes and by its deadline."""

    label = "publishes, the history stands still"
    history_stops = 9.0
    # What waits and a copy of it on its way, and a request of each client.
    bounds = {"worker 0": 2 * 67 + 700 * 0.1, "history": 67}

    def strike(self, until: float) -> None:
        body = b'"' + b"." * 100_000 + b'"'
        self.at_once([lambda: self.ask(until, itertools.repeat(post("/attack", body, "application/json")))] * 700)


class Pipelining(Attack):
    """Requests that follow each other without a wait, behind a long-poll that keeps the first one waiting: 3,000 of
    them on each of 1,000 connections. What is bounded: requests of a connection that wait, as bytes."""

    label = "1,000 x 3,000 pipelined requests"
    bounds = {"worker 0": 1000 * 0.082}

    def strike(self, until: float) -> None:
        waiting = get("/attack?_wait=60") + get("/-/health") * 3000
        self.feed(until, self.connect, [waiting] * 1000, 65536)


class TinyChunks(Attack):
    """Bodies that do not end, in chunks of two bytes: 300 of 1 MiB. What is bounded: what has not come whole, of all
    clients together, and that a body takes no more than its bytes."""

    label = "300 unfinished bodies, chunks of 2 bytes"
    bounds = {"worker 0": 268}

    def strike(self, until: float) -> None:
        head = f"POST /attack HTTP/1.1\r\nHost: 127.0.0.1\r\n{JSON_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        self.feed(until, self.connect, [head + b"2\r\n11\r\n" * (MIB // 2 - 1)] * 300, 65536)


class UnfinishedBodies(Attack):
    """Bodies that do not end: 400 of 1 MiB. What is bounded: what has not come whole, of all clients together."""

    label = "400 unfinished bodies of 1 MiB"
    bounds = {"worker 0": 268}

    def strike(self, until: float) -> None:
        body = request("POST", "/attack", b"1" * MIB, JSON_TYPE)[:-1]
        self.feed(until, self.connect, [body] * 400, 65536)


class UnfinishedFrames(Attack):
    """WebSocket messages that do not end: 400 of 1 MiB, half of them in fragments of 100 bytes. What is bounded: what
    has not come whole, of all clients together."""

    label = "400 unfinished WebSocket messages"
    bounds = {"worker 0": 268}

    def strike(self, until: float) -> None:
        whole = frame(b"1" * MIB)[:-1]
        part = b"1" * 100
        parts = frame(part, last=False) + frame(part, CONTINUED, last=False) * (MIB // 100 - 10)
        self.feed(until, lambda: self.websocket("/attack"), [whole, parts] * 200, 65536)


class UnfinishedZmtp(Attack):
    """ZeroMQ messages that do not end: 400 of 1 MiB, at the PUSH door. What is bounded: what has not come whole, of all
    clients together."""

    label = "400 unfinished ZeroMQ messages"
    settings = {"zmq_sub_port": 0, "zmq_push_port": 0, "zmq_req_port": 0}
    bounds = {"worker 0": 5, "zeromq": 268}

    def strike(self, until: float) -> None:
        host, _, port = self.target.doors["PUSH"].removeprefix("tcp://").rpartition(":")
        # ZMTP 3.0 (RFC 23): the greeting, READY, a frame with more to come, and a long one without its last byte.
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
        ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
        data = greeting + b"\x04" + bytes((len(ready),)) + ready + b"\x01\x06attack"
        data += b"\x02" + MIB.to_bytes(8, "big") + b"1" * (MIB - 1)
        self.feed(until, lambda: socket.create_connection((host, int(port)), PATIENCE), [data] * 400, 65536)


class TinyBatches(Attack):
    """Batches of messages of one byte, 4 at a time: 1,000, which is what one may have, and 1 MiB of them, which is
    refused. What is bounded: the messages of a batch."""

    label = "batches of 1,000 messages of 1 byte"
    # 385 bytes for each message of 4 batches, in both, and as much again on its way.
    bounds = {"worker 0": 4 * 0.4 * 2, "history": 4 * 0.4 * 2}

    def strike(self, until: float) -> None:
        batch = post("/attack", b"1\n" * 1000, "application/x-ndjson")
        large = post("/attack", b"1\n" * (MIB // 2), "application/x-ndjson")
        self.at_once([lambda: self.ask(until, itertools.cycle([batch, large]))] * 4)


class DeepJson(Attack):
    """JSON that is hard to read, 1 MiB of each: nested as deep as it may be and deeper, many members, long digits,
    escapes; by POST, to many channels, and as commands. What is bounded: the depth, and what a check takes."""

    label = "JSON of 1 MiB: depth, members, digits"
    bounds = {"worker 0": 20, "history": 8}

    def strike(self, until: float) -> None:
        room = MIB - 4096
        deep = b"[" * 511 + b"]" * 511
        bodies = [
            b"[" + b",".join([deep] * (room // 1024)) + b"]",
            b"[" + b",".join([deep] * (room // 1024)) + b"x",
            b"[" + b"[]," * (room // 3 - 1) + b"0]",
            b"[" * room,
            b"[" + b",".join([b"[" * 7 + b"]" * 7] * (room // 15 - 1)) + b"]",
            b"9" * room,
            b"[" + b"1e999," * (room // 6 - 1) + b"1]",
            b'{"\\ud800":"\\ud800",' + b",".join(b'"%x":1' % n for n in range(90_000)) + b"}",
        ]
        posts = [post("/attack", body, "application/json") for body in bodies]
        posts += [
            post("/-/publish", b'{"channels":["attack"],"data":%b}' % body, "application/json") for body in bodies
        ]
        posts += [post("/-/publish", body, "application/json") for body in bodies]

        def commands() -> None:
            while time.monotonic() < until:
                sock = self.websocket()
                for body in bodies:
                    for text in (b'{"id":1,"cmd":"publish","channel":"attack","data":%b}' % body, body):
                        sock.sendall(frame(text))
                        sock.recv(65536)
                        self.done["commands"] += 1
                sock.close()

        self.at_once([lambda: self.ask(until, itertools.cycle(posts)), commands])


class Forms(Attack):
    """Forms of 1,000 fields, of 1 MiB of escapes, and of more fields than one may have. What is bounded: the fields."""

    label = "forms of 1 MiB of escapes"
    bounds = {"worker 0": 16, "history": 8}

    def strike(self, until: float) -> None:
        escapes = b"&".join(b"a%d=%b" % (n, b"%62" * 340) for n in range(1000))
        alike = b"&".join([b"a="] * 1000)
        many = b"&".join(b"%x=" % n for n in range(130_000))
        kind = "application/x-www-form-urlencoded"
        posts = [post("/attack", body, kind) for body in (escapes, alike, many)]
        self.at_once([lambda: self.ask(until, itertools.cycle(posts))] * 2)


class BadPush(Attack):
    """Messages by PUSH that are no messages, as fast as they are taken: charsets with NUL, unknown ones, JSON that is
    none, names that are none. What is bounded: lines of the log; a connection's unread messages."""

    label = "bad messages by PUSH"
    settings = {"zmq_sub_port": 0, "zmq_push_port": 0, "zmq_req_port": 0}
    bounds = {"zeromq": 8, "worker 0": 5, "history": 5}

    def strike(self, until: float) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sock = context.socket(zmq.PUSH)
        sock.linger = 0
        sock.sndtimeo = 100
        sock.connect(self.target.doors["PUSH"])
        bad = [
            [b"attack", b"text", b"text/plain; charset=a\0b"],
            [b"attack", b"[" * 600, b"application/json"],
            [b"attack", b"text", b"text/plain; charset=" + b"c" * 4000],
            [b"-/attack", b"1"],
            [b"attack", b"\xff", b"text/plain"],
        ]
        for parts in itertools.cycle(bad):
            if time.monotonic() >= until:
                break
            try:
                sock.send_multipart(parts)
                self.done["messages"] += 1
            except zmq.Again:
                self.done["held back"] += 1
        context.destroy(linger=0)


class BadPeers(Attack):
    """Strangers at the backbone's port: connections with garbage, and SUB sockets that ask for nothing that is. What is
    bounded: a handshake's bytes, addresses that are tried, reasons that are logged."""

    label = "garbage at the backbone's port"
    bounds = {"backbone": 8, "worker 0": 5}

    def strike(self, until: float) -> None:
        host, _, port = self.target.backbone.rpartition(":")
        chance = random.Random(1)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        while time.monotonic() < until:
            for _ in range(20):
                with socket.socket() as sock:
                    sock.settimeout(1.0)
                    try:
                        sock.connect((host, int(port)))
                        sock.sendall(chance.randbytes(chance.randint(1, 4096)))
                    except OSError:
                        self.done["cut off"] += 1
                self.done["garbage"] += 1
            sub = context.socket(zmq.SUB)
            sub.linger = 0
            sub.connect(f"tcp://{host}:{port}")
            for _ in range(10):
                sub.subscribe(b"\xff" + chance.randbytes(100))
            time.sleep(0.05)
            sub.close()
            self.done["subscribers"] += 1
        context.destroy(linger=0)


class ManyFilters(Attack):
    """Streams with a filter each, 4,000 on one channel, while messages come that some of them want, and some of 40,000
    members. What is bounded: values and bytes of a subscription's filters; a message's fields are looked up once."""

    label = "4,000 streams with filters, large objects"
    settings = {"channels": {"*": {"history_size": 0}, "bystanders.kept": {}}}
    bounds = {"worker 0": 16}

    def prepare(self) -> None:
        self._socks = []
        for number in range(4000):
            values = "&".join(f"key{number % 50}={number}.{value}" for value in range(40))
            sock = self.connect()
            sock.sendall(get(f"/attack?{values}"))
            self._socks.append(sock)
        for sock in self._socks:
            if b" 200 " not in sock.recv(100):
                raise ConnectionError("a stream was refused")

    def strike(self, until: float) -> None:
        small = [json.dumps({f"key{n % 50}": f"{n}.1", "n": n}).encode() for n in range(1000)]
        large = json.dumps({f"k{n}": n for n in range(60_000)}).encode()[: MIB - 4096]
        large = large[: large.rindex(b",")] + b"}"
        posts = [post("/attack", body, "application/json") for body in small]
        self.at_once(
            [
                lambda: self.ask(until, itertools.cycle(posts)),
                lambda: self.ask(until, itertools.repeat(post("/attack", large, "application/json"))),
            ]
        )


class ManyConsumers(Attack):
    """Consumers of durable subscriptions, as many as a worker takes, on one channel with a message a second. What is
    bounded: the consumers; how often those without messages ask the history."""

    label = "2,000 consumers of durables"
    bounds = {"worker 0": 40, "history": 8}

    def strike(self, until: float) -> None:
        socks = []
        for number in range(17):
            sock = self.websocket()
            sock.sendall(
                b"".join(
                    command(id=n, cmd="subscribe", channel="attack", durable=f"{number}.{n}", ack=True)
                    for n in range(SUBSCRIPTIONS)
                )
            )
            self.done["consumers"] += SUBSCRIPTIONS
            socks.append(sock)
        while time.monotonic() < until:
            self.ask(until, [post("/attack", b"1", "application/json")])
            time.sleep(1.0)


class SlowReaders(Attack):
    """Subscribers that read nothing while messages of 64 KiB come as fast as they are taken: 200, who come again when
    they are cut off. What is bounded: a client's unsent bytes, `max_outbox`."""

    label = "200 subscribers that don't read"
    bounds = {"worker 0": 200 * 1.1, "history": 8}

    def strike(self, until: float) -> None:
        def readers() -> None:
            while time.monotonic() < until:
                socks = [self.connect(buffer=4096) for _ in range(200)]
                for sock in socks:
                    sock.sendall(get("/attack"))
                self.done["streams"] += len(socks)
                time.sleep(2.0)
                for sock in socks:
                    sock.close()

        body = b'"' + b"." * 65_000 + b'"'
        self.at_once([readers, lambda: self.ask(until, itertools.repeat(post("/attack", body, "application/json")))])


class DeflateBombs(Attack):
    """WebSocket messages of 200 KB that inflate to 200 MB, 8 sockets, again and again. What is bounded: a message,
    counted as it is inflated."""

    label = "WebSocket messages that inflate 1,000 times"
    # A message of each, inflated, and what it is inflated from.
    bounds = {"worker 0": 8 * 1.3}

    def strike(self, until: float) -> None:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = b"".join(deflate.compress(b"1" * MIB) for _ in range(200)) + deflate.flush(zlib.Z_SYNC_FLUSH)
        data = frame(bomb[:-4], compressed=True)

        def work() -> None:
            while time.monotonic() < until:
                sock = self.websocket("/attack", "Sec-WebSocket-Extensions: permessage-deflate")
                try:
                    sock.sendall(data)
                    while sock.recv(4096):
                        pass
                except OSError:
                    self.done["cut off"] += 1
                sock.close()
                self.done["messages"] += 1

        self.at_once([work] * 8)


ATTACKS: dict[str, type[Attack]] = {
    "nothing": Burning,
    "pages": UnreadPages,
    "patterns": LeavingPatterns,
    "codecs": Codecs,
    "listings": Listings,
    "names": Names,
    "store": FullStore,
    "descriptors": Connecting,
    "storm": Storm,
    "heads": SlowHeads,
    "late": LateCalls,
    "pipelining": Pipelining,
    "chunks": TinyChunks,
    "bodies": UnfinishedBodies,
    "frames": UnfinishedFrames,
    "zmtp": UnfinishedZmtp,
    "batches": TinyBatches,
    "json": DeepJson,
    "forms": Forms,
    "push": BadPush,
    "peers": BadPeers,
    "filters": ManyFilters,
    "consumers": ManyConsumers,
    "readers": SlowReaders,
    "bombs": DeflateBombs,
}


def main() -> int:
    name, seconds = sys.argv[1], float(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    attack = ATTACKS[name](Target(**json.loads(sys.stdin.readline())))
    attack.prepare()
    print("ready", flush=True)
    sys.stdin.readline()
    attack.done.clear()
    attack.strike(time.monotonic() + seconds)
    print(json.dumps({"done": attack.done, "cpu": time.process_time()}), flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads may wait for what never comes
