"""ZMTP, the protocol of ZeroMQ's sockets (RFC 23 and RFC 37 of ZeroMQ): the server's half, bytes in, events out. No
sockets.

     greeting --NULL or CURVE--> handshake --both have said READY--> traffic

Raiden speaks ZMTP itself, without libzmq's sockets, because a door must know each client: its subscriptions, the bytes
that it was not sent yet, and whether to cut it off; and because a message is encoded once for all its subscribers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from raiden.protocols.curve import COMMAND as SEALED_COMMAND
from raiden.protocols.curve import Curve, InvalidHandshake, Refused
from raiden.protocols.unfinished import FULL, Full, Share, Unfinished

MORE, LONG, COMMAND = 1, 2, 4
# The flags within CURVE's boxes: MORE is the same, a command has another flag (RFC 26).
_SEALED = {0: 0, MORE: MORE, COMMAND: SEALED_COMMAND}
_UNSEALED = {0: 0, MORE: MORE, SEALED_COMMAND: COMMAND, MORE | SEALED_COMMAND: MORE | COMMAND}
# Bytes of a handshake's command, and of a message besides its payload; frames of a message.
MAX_HANDSHAKE, HEADROOM, MAX_FRAMES = 4096, 4096, 16
# Vain searches for messages that are alike, in the bytes of one read: each search looks at all of them.
TRIES = 8

_SIGNATURE = b"\xff\0\0\0\0\0\0\0\1\x7f"
_GREETING_BYTES = 64


class Peer(NamedTuple):
    """The handshake is done. ``key`` is the client's public key in Z85; empty: there are no keys."""

    kind: bytes
    key: bytes


class Subscribed(NamedTuple):
    """The client subscribes to a topic, or (``on`` is False) cancels that."""

    topic: bytes
    on: bool


class Reply(NamedTuple):
    """Bytes that the protocol has to send to the client."""

    data: bytes


class Failed(NamedTuple):
    """The client does not speak as it must: after ``farewell``, the connection must end. ``why`` is for the log."""

    why: str
    farewell: bytes = b""


# The frames of a message.
Frames: TypeAlias = "list[bytes]"


class Alike(NamedTuple):
    """Messages of two to four frames that came one after the other, and differ in the second: the payloads."""

    channel: bytes
    payloads: list[bytes]
    rest: Frames


Event: TypeAlias = "Peer | Subscribed | Reply | Failed | Alike | Frames"


class _Invalid(Exception):
    """The client's bytes are no ZMTP, or go over a limit."""


def header(size: int, flags: int = 0) -> bytes:
    """The bytes before the content of a frame."""
    return bytes((flags, size)) if size < 256 else b"%c%b" % (flags | LONG, size.to_bytes(8, "big"))


def frame(content: bytes, flags: int = 0) -> bytes:
    return header(len(content), flags) + content


def message(*frames: bytes) -> bytes:
    """A message of these frames, as bytes of the traffic."""
    return b"".join([frame(each, MORE) for each in frames[:-1]]) + frame(frames[-1])


def walk(traffic: bytes) -> Iterator[tuple[int, bytes]]:
    """The flags and the content of each frame in whole frames."""
    at = 0
    while at < len(traffic):
        flags, size, start = traffic[at], traffic[at + 1], at + 2
        if flags & LONG:
            size, start = int.from_bytes(traffic[at + 1 : at + 9], "big"), at + 9
        at = start + size
        yield flags & ~LONG, traffic[start:at]


def count(traffic: bytes) -> int:
    """The number of messages in whole frames."""
    return sum([not flags & MORE for flags, _ in walk(traffic)])


def _command(name: bytes, data: bytes = b"") -> bytes:
    return b"%c%b%b" % (len(name), name, data)


def _property(name: bytes, value: bytes) -> bytes:
    return b"%c%b%b%b" % (len(name), name, len(value).to_bytes(4, "big"), value)


def _properties(data: bytes) -> dict[bytes, bytes]:
    """The metadata of a READY or INITIATE, with names in small letters."""
    found, at = {}, 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            raise _Invalid("the metadata is cut short")
        found[name.lower()] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def _alike(buffer: bytes, begun: int, at: int, head: bytes, size: int, limit: int) -> tuple[list[bytes], int]:
    """The payloads of the messages from the index ``at`` on that differ from the one before only in the payload, and
    the index where they end. The message before began with ``head`` at ``begun``, and had a payload of ``size`` bytes.
    Each of them must be followed by another one. Pushers send such messages by the thousands: they are found by the
    bytes between their payloads, without a look at each frame. Where a payload contains these bytes, a piece is shorter
    than its size says: the search ends there, and each frame is looked at."""
    wide = 8 if head[-1] & LONG else 1
    start = begun + len(head) + wide
    tail = buffer[start + size : at]
    # Mostly all payloads have one size, and then no piece needs a look of its own.
    between = tail + buffer[begun:start]
    if buffer.startswith(between, at - len(tail)):
        *payloads, _ = buffer[at + len(between) - len(tail) :].split(between)
        if set(map(len, payloads)) == {size} and size + len(tail) <= limit:
            return payloads, at + len(payloads) * (size + len(between))
    *pieces, _ = buffer[at + len(head) :].split(head)
    payloads = []
    for piece in pieces:
        end = len(piece) - len(tail)
        size = end - wide
        if int.from_bytes(piece[:wide], "big") != size or piece[end:] != tail or size + len(tail) > limit:
            break
        payloads.append(piece[wide:end])
        at += len(head) + len(piece)
    return payloads, at


class Zmtp:
    """ZMTP on one connection: a socket of the type ``kind`` to clients of the types ``peers``. A message may have
    ``limit()`` bytes. ``curve`` makes the mechanism, from READY's metadata; None: there are no keys. ``unfinished`` is
    the sum of the bytes that all connections hold of unfinished messages."""

    __slots__ = (
        "_buffer", "_curve", "_frames", "_kind", "_limit", "_metadata", "_peers", "_share", "_size", "_state",
        "_unfinished",
    )  # fmt: skip

    def __init__(
        self, kind: bytes, peers: frozenset[bytes], limit: Callable[[], int], curve: Callable[[bytes], Curve] | None,
        unfinished: Unfinished | None = None,
    ) -> None:  # fmt: skip
        self._kind = kind
        self._peers = peers
        self._limit = limit
        self._metadata = _property(b"Socket-Type", kind)
        self._curve = curve(self._metadata) if curve else None
        self._buffer = b""
        self._frames: Frames = []
        self._size = 0
        self._unfinished = unfinished or Unfinished()
        self._share: Share | None = None
        # The present state, as a function: a bound method would form a reference cycle.
        self._state: Callable[[Zmtp], Iterator[Event]] = Zmtp._greet

    def forget(self) -> None:
        """Drop all that has come: it is of no use, and nothing more comes."""
        self._buffer = b""
        self._frames = []
        self._share = self._unfinished.hold(self._share, 0)

    @property
    def greeting(self) -> bytes:
        """The bytes that are sent first, before anything has come."""
        mechanism = b"CURVE" if self._curve else b"NULL"
        as_server = b"\1" if self._curve else b"\0"
        return _SIGNATURE + b"\3\1" + mechanism.ljust(20, b"\0") + as_server + bytes(31)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the client's bytes, and yield their events; nothing more comes after `Failed`."""
        self._buffer += data
        state = None
        try:
            while state is not self._state:
                state = self._state
                yield from state(self)
            self._share = self._unfinished.hold(self._share, len(self._buffer) + self._size)
        except Full:
            self._share = None
            self._state = Zmtp._ignore
            yield Failed(f"max_unfinished: {FULL}")
        except Refused as error:
            self._state = Zmtp._ignore
            yield Failed(str(error), frame(_command(b"ERROR", b"\x03400"), COMMAND))
        except (_Invalid, InvalidHandshake) as error:
            self._state = Zmtp._ignore
            yield Failed(str(error))

    @property
    def plain(self) -> bool:
        """Whether this client is sent the same bytes as others."""
        return self._curve is None

    def seal(self, traffic: bytes) -> bytes:
        """Return whole frames as they are sent to this client; what was sealed must be sent."""
        if self._curve is None:
            return traffic
        seal = self._curve.seal
        return b"".join([frame(seal(_SEALED[flags], content)) for flags, content in walk(traffic)])

    def sealed_size(self, traffic: bytes) -> int:
        """The number of bytes that `seal` would make of this traffic, without sealing it: what is sealed must be
        sent."""
        if self._curve is None:
            return len(traffic)
        sizes = [len(content) + self._curve.ADDS for _, content in walk(traffic)]
        return sum(sizes) + sum([len(header(size)) for size in sizes])

    # States.

    def _ignore(self) -> Iterator[Event]:
        self._buffer = b""
        yield from ()

    def _greet(self) -> Iterator[Event]:
        told = self._buffer[:_GREETING_BYTES]
        if told[:1] not in (b"", b"\xff") or told[9:10] not in (b"", b"\x7f"):
            raise _Invalid("what came is no ZMTP")
        if told[10:11] and told[10] < 3:
            raise _Invalid(f"ZMTP {told[10]} is too old: libzmq speaks ZMTP 3 from version 4.0 on")
        if len(told) < _GREETING_BYTES:
            return
        mechanism = told[12:32].rstrip(b"\0")
        if mechanism != (b"CURVE" if self._curve else b"NULL"):
            raise _Invalid(
                f"the client's mechanism is {mechanism!r}: {'keys are needed' if self._curve else 'no keys'}"
            )
        self._buffer = self._buffer[_GREETING_BYTES:]
        self._state = Zmtp._shake_hands
        if self._curve is None:
            yield Reply(frame(_command(b"READY", self._metadata), COMMAND))

    def _shake_hands(self) -> Iterator[Event]:
        while self._state is Zmtp._shake_hands:
            found = self._next_frame()
            if found is None:
                return
            flags, body = found
            if not flags & COMMAND:
                raise _Invalid("a message before the handshake was done")
            if self._curve is None:
                if not body.startswith(b"\5READY"):
                    raise _Invalid("the client did not say READY")
                metadata: bytes | None = body[6:]
            else:
                reply, metadata = self._curve.handshake(body)
                if metadata is not None:
                    self._check_peer(metadata)
                yield Reply(frame(reply, COMMAND))
            if metadata is not None:
                kind = self._check_peer(metadata)
                self._state = Zmtp._traffic
                yield Peer(kind, self._curve.key if self._curve else b"")

    def _check_peer(self, metadata: bytes) -> bytes:
        kind = _properties(metadata).get(b"socket-type", b"")
        if kind not in self._peers:
            raise _Invalid(f"a {kind[:16]!r} socket: this door is for {b', '.join(sorted(self._peers)).decode()}")
        return kind

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1], 2
        if buffer[0] & LONG:
            if len(buffer) < 9:
                return None
            size, start = int.from_bytes(buffer[1:9], "big"), 9
        if size > MAX_HANDSHAKE:
            raise _Invalid(f"a handshake of {size} bytes")
        if len(buffer) < start + size:
            return None
        self._buffer = buffer[start + size :]
        return buffer[0], buffer[start : start + size]

    def _traffic(self) -> Iterator[Event]:
        # The hot path of clients' messages: one pass over the bytes, and no call for each frame but the cipher's.
        buffer, frames, held = self._buffer, self._frames, self._size
        open_ = self._curve.open if self._curve else None
        limit = self._limit() + HEADROOM
        subscribers = self._kind == b"XPUB"
        tries = TRIES if self._kind == b"PULL" and open_ is None else 0
        at, end = 0, len(buffer)
        begun = at if tries and not frames else end  # the message's index, if it can be compared with the next
        while at + 2 <= end:
            flags, size, start = buffer[at], buffer[at + 1], at + 2
            if flags > MORE or open_ is not None:
                if flags & LONG:
                    if at + 9 > end:
                        break
                    size, start = int.from_bytes(buffer[at + 1 : at + 9], "big"), at + 9
                if flags > 7 or held + size > limit:
                    raise _Invalid(f"a frame of flags {flags}, {size} bytes: a message has at most {limit}")
                if start + size > end:
                    break
                at = start + size
                content = buffer[start:at]
                if open_ is not None:
                    sealed, content = open_(content)
                    flags = _UNSEALED[sealed]
                if flags & COMMAND:
                    yield from self._obey(content)
                    continue
                held += size
            else:  # short, not sealed: a message can't get too many bytes by such frames
                if start + size > end:
                    break
                at = start + size
                content = buffer[start:at]
            frames.append(content)
            if flags & MORE:
                if len(frames) == MAX_FRAMES:
                    raise _Invalid(f"a message of more than {MAX_FRAMES} frames")
            elif subscribers and content[:1] in (b"\0", b"\1") and len(frames) == 1:
                yield Subscribed(content[1:], content[0] == 1)  # as ZMTP 3.0 has it
                frames, held = [], 0
            else:
                yield frames
                if begun < at and 2 <= len(frames) <= 4 and len(frames[0]) < 256:
                    head = buffer[begun : begun + len(frames[0]) + 3]  # to the payload's size
                    if buffer.startswith(head, at):
                        payloads, at = _alike(buffer, begun, at, head, len(frames[1]), limit)
                        if payloads:
                            yield Alike(frames[0], payloads, frames[2:])
                        else:
                            tries -= 1
                begun = at if tries else end
                frames, held = [], 0
        self._buffer, self._frames, self._size = buffer[at:], frames, held

    def _obey(self, body: bytes) -> Iterator[Event]:
        """Obey a command amid the traffic; commands that are unknown, or not for this kind of socket, are ignored."""
        name, data = body[1 : 1 + body[0]] if body else b"", body[1 + body[0] :] if body else b""
        if self._kind == b"XPUB" and name in (b"SUBSCRIBE", b"CANCEL"):
            yield Subscribed(data, name == b"SUBSCRIBE")
        elif name == b"PING":
            yield Reply(self.seal(frame(_command(b"PONG", data[2:18]), COMMAND)))
        elif name == b"ERROR":
            raise _Invalid(f"the client says {data[1:64]!r}")
