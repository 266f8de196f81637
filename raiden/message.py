"""What travels: a message, the name of its channel, its cursor, and its frame on the backbone.

Everything here is pure. On the backbone a message is ONE ZeroMQ frame,

    channel NUL version(1) kind(1) extensions-length(2) microseconds(8) extensions payload

so that a SUB socket subscribes to ``channel NUL`` for exactly one channel, or to a prefix for a pattern. A
channel's name has no control characters and is UTF-8, so topics that begin with ``\\x01`` or ``\\xff`` are free for
Raiden's own use.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from raiden import strict_json
from raiden.refusals import Invalid
from raiden.strict_json import InvalidPayload

MAX_CHANNEL_BYTES = 255
RUN_BYTES = 65536
# Of the backbone: of the frame and of what nodes say to each other. Nodes of another version are refused.
VERSION = 2

# Raiden's own topics, each followed by NUL and a text. What is one node's own has the id of that node in the topic.
OWN_TOPICS = frozenset({b"\x01", b"\xff"})
BEATS = b"\x01beats"  # what a node says of itself, to all others
INBOX = b"\x01inbox "  # to one node's roster; who subscribes to it has a link to us
HELLO = b"\x01hello "  # subscribing to this with an introduction asks who is there; the answer comes on the same topic
REPORTS = b"\x01reports "  # of a node's workers, to its roster
ROSTER = b"\x01roster "  # of a node's roster, to its workers
ASK = b"\x01ask"  # questions to all workers, of all nodes or of one
ANSWER = b"\x01answer "
# A topic that nobody used before. It sorts behind all others, because a link that is made again sends its subscriptions
# in the topics' order, and a nonce that comes back must prove that all of them hold.
NONCE = b"\xffnonce "

_HEADER = struct.Struct("!BBIQ")
_EXTENSION = struct.Struct("!BI")
# Epoch and offset of the first message; the sizes of all payloads, four bytes each, where there are several messages;
# the proof of the message before the first one, then those of the messages, six bytes each.
_CURSOR_EXTENSION, _SIZES_EXTENSION, _PROOFS_EXTENSION = 1, 2, 3

PROOF_DIGITS = 12
_PROOF = re.compile("[0-9a-f]{12}")
# Stands in a chain of proofs where there is none.
UNPROVED = "0" * PROOF_DIGITS


class InvalidChannel(Invalid):
    """The name can't be a channel's or a pattern's; the text says why."""


class InvalidCursor(Invalid):
    """The text is no cursor; it says how one looks."""


class InvalidFrame(ValueError):
    """The bytes are no frame of this version of the backbone."""


class Kind:
    """What a message's payload is; ``END`` is a channel's deletion, which travels like any message. Plain numbers: to
    look one up in an enumeration takes half as long as to make a message."""

    JSON: Final = 0
    TEXT: Final = 1
    BYTES: Final = 2
    END: Final = 3


class Cursor(NamedTuple):
    """Where a message stands in its channel's history: ``epoch:offset:proof``. The proof covers the message and all
    before it (`raiden.history.chain`). It is left out where there is none, and may be left out: then the epoch alone
    tells whether the place is good. Two cursors of one place are equal only if both have the proof, or neither."""

    epoch: str
    offset: int
    proof: str = ""

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raise InvalidCursor unless the text is ``epoch:offset``, with a decimal offset below 2^63, or
        ``epoch:offset:proof``, with a proof of 12 hexadecimal digits."""
        epoch, _, rest = text.partition(":")
        offset, colon, proof = rest.partition(":")
        number = epoch.isalnum() and offset.isascii() and offset.isdigit() and len(offset) < 20
        if not number or int(offset) >= 1 << 63 or (colon and not _PROOF.fullmatch(proof)):
            raise InvalidCursor(f"{text[:64]!r} is no cursor: pass one as it was received, like 'k3x9:41:8c1f02d9e7ab'")
        return cls(epoch, int(offset), proof)

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}:{self.proof}" if self.proof else f"{self.epoch}:{self.offset}"

    @property
    def bare(self) -> str:
        """``epoch:offset``, for clients that count offsets."""
        return f"{self.epoch}:{self.offset}"

    @property
    def place(self) -> tuple[str, int]:
        """Epoch and offset: what names the message."""
        return self.epoch, self.offset


def _now() -> int:
    return time.time_ns() // 1000


class Message(msgspec.Struct, eq=False, gc=False):
    """One payload on one channel. ``published`` is wall-clock microseconds since 1970, ``before`` the proof of the
    message before it in the channel's history ("": unknown, or there is none)."""

    channel: str
    kind: int
    payload: bytes
    cursor: Cursor | None = None
    published: int = msgspec.field(default_factory=_now)
    before: str = ""
    # What was made of it, by what made it.
    encoded: dict[object, bytes] | None = None
    decoded: dict[str, Any] | bool | None = False

    def fields(self) -> dict[str, Any] | None:
        """The top-level fields of a JSON object, else None; decoded once, and only if a filter asks."""
        if self.decoded is False:
            try:
                value = strict_json.value(self.payload) if self.kind == Kind.JSON else None
            except InvalidPayload:  # an older node may have stored what is nested more deeply
                value = None
            self.decoded = value if isinstance(value, dict) else None
        return self.decoded  # type: ignore[return-value]


def to_frame(messages: Sequence[Message]) -> bytes:
    """The backbone's frame of messages of one channel and one kind, with cursors that follow each other, or none."""
    first = messages[0]
    payload, extensions = first.payload, b""
    if first.cursor is not None:
        cursor = b"%b:%d" % (first.cursor.epoch.encode(), first.cursor.offset)
        extensions = _EXTENSION.pack(_CURSOR_EXTENSION, len(cursor)) + cursor
        if first.cursor.proof:
            chain = (first.before or UNPROVED) + "".join([each.cursor.proof for each in messages if each.cursor])
            proofs = bytes.fromhex(chain)
            extensions += _EXTENSION.pack(_PROOFS_EXTENSION, len(proofs)) + proofs
    if len(messages) > 1:
        payloads = [message.payload for message in messages]
        payload = b"".join(payloads)
        sizes = struct.pack(f"!{len(payloads)}I", *map(len, payloads))
        extensions += _EXTENSION.pack(_SIZES_EXTENSION, len(sizes)) + sizes
    header = _HEADER.pack(VERSION, first.kind, len(extensions), first.published)
    return b"%b\0%b%b%b" % (first.channel.encode(), header, extensions, payload)


def runs(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Messages of one channel, as what goes into one frame each: of one kind, and ending with the message that goes
    over `RUN_BYTES`."""
    begin = size = 0
    for at, message in enumerate(messages):
        if message.kind != messages[begin].kind or size > RUN_BYTES:
            yield messages[begin:at]
            begin, size = at, 0
        size += len(message.payload)
    yield messages[begin:] if begin else messages


def from_frame(channel: bytes, frame: bytes) -> list[Message]:
    """Read the frame whose part before the NUL is ``channel``. Unknown extensions are skipped.

    Raises InvalidFrame for a truncated frame, another version, a name that is no UTF-8, or a cursor that is none.
    """
    at = len(channel) + 1
    try:
        version, kind, length, published = _HEADER.unpack_from(frame, at)
        name = channel.decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise InvalidFrame(str(error)) from error
    start = at + _HEADER.size
    if version != VERSION or kind > Kind.END or start + length > len(frame):
        raise InvalidFrame(f"version {version}, kind {kind}, {len(frame)} bytes")
    cursor, sizes, chain = _read_extensions(frame[start : start + length]) if length else (None, None, "")
    payload = frame[start + length :]
    if kind == Kind.TEXT:
        _check_text(payload)
    if sizes is None and len(chain) != 2 * PROOF_DIGITS:
        return [Message(name, kind, payload, cursor, published)]
    if sizes is None:
        assert cursor is not None
        before = chain[:PROOF_DIGITS]
        cursor = Cursor(cursor.epoch, cursor.offset, chain[PROOF_DIGITS:])
        return [Message(name, kind, payload, cursor, published, "" if before == UNPROVED else before)]
    if sum(sizes) == len(payload):
        payloads = [payload[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    else:
        raise InvalidFrame(f"payloads of {sum(sizes)} bytes in {len(payload)}")
    if cursor is None:
        return [Message(name, kind, each, None, published) for each in payloads]
    epoch, first, _ = cursor
    if len(chain) != (len(payloads) + 1) * PROOF_DIGITS:  # of a node that knows no proofs
        return [Message(name, kind, each, Cursor(epoch, at), published) for at, each in enumerate(payloads, first)]
    proofs = [chain[at : at + PROOF_DIGITS] for at in range(0, len(chain), PROOF_DIGITS)]
    if proofs[0] == UNPROVED:
        proofs[0] = ""
    return [
        Message(name, kind, each, Cursor(epoch, first + at, proofs[at + 1]), published, proofs[at])
        for at, each in enumerate(payloads)
    ]


def _check_text(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidFrame(f"a text that is no UTF-8: {error}") from None


def _read_extensions(extensions: bytes) -> tuple[Cursor | None, Sequence[int] | None, str]:
    """The cursor, the sizes, and the proofs as one text."""
    cursor, sizes, chain, at = None, None, "", 0
    while at + _EXTENSION.size <= len(extensions):
        tag, length = _EXTENSION.unpack_from(extensions, at)
        at += _EXTENSION.size
        value = extensions[at : at + length]
        if tag == _CURSOR_EXTENSION:
            cursor = _read_cursor(value)
        elif tag == _SIZES_EXTENSION:
            sizes = struct.unpack(f"!{len(value) // 4}I", value[: len(value) // 4 * 4])
        elif tag == _PROOFS_EXTENSION:
            chain = value.hex()
        at += length
    return cursor, sizes, chain if cursor is not None else ""


def _read_cursor(value: bytes) -> Cursor:
    # As `Cursor.parse`, which takes twice as long.
    epoch, _, offset = value.partition(b":")
    if not (epoch.isalnum() and offset.isdigit() and len(offset) < 20) or int(offset) >= 1 << 63:
        raise InvalidFrame(f"a cursor that is none: {value[:64]!r}")
    return Cursor(epoch.decode("ascii"), int(offset))


def is_unicode(text: str) -> bool:
    """It has no lone surrogates, which JSON can write and UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_channel(name: str) -> str:
    """Return the name if a message may be published to it, else raise InvalidChannel."""
    if name.endswith("*"):
        raise InvalidChannel("a name that ends in '*' is a pattern; publish to a channel by its full name")
    return check_subscription(name)


def check_subscription(name: str) -> str:
    """Return the name of a channel or a pattern (``*`` at its end), else raise InvalidChannel."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidChannel("a channel's name must be valid Unicode, without lone surrogates") from None
    if not 1 <= size <= MAX_CHANNEL_BYTES:
        raise InvalidChannel(f"a channel's name has 1 to {MAX_CHANNEL_BYTES} bytes of UTF-8; this one has {size}")
    if not name.isprintable() and any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise InvalidChannel("a channel's name may not contain control characters")
    if name.startswith("-/"):
        raise InvalidChannel("names that begin with '-/' are Raiden's own; choose another")
    return name


def unquote(text: str) -> str:
    """Percent-decode strictly (RFC 3986 section 2.1): every ``%`` needs two hex digits, the result is UTF-8."""
    if "%" not in text:
        return text
    for part in text.split("%")[1:]:
        if len(part) < 2 or not all(c in "0123456789abcdefABCDEF" for c in part[:2]):
            raise InvalidChannel("bad percent-encoding: '%' must be followed by two hex digits; write '%25' for itself")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidChannel("bad percent-encoding: the decoded bytes are not UTF-8") from None


def topic(name: str) -> bytes:
    """What the backbone is subscribed to for a channel (``name NUL``) or for a pattern (its prefix)."""
    return name[:-1].encode() if name.endswith("*") else name.encode() + b"\0"
