"""Two servers in one process get the same bytes: one remembers heads, the other none. Their answers must be equal.

    python -m tests.differential --requests 1000000 --seed 1

Each server is a gateway with its parser, its plans, its router and real sockets, and in half of the runs clients need
tokens; what clients send are random mixes of
few heads, so that most come again: targets, bodies, several connections, requests cut over reads and read while others
are under way. What is compared are the bytes that each client gets, but for the date, and each message that was
published, with its channel.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import logging
import random
import re
import socket
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import jwt

from raiden import gateway
from raiden.access.permit import OPEN, Permits
from raiden.access.policy import Policy
from raiden.access.tokens import Key, Tokens
from raiden.backbone.addresses import Addresses
from raiden.backend import Backend
from raiden.connections.connection import Connection
from raiden.connections.states import OPENING, SERVING
from raiden.delivery.table import Subscription
from raiden.gateway import Gateway
from raiden.model import encoding
from raiden.model.message import Kind, Message
from raiden.protocols.heads import Heads, Repeated
from raiden.protocols.limits import HttpLimits
from raiden.router import Router
from raiden.runtime.stats import Stats
from tests.states import state

# Small, so that some of what is sent goes over them.
LIMITS = HttpLimits(max_url=60, max_header=400, max_headers=12, max_body=300, max_ws_message=200)
ALLOWED = ["http://friend"]
# How many heads are remembered: also so few that they are forgotten all the time.
SIZES = [1000, 1000, 5, 2]
CONNECTIONS = 4
REQUESTS_OF_A_POOL = 1000

TARGETS = [
    "/a", "/a", "/b", "/b", "/c", "/%62", "/%61", "//a", "/a*", "/", "/a?x=1", "/a?_wait=9", "/b?_wait=9",
    "/a?_wait=9&n=1", "/-/publish", "/-/subscribe?channel=a&channel=b", "/-/subscribe?channel=a&_wait=9",
    "/-/websocket", "/-/health", "/a?_since=earliest&_wait=9", "/a?_wrap=1", "/a#b", "*", "http://other/a",
    "http://other:80/b?_wait=9", "/\xe4", "/" + "long" * 16,
]  # fmt: skip
BODIES = [
    b"1", b"2", b"33", b'"4"', b'{"n":1}', b"[]", b"{", b"1\n2\n", b"\r\n\r\n", b'"\\r\\n"', b"x=1&y=2", b"n" * 301,
    b'{"channels":["a","c"],"data":5}', b"POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n6", b"7" * 200,
]  # fmt: skip
POLLS = ["/a?_wait=9", "/b?_wait=9", "/-/subscribe?channel=a&_wait=9", "/b?_wait=9&n=1", "/-/health"]
KEYS = ["AAAAAAAAAAAAAAAAAAAAAA==", "dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAB==", "short==", ""]
FIELDS = [
    "Content-Type: application/json", "content-type: application/json; a=b", "Content-Type: application/x-ndjson",
    "Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "Accept: text/event-stream",
    "Accept: application/octet-stream", "Connection: close", "Connection: keep-alive", "Connection: Upgrade",
    "Upgrade: websocket", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Expect: 100-continue",
    "Expect: tea", "Origin: http://h", "Origin: http://friend", "Origin: http://stranger", "Prefer: wait=9",
    "Last-Event-ID: earliest", "Last-Event-ID: x", "Idempotency-Key: k", "X-A: 1", "X-A: 2", "x-a:  3 ", "Host: h",
    "Producer-Seq: 1", "Producer-Seq: 22", "producer-seq: 3", "Producer-Seq: x", "Producer-Seq:  4",
    "Content-Length: 1", "Transfer-Encoding: chunked", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: a, b",
    "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Raiden-Event: e", "Raiden-Event: gap", "Raiden-Tags: {}", "Raiden-Transient: maybe", "Raiden-Except: a",
]  # fmt: skip
# Fields that show a token; most requests of a run that needs tokens have one of them.
SHOWING = [
    "Authorization: Bearer TOKEN", "Authorization: Bearer TOKEN", "authorization: Bearer TOKEN",
    "Authorization: bearer TOKEN", "Authorization: Bearer  TOKEN", "Sec-WebSocket-Protocol: raiden, raiden.token.TOKEN",
    "Sec-WebSocket-Protocol: raiden.token.TOKEN,raiden", "X-A: raiden.token.TOKEN", "Cookie: t=TOKEN",
    "Authorization: Basic TOKEN",
]  # fmt: skip
KEY = "a key of thirty-two bytes, for HS"
TOKENS = [
    jwt.encode(claims, KEY)
    for claims in (
        {"publish": ["*"], "subscribe": ["*"], "manage": ["*"]}, {"publish": ["a", "h/*"], "subscribe": ["p", "*"]},
        {"publish": ["b"], "subscribe": ["a*"]}, {"subscribe": [{"channel": "*", "filters": {"n": "1"}}]},
        {"publish": ["*"], "exp": 1}, {"publish": ["*"], "info": "i" * 60, "subscribe": ["*"]},
    )
] + ["nonsense", "a.b.c", "a~b", "x" * 300, "a,b"]  # fmt: skip
HARMLESS = [
    "X-A: 1", "Connection: keep-alive", "Accept: */*", "Origin: http://h", "Prefer: wait=9", "Upgrade: h2c",
    "Raiden-Event: e", 'Raiden-Tags: {"t": "v"}', "Raiden-Transient: true",
]  # fmt: skip
HOSTS = ["Host: h", "Host: h", "Host: h", "host: h", "Host: H:80", "Host: other", "Host: ", "Host: a b"]
METHODS = ["POST", "POST", "POST", "POST", "GET", "GET", "HEAD", "DELETE", "PUT", "OPTIONS", "CONNECT"]
BEFORE = [b"\r\n", b"\r\n\r\n", b"\n", b"\r"]
FRAMES = [b"\x81\x81\0\0\0\x001", b"\x82\x81\0\0\0\0b", b"\x89\x80\0\0\0\0", b"\x01\x81\0\0\0\0c", b"\x81\0"]
# What of an answer depends on the time, or on chance.
_OTHERS = re.compile(rb"\r\n(Date|Retry-After|Raiden-Connection): [^\r]*")


class Form:
    """A head of which requests are made: all is fixed but the target, the key of a handshake and the body."""

    def __init__(self, chance: random.Random, *, guarded: bool) -> None:
        plain = chance.random() < 0.7  # else mostly refused, which ends the connection
        handshake = chance.random() < 0.15
        self.method = "GET" if handshake else chance.choice(METHODS[: 6 if plain else len(METHODS)])
        self.version = "HTTP/1.1" if plain or chance.random() < 0.8 else "HTTP/1.0"
        self.fields = [chance.choice(HOSTS[: 5 if plain else len(HOSTS)])]
        if self.method == "POST" and chance.random() < 0.8:
            self.fields.append(FIELDS[0])
        if handshake or (not plain and chance.random() < 0.1):
            self.fields += ["Sec-WebSocket-Key: KEY"]
        if handshake:
            self.fields += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        if plain:
            self.fields += chance.choices(HARMLESS, k=chance.choice([0, 0, 1]))
        else:
            self.fields += chance.choices(FIELDS, k=chance.choice([0, 1, 2, 3]))
        sized = self.method in ("POST", "PUT") or (not plain and chance.random() < 0.1)
        self.framing = ("chunked" if not plain and chance.random() < 0.3 else "sized") if sized else "none"
        self.body = chance.choice(BODIES[: 6 if plain else len(BODIES)])
        self.varies = chance.random() < 0.3
        if guarded and chance.random() < 0.9:
            self.fields.append(chance.choice(SHOWING[: 3 if plain else len(SHOWING)]))
            if handshake and chance.random() < 0.5:
                self.fields[-1] = SHOWING[5]
        chance.shuffle(self.fields)
        self.targets = chance.sample(POLLS if self.method == "GET" and plain and not handshake else TARGETS[:6], 2)
        if not plain or chance.random() < 0.1:
            self.targets = chance.sample(TARGETS, 3)
        self.handshake = handshake

    def request(self, chance: random.Random) -> bytes:
        body = chance.choice(BODIES) if self.varies else self.body
        fields = [field.replace("KEY", chance.choice(KEYS[:2] * 4 + KEYS)) for field in self.fields]
        fields = [field.replace("TOKEN", chance.choice(TOKENS[:2] * 4 + TOKENS)) for field in fields]
        if self.framing == "chunked":
            fields.append("Transfer-Encoding: chunked")
            half = len(body) // 2
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
            body += b"0\r\n\r\n"
        elif self.framing == "sized":
            fields.append(f"Content-Length: {len(body)}")
        else:
            body = b"".join(chance.choices(FRAMES, k=chance.randrange(3))) if self.handshake else b""
        target = chance.choice(self.targets)
        if self.method == "GET" and ("_wait" in target or any("wait" in field for field in fields)):
            # Whether a long-poll's answer has one or two of those that are published in one go is not promised.
            target = re.sub("^/$|[ab](?=[?&*]|$)|%6[12]", lambda found: "/p" if found[0] == "/" else "p", target)
        lines = [f"{self.method} {target} {self.version}", *fields, "", ""]
        return "\r\n".join(lines).encode("latin-1") + body


class Ear:
    """Hears all that is published in a router."""

    lasts = True
    own_id = b""

    def __init__(self, router: Router) -> None:
        self.pending: list[bytes] = []
        self.heard: list[bytes] = []
        router.attach(router.subscribe("*", self, self, encoding.line(True, False)))

    def flush(self) -> None:
        self.heard.append(b"".join(self.pending))
        self.pending.clear()

    def ended(self, subscription: Subscription) -> None:
        pass

    def connections(self) -> tuple[()]:
        return ()

    def missed(self, *_: object) -> None:
        pass

    def at_end(self, *_: object) -> None:
        pass


class Client:
    """One connection to a server, and what it got."""

    def __init__(self, server: Server) -> None:
        self._gateway = server.gateway
        self._socket, ours = socket.socketpair()
        self._socket.setblocking(False)
        ours.setblocking(False)
        remote = "127.0.0.1"
        self.connection = Connection(
            ours, remote, self._gateway.door.protocol(remote), "http", max_outbox=1 << 20, stats=self._gateway.stats
        )
        self._ended = False
        self._gateway.door.connections.add(self.connection)
        self._gateway.door._addresses[remote] += 1
        self._gateway.door.opened(self.connection)

    def send(self, data: bytes) -> None:
        if not self.connection.closed:
            self._socket.send(data)
            self._gateway.door.readable(self.connection)
            # While others wait it reads in portions, and is told of the rest by the event loop.
            while not self.connection.closed and (rest := _unread(self.connection.socket)):
                self._gateway.door.readable(self.connection)
                if not self.connection.closed and _unread(self.connection.socket) == rest:
                    break

    def got(self) -> bytes:
        """What has come since the last call; its end is told too."""
        data = b""
        try:
            while not self._ended:
                piece = self._socket.recv(1 << 20)
                data += piece or b"(the end)"
                self._ended = not piece
        except BlockingIOError:
            pass
        return _OTHERS.sub(b"", data)

    @property
    def useful(self) -> bool:
        """It takes requests, and nothing has ended it."""
        return not (self.connection.closed or self.connection.closing) and self.connection.transport == "http"

    def close(self) -> None:
        self._socket.close()
        self._gateway.door.readable(self.connection)
        self._gateway.door.close(self.connection)


def _unread(sock: socket.socket) -> int:
    """How many bytes wait to be received (FIONREAD)."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), "little")


class CountingGateway(Gateway):
    """Counts the requests that were served without being read anew."""

    again = 0

    def serve_again(self, connection: Connection, repeated: Repeated) -> bool:
        served = super().serve_again(connection, repeated)
        self.again += served
        return served


class Server:
    """A gateway that remembers ``heads``, and the router behind it."""

    def __init__(self, folder: Path, heads: Heads, builder: Callable[..., str], *, guarded: bool = False) -> None:
        self.router = Router(Backend(Addresses.within(str(folder), "node"), sole=True), stats=Stats(), max_gather=0.0)
        self.router.backend.hear_roster(state(1, alone=True))  # there is no backbone
        self.router.start()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.gateway = CountingGateway(
            self._listener, self.router, stats=self.router.stats, limits=LIMITS, allowed_origins=ALLOWED,
            channel_builder=builder, heads=heads, permits=_guarded() if guarded else OPEN, token_cookie="t",
        )  # fmt: skip
        self.ear = Ear(self.router)

    def stop(self) -> None:
        for connection in list(self.gateway.door.connections):
            self.gateway.door.close(connection)
        self._listener.close()
        self.router.stop()
        self.router.backend.close()


def _guarded() -> Permits:
    keys = [Key.of({"alg": "HS256", "key": KEY})]
    channels = {"*": {}, "c": {"publish": "anyone"}, "b": {"show_from": True}}
    return Permits(Policy(channels, guarded=True), Tokens(keys))


class Run:
    """Requests of one seed, to two servers. ``done`` counts them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._chance = chance = random.Random(seed)
        builder = chance.choice([gateway.path, gateway.host_path])
        self.size = chance.choice(SIZES)
        guarded = chance.random() < 0.5
        self._servers = [Server(folder, heads, builder, guarded=guarded) for heads in (Heads(self.size), Heads(0))]
        self._pairs = [self._open() for _ in range(CONNECTIONS)]
        self._forms = [Form(chance, guarded=guarded) for _ in range(chance.choice([3, 10, 30]))]
        self.done = 0
        self._sent: list[tuple[int, bytes]] = []

    def _open(self) -> list[Client]:
        return [Client(server) for server in self._servers]

    def stop(self) -> None:
        for pair in self._pairs:
            for client in pair:
                client.close()
        for server in self._servers:
            server.stop()

    def round(self) -> None:
        """Each connection gets a few requests, in pieces; raises AssertionError where what came of them differs."""
        chance, self._sent = self._chance, []
        scripts = [self._script() for _ in self._pairs]
        last = None
        while any(scripts):
            number = chance.choice([number for number, script in enumerate(scripts) if script])
            reads = scripts[number][0]
            if number != last:
                self._settle()  # in which order two connections are served that are ready at once is not promised
            last = number
            for _ in range(chance.randint(1, len(reads))):
                piece = reads.pop(0)
                self._sent.append((number, piece))
                for client in self._pairs[number]:
                    client.send(piece)
                if chance.random() < 0.3:
                    self._settle()
            if not reads:
                self._settle()
                del scripts[number][0]
        self._settle()
        self._compare()
        # Those who wait are answered.
        for channel in ("p", "/p", "h/p", "H/p", "other/p", "a", "h/b"):
            for server in self._servers:
                server.router.publisher.publish_now([_flush(channel)])
        self._settle()
        self._compare()
        for number, pair in enumerate(self._pairs):
            if not pair[0].useful or not pair[1].useful or chance.random() < 0.05:
                for client in pair:
                    client.close()
                self._pairs[number] = self._open()

    def _script(self) -> list[list[bytes]]:
        """What a connection gets, in reads. Between the lists all is done that can be. At most one request of them
        subscribes, with nothing under way, and nothing is published behind it: whether a subscription hears what is
        published while it begins, and in which order two connections publish, is not promised."""
        chance = self._chance
        forms = chance.choices(self._forms, k=chance.choice([1, 1, 2, 3, 5]))
        readers = [number for number, form in enumerate(forms) if form.method == "GET"]
        at = readers[0] if readers else len(forms)
        forms[at + 1 :] = [form for form in forms[at + 1 :] if form.method in ("HEAD", "OPTIONS", "PUT")]
        self.done += len(forms)
        return [self._reads(part) for part in (forms[:at], forms[at:]) if part]

    def _reads(self, forms: list[Form]) -> list[bytes]:
        chance = self._chance
        data, ends = b"", []
        for form in forms:
            if chance.random() < 0.03:
                data += chance.choice(BEFORE)
            data += form.request(chance)
            ends.append(len(data))
        if chance.random() < 0.01:
            at = chance.randrange(len(data))
            data = data[:at] + chance.choice([b"", b"\r", b"\n", b" ", b"0", b"\r\n\r\n"]) + data[at + 1 :]
        cuts = chance.choices(ends, k=chance.choice([0, 1, len(ends), 9]))
        cuts += chance.choices(range(len(data)), k=chance.choice([0, 0, 0, 0, 1, 3]))
        places = [0, *sorted(set(cuts)), len(data)]
        return [data[a:b] for a, b in itertools.pairwise(places) if a < b]

    def _settle(self) -> None:
        """Let the event loop do what there is to do: publish, deliver, answer."""
        connections = [client.connection for pair in self._pairs for client in pair]
        quiet = 0
        for _ in range(1000):
            gevent.sleep(0)
            serving = any([connection.state in (SERVING, OPENING) for connection in connections])
            quiet = 0 if serving or any([server.router.backend.more for server in self._servers]) else quiet + 1
            if quiet > 3:
                break

    def _compare(self) -> None:
        outcomes = [self._outcome(0), self._outcome(1)]
        for what, (knowing, plain) in enumerate(zip(*outcomes, strict=True)):
            assert knowing == plain, (
                f"{'messages' if what == len(self._pairs) else f'connection {what}'}, {self.size} heads\n"
                f"sent: {self._sent}\nwith known heads: {knowing!r}\nwithout: {plain!r}"
            )

    def _outcome(self, number: int) -> list[bytes]:
        """What each client got, and last, what was published."""
        ear = self._servers[number].ear
        heard, ear.heard = b"".join(ear.heard), []
        return [*(pair[number].got() for pair in self._pairs), heard]


def _flush(channel: str) -> Message:
    return Message(channel, Kind.JSON, b'"flush"')


@contextmanager
def run(seed: int) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as folder:
        it = Run(seed, Path(folder))
        try:
            yield it
        finally:
            it.stop()


def compare(requests: int, seed: int, told: Callable[[int, int], None] = lambda *_: None) -> int:
    """Send at least so many requests; raises AssertionError where the two servers differ. Returns how many of them
    were answered by a head that was known."""
    done = known = 0
    while done < requests:
        with run(seed) as it:
            while it.done < REQUESTS_OF_A_POOL and done + it.done < requests:
                try:
                    it.round()
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}: {error}") from None
            done += it.done
            known += it._servers[0].gateway.again
        seed += 1
        told(done, seed)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.disable()
    began = said = time.monotonic()

    def told(done: int, seed: int) -> None:
        nonlocal said
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"{done:,} requests, {done / (said - began):,.0f}/s; next seed {seed}", flush=True)

    known = compare(arguments.requests, arguments.seed, told)
    print(f"{arguments.requests:,} requests, {known:,} of them with a known head: no difference")


if __name__ == "__main__":
    main()
