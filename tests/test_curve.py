"""The server's half of CURVE, against libzmq's client over plain sockets, and against a client here that cheats."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
import zmq
from nacl.bindings import (
    crypto_box,
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_keypair,
    crypto_box_open,
    crypto_box_open_afternm,
    crypto_scalarmult_base,
    randombytes,
)
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from raiden.protocols.curve import COMMAND, MORE, Curve, InvalidHandshake, Refused
from raiden.protocols.zmtp import Zmtp, message

TIMEOUT = 10.0
SIZES = [0, 1, 15, 16, 221, 222, 255, 256, 4096, 65535, 65536, 1 << 20]
PULL, PUB, ROUTER = (b"\x0bSocket-Type\0\0\0%c%b" % (len(kind), kind) for kind in (b"PULL", b"PUB", b"ROUTER"))
LONG, COMMAND_FRAME = 2, 4  # what a frame's first octet says outside of the box

SERVER_SECRET = bytes(range(1, 33))
SERVER_KEY = crypto_scalarmult_base(SERVER_SECRET)
METADATA = b"\4Name\0\0\0\5value"

# Points of a small order: whoever takes one for a key shares a secret that everybody knows.
WEAK_KEYS = [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]


def number(value: int) -> bytes:
    return struct.pack("!Q", value)


def everybody(key: bytes) -> bool:
    return True


def nobody(key: bytes) -> bool:
    return False


class Client:
    """The client's half as RFC 26 has it; each part can be replaced by a wrong one."""

    def __init__(self, server_key: bytes = SERVER_KEY) -> None:
        self.server_key = server_key
        self.public, self.secret = crypto_box_keypair()
        self.short_public, self.short_secret = crypto_box_keypair()
        self.shared = bytes(32)

    def hello(self, *, version: bytes = b"\1\0", padding: bytes = bytes(72), proof: bytes = bytes(64)) -> bytes:
        box = crypto_box(proof, b"CurveZMQHELLO---" + number(1), self.server_key, self.short_secret)
        return b"\5HELLO" + version + padding + self.short_public + number(1) + box

    def welcome(self, welcome: bytes) -> None:
        assert len(welcome) == 168 and welcome.startswith(b"\7WELCOME")
        plain = crypto_box_open(welcome[24:], b"WELCOME-" + welcome[8:24], self.server_key, self.short_secret)
        self.short_server, self.cookie = plain[:32], plain[32:]
        self.shared = crypto_box_beforenm(self.short_server, self.short_secret)

    def initiate(
        self,
        metadata: bytes = b"",
        *,
        public: bytes | None = None,
        secret: bytes | None = None,
        vouched: bytes | None = None,
        cookie: bytes | None = None,
    ) -> bytes:
        vouched = self.short_public + self.server_key if vouched is None else vouched
        nonce = randombytes(16)
        vouch = crypto_box(vouched, b"VOUCH---" + nonce, self.short_server, secret or self.secret)
        plain = (public or self.public) + nonce + vouch + metadata
        box = crypto_box_afternm(plain, b"CurveZMQINITIATE" + number(2), self.shared)
        return b"\x08INITIATE" + (cookie or self.cookie) + number(2) + box

    def ready(self, ready: bytes) -> bytes:
        assert ready.startswith(b"\5READY")
        return crypto_box_open_afternm(ready[14:], b"CurveZMQREADY---" + ready[6:14], self.shared)

    def message(self, nonce: int, plain: bytes) -> bytes:
        box = crypto_box_afternm(plain, b"CurveZMQMESSAGEC" + number(nonce), self.shared)
        return b"\7MESSAGE" + number(nonce) + box

    def open(self, body: bytes) -> bytes:
        assert body.startswith(b"\7MESSAGE")
        return crypto_box_open_afternm(body[16:], b"CurveZMQMESSAGES" + body[8:16], self.shared)


def server(allows: Callable[[bytes], bool] = everybody, metadata: bytes = METADATA) -> Curve:
    return Curve(SERVER_SECRET, metadata, allows)


def welcomed(allows: Callable[[bytes], bool] = everybody) -> tuple[Client, Curve]:
    """Both after WELCOME."""
    client, curve = Client(), server(allows)
    answer, metadata = curve.handshake(client.hello())
    assert metadata is None
    client.welcome(answer)
    return client, curve


def connected() -> tuple[Client, Curve]:
    """Both after READY."""
    client, curve = welcomed()
    client.ready(curve.handshake(client.initiate())[0])
    return client, curve


class Peer:
    """A ZMTP connection with a client of libzmq, blocking, as the server."""

    def __init__(self, sock: socket.socket, curve: Curve, minor: int) -> None:
        sock.settimeout(TIMEOUT)
        self._sock, self._stream, self._curve = sock, sock.makefile("rb"), curve
        signature = b"\xff" + bytes(8) + b"\x7f"
        sock.sendall(signature + bytes((3, minor)) + b"CURVE".ljust(20, b"\0") + b"\1" + bytes(31))
        greeting = self._stream.read(64)
        assert greeting[10] == 3 and greeting[12:32].rstrip(b"\0") == b"CURVE" and greeting[32] == 0

    def close(self) -> None:
        self._stream.close()
        self._sock.close()

    def read(self) -> tuple[int, bytes]:
        """A frame."""
        flags = self._stream.read(1)[0]
        size = struct.unpack("!Q", self._stream.read(8))[0] if flags & LONG else self._stream.read(1)[0]
        body = self._stream.read(size)
        assert len(body) == size
        return flags, body

    def write(self, flags: int, body: bytes) -> None:
        head = struct.pack("!BQ", flags | LONG, len(body)) if len(body) > 255 else bytes((flags, len(body)))
        self._sock.sendall(head + body)

    def handshake(self) -> bytes:
        """Both of the handshake's exchanges; return the client's metadata."""
        for _ in range(2):
            flags, command = self.read()
            assert flags & COMMAND_FRAME
            answer, metadata = self._curve.handshake(command)
            self.write(COMMAND_FRAME, answer)
        assert metadata is not None
        return metadata

    def receive(self) -> list[bytes]:
        frames, flags = [], MORE
        while flags & MORE:
            flags, content = self._curve.open(self.read()[1])
            frames.append(content)
        return frames

    def send(self, *frames: bytes) -> None:
        for frame in frames[:-1]:
            self.write(0, self._curve.seal(MORE, frame))
        self.write(0, self._curve.seal(0, frames[-1]))


class Door:
    """A listener, and sockets of libzmq that connect to it."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.client_public, self.client_secret = zmq.curve_keypair()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._peers: list[Peer] = []

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self._listener.close()
        self.context.destroy(linger=0)

    def client(self, kind: int, *, server_key: bytes = SERVER_KEY) -> zmq.Socket[bytes]:
        """A socket that is set up, but not connected yet."""
        sock = self.context.socket(kind)
        sock.curve_publickey, sock.curve_secretkey = self.client_public, self.client_secret
        sock.curve_serverkey = z85.encode(server_key)
        sock.rcvtimeo = sock.sndtimeo = int(TIMEOUT * 1000)
        return sock

    def accept(self, sock: zmq.Socket[bytes], curve: Curve, *, minor: int = 1) -> Peer:
        sock.connect(f"tcp://127.0.0.1:{self._listener.getsockname()[1]}")
        self._peers.append(Peer(self._listener.accept()[0], curve, minor))
        return self._peers[-1]


@pytest.fixture
def door() -> Iterator[Door]:
    opened = Door()
    yield opened
    opened.close()


def test_libzmq_pushes(door: Door) -> None:
    curve = server(lambda key: key == door.client_public, PULL)
    sock = door.client(zmq.PUSH)
    peer = door.accept(sock, curve)
    assert b"\x0bSocket-Type\0\0\0\4PUSH" in peer.handshake()
    assert curve.key == door.client_public
    for size in SIZES:
        frames = [b"a", randombytes(size), b""]
        sock.send_multipart(frames)
        assert peer.receive() == frames


@pytest.mark.parametrize("minor", [0, 1])
def test_libzmq_subscribes(door: Door, minor: int) -> None:
    curve = server(metadata=PUB)
    sock = door.client(zmq.SUB)
    sock.subscribe(b"news")
    peer = door.accept(sock, curve, minor=minor)
    peer.handshake()
    flags, subscription = curve.open(peer.read()[1])
    assert (flags, subscription) == ((COMMAND, b"\x09SUBSCRIBEnews") if minor else (0, b"\1news"))
    for size in SIZES:
        frames = [b"news.de", randombytes(size), b""]
        peer.send(*frames)
        assert sock.recv_multipart() == frames


def test_libzmq_deals(door: Door) -> None:
    sock = door.client(zmq.DEALER)
    peer = door.accept(sock, server(metadata=ROUTER))
    peer.handshake()
    for turn, size in enumerate(SIZES * 3):
        frames = [b"", b"%d" % turn, randombytes(size)]
        sock.send_multipart(frames)
        assert peer.receive() == frames
        peer.send(*frames, frames[-1])
        assert sock.recv_multipart() == [*frames, frames[-1]]
    for turn in range(1000):  # a few nonces at once
        sock.send(b"%d" % turn)
    for turn in range(1000):
        assert peer.receive() == [b"%d" % turn]


def test_libzmq_hears_that_it_is_refused(door: Door) -> None:
    sock = door.client(zmq.DEALER)
    monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    monitor.rcvtimeo = int(TIMEOUT * 1000)
    curve = server(nobody)
    peer = door.accept(sock, curve)
    peer.write(COMMAND_FRAME, curve.handshake(peer.read()[1])[0])
    with pytest.raises(Refused) as refused:
        curve.handshake(peer.read()[1])
    assert door.client_public.decode() in str(refused.value)
    assert curve.key == b""
    peer.write(COMMAND_FRAME, b"\5ERROR\x03400")
    event = recv_monitor_message(monitor)
    assert event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH and event["value"] == 400
    sock.disable_monitor()
    monitor.close()


def test_libzmq_expects_another_server(door: Door) -> None:
    curve = server()
    peer = door.accept(door.client(zmq.PUSH, server_key=crypto_box_keypair()[0]), curve)
    with pytest.raises(InvalidHandshake, match="another key"):
        curve.handshake(peer.read()[1])


def test_the_client_of_these_tests_gets_in() -> None:
    client, curve = welcomed()
    answer, metadata = curve.handshake(client.initiate(b"what it says"))
    assert metadata == b"what it says" and client.ready(answer) == METADATA
    assert curve.key == z85.encode(client.public)
    assert curve.open(client.message(3, b"\1content")) == (MORE, b"content")
    assert client.open(curve.seal(MORE, b"content")) == b"\1content"


def test_keys_are_told_as_libzmq_tells_them() -> None:
    for _ in range(100):  # all of the 85 digits
        client, curve = welcomed()
        curve.handshake(client.initiate())
        assert curve.key == z85.encode(client.public)


def test_no_two_are_alike() -> None:
    """What is random is made anew for each connection."""
    client = Client()
    first, second = (server().handshake(client.hello())[0] for _ in range(2))
    assert first[8:24] != second[8:24]
    client.welcome(first)
    cookie, short_server = client.cookie, client.short_server
    client.welcome(second)
    assert cookie[:16] != client.cookie[:16] and short_server != client.short_server


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bits_of_hello(bit: int) -> None:
    hello = Client().hello()
    for position in range(len(hello)):
        if (position, bit) != (111, 7):  # see below
            with pytest.raises(InvalidHandshake):
                server().handshake(flipped(hello, position, bit))


def test_the_bit_that_is_none() -> None:
    """The last bit of a public key is not looked at (RFC 7748): HELLO opens, but the vouch is for another key."""
    client, curve = Client(), server()
    client.welcome(curve.handshake(flipped(client.hello(), 111, 7))[0])
    with pytest.raises(InvalidHandshake, match="vouches"):
        curve.handshake(client.initiate())


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bits_of_initiate(bit: int) -> None:
    client, _ = welcomed()
    for position in range(len(client.initiate(b"metadata"))):
        client, curve = welcomed()
        with pytest.raises(InvalidHandshake):
            curve.handshake(flipped(client.initiate(b"metadata"), position, bit))


def test_truncated_and_extended() -> None:
    hello = Client().hello()
    for command in [*(hello[:size] for size in range(len(hello))), hello + b"\0"]:
        with pytest.raises(InvalidHandshake, match="bytes, not 200" if len(command) >= 6 else "expected"):
            server().handshake(command)
    for size in range(len(welcomed()[0].initiate(b"metadata"))):
        client, curve = welcomed()
        with pytest.raises(InvalidHandshake, match="expected" if size < 9 else "at least" if size < 257 else "opened"):
            curve.handshake(client.initiate(b"metadata")[:size])
    client, curve = welcomed()
    with pytest.raises(InvalidHandshake):
        curve.handshake(client.initiate() + b"\0")
    client, curve = connected()
    message = client.message(3, b"\0content")
    for size in range(len(message)):
        with pytest.raises(InvalidHandshake):
            curve.open(message[:size])
    assert curve.open(message) == (0, b"content")  # what did not open has used up no nonce


def test_wrong_hello() -> None:
    client = Client()
    for hello in (client.hello(version=b"\2\0"), client.hello(version=b"\1\1"), client.hello(padding=b"\1" * 72)):
        with pytest.raises(InvalidHandshake, match="version"):
            server().handshake(hello)
    with pytest.raises(InvalidHandshake, match="zeros"):
        server().handshake(client.hello(proof=b"\1" * 64))
    for client.short_public in WEAK_KEYS:
        with pytest.raises(InvalidHandshake, match="opened"):
            server().handshake(client.hello())


def test_wrong_initiate() -> None:
    other, _ = welcomed()

    def refuse(text: str, **parts: bytes) -> None:
        client, curve = welcomed(nobody)  # who is no client is not looked up
        with pytest.raises(InvalidHandshake, match=text) as refused:
            curve.handshake(client.initiate(**parts))
        assert not isinstance(refused.value, Refused) and curve.key == b""

    refuse("cookie", cookie=other.cookie)
    refuse("opened", public=other.public)  # a listed key, maybe; but who has it vouches not
    refuse("opened", secret=other.secret)
    refuse("vouches", vouched=other.short_public + SERVER_KEY)
    for public in WEAK_KEYS:
        refuse("opened", public=public)

    client, curve = welcomed()
    with pytest.raises(InvalidHandshake, match="vouches"):
        curve.handshake(client.initiate(vouched=client.short_public + other.public))
    client, curve = welcomed()
    client.shared = other.shared
    with pytest.raises(InvalidHandshake, match="opened"):
        curve.handshake(client.initiate())


def test_replayed_to_another_connection() -> None:
    """Who has recorded a client gets WELCOME for its HELLO, but can do nothing with it."""
    client, curve = Client(), server()
    hello = client.hello()
    client.welcome(curve.handshake(hello)[0])
    initiate = client.initiate()
    client.ready(curve.handshake(initiate)[0])
    again = server()
    again.handshake(hello)
    with pytest.raises(InvalidHandshake):
        again.handshake(initiate)


def test_out_of_turn() -> None:
    ready = b"\5READY" + bytes(60)
    for command in (ready, Client().message(1, b"\0"), welcomed()[0].initiate(), b"\5ERROR\x03400", b"\5HELLO", b""):
        curve = server()
        with pytest.raises(InvalidHandshake):
            curve.handshake(command)
        with pytest.raises(InvalidHandshake, match="end"):  # nor is there a second chance
            curve.handshake(Client().hello())
    client, curve = welcomed()
    with pytest.raises(InvalidHandshake, match="INITIATE was expected"):
        curve.handshake(client.hello())
    with pytest.raises(InvalidHandshake, match="end"):
        curve.handshake(client.initiate())
    for late in (Client.initiate, Client.hello):
        client, curve = connected()
        with pytest.raises(InvalidHandshake, match="end"):
            curve.handshake(late(client))


def test_messages_before_the_handshake() -> None:
    with pytest.raises(InvalidHandshake):
        server().open(Client().message(1, b"\0content"))
    client, curve = welcomed()
    with pytest.raises(InvalidHandshake):
        curve.open(client.message(3, b"\0content"))
    client, curve = welcomed(nobody)
    with pytest.raises(Refused):
        curve.handshake(client.initiate())
    with pytest.raises(InvalidHandshake):
        curve.open(client.message(3, b"\0content"))


def test_replayed_and_reordered_messages() -> None:
    client, curve = connected()
    first, second, third, fourth = (client.message(nonce, b"\0%d" % nonce) for nonce in (3, 4, 255, 256))
    assert curve.open(second) == (0, b"4")
    for old in (second, first):
        with pytest.raises(InvalidHandshake, match="grow"):
            curve.open(old)
    assert curve.open(third) == (0, b"255") and curve.open(fourth) == (0, b"256")
    assert curve.open(client.message(2**64 - 1, b"\0last")) == (0, b"last")
    for nonce in (1, 2):  # those of HELLO and INITIATE
        client, curve = connected()
        with pytest.raises(InvalidHandshake, match="grow"):
            curve.open(client.message(nonce, b"\0"))


def test_forged_messages() -> None:
    client, curve = connected()
    message = client.message(3, b"\0content")
    for position in range(len(message)):
        for bit in range(8):
            with pytest.raises(InvalidHandshake):
                curve.open(flipped(message, position, bit))
    curve.seal(0, b"")  # for the next one to have a nonce that would do
    for foreign in (curve.seal(0, b"its own, sent back"), connected()[0].message(3, b"\0another's")):
        with pytest.raises(InvalidHandshake, match="opened"):
            curve.open(foreign)
    with pytest.raises(InvalidHandshake, match="flags"):
        curve.open(client.message(4, b""))
    assert curve.open(client.message(4, b"\xff")) == (MORE | COMMAND, b"")


@pytest.mark.parametrize("size", [0, 31, 32, 47, 48, 127, 128, 129, 500])
def test_garbage_that_is_well_sealed(size: int) -> None:
    client, curve = welcomed()
    box = crypto_box_afternm(randombytes(size), b"CurveZMQINITIATE" + number(2), client.shared)
    with pytest.raises(InvalidHandshake):
        curve.handshake(b"\x08INITIATE" + client.cookie + number(2) + box)


def test_what_is_sealed_counts_from_ready() -> None:
    client, curve = welcomed()
    ready = curve.handshake(client.initiate())[0]
    nonces = [ready[6:14], *(curve.seal(0, b"")[8:16] for _ in range(300))]
    assert nonces == [number(nonce) for nonce in range(1, 302)]


@pytest.mark.parametrize("seed", range(20))
def test_fuzz(seed: int) -> None:
    """Garbage raises InvalidHandshake and nothing else, in each state."""
    chance = random.Random(seed)
    for _ in range(50):
        for curve in (server(), welcomed()[1], connected()[1]):
            names = [b"\5HELLO", b"\5HELLO\1\0" + bytes(72), b"\x08INITIATE", b"\7MESSAGE", b"\5READY", b"\5ERROR", b""]
            size = chance.choice((200, 257, chance.randrange(600)))
            garbage = (chance.choice(names) + chance.randbytes(size))[:size]
            with pytest.raises(InvalidHandshake):
                curve.open(garbage)
            with pytest.raises(InvalidHandshake):
                curve.handshake(garbage)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes((data[position] ^ 1 << bit,)) + data[position + 1 :]


@pytest.mark.parametrize("size", [0, 1, 221, 222, 223, 255, 256, 70_000])
def test_it_is_known_before_how_long_sealed_traffic_is(size: int) -> None:
    data = message(b"x" * size, b"", b"y")
    for protocol in (Zmtp(b"XPUB", frozenset(), int, lambda _: connected()[1]), Zmtp(b"XPUB", frozenset(), int, None)):
        assert protocol.sealed_size(data) == len(protocol.seal(data))
