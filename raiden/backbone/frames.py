"""The backbone's frame: messages of one channel to bytes, and back; and the topics that are Raiden's own. Pure.

On the backbone messages are ONE ZeroMQ frame,

    channel NUL version(1) kind(1) extensions-length(2) microseconds(8) extensions payload

so that a SUB socket subscribes to ``channel NUL`` for exactly one channel, or to a prefix for a pattern. A channel's
name has no control characters and is UTF-8, so topics that begin with ``\\x01`` or ``\\xff`` are free for Raiden's own
use.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate

from raiden.model.attributes import ENVELOPE, NoEnvelope
from raiden.model.message import PROOF_DIGITS, UNPROVED, Cursor, Kind, Message

# Bytes of a run of messages, which ends with the message that goes over them.
RUN_BYTES = 65536
# The version of the backbone, for the frame and for the nodes' texts to each other. Nodes of another version are
# refused.
VERSION = 2

# Raiden's own topics, each followed by NUL and a text. A topic of one node's has the id of that node in it.
OWN_TOPICS = frozenset({b"\x01", b"\xff"})
BEATS = b"\x01beats"  # a node's beats, to all others
INBOX = b"\x01inbox "  # to one node's roster; a node that subscribes to its own has a link to us
HELLO = b"\x01hello "  # subscribing to this with an introduction asks who is there; the answer comes on the same topic
REPORTS = b"\x01reports "  # reports of a node's workers, to its roster
ROSTER = b"\x01roster "  # states of a node's roster, to its workers
ASK = b"\x01ask"  # questions to all workers, of all nodes or of one
ANSWER = b"\x01answer "
MAIL = b"\x01mail "  # letters to one worker
PRESENCE = b"\x01presence "  # changes of a channel's members, to the workers that watch it
DIALECTS = b"\x01dialect "  # texts between the workers' parts of a dialect
# A topic that nobody used before. It sorts behind all others, because a link that is made again sends its subscriptions
# in the topics' order, and a nonce that comes back must prove that all of them hold.
NONCE = b"\xffnonce "

_HEADER = struct.Struct("!BBIQ")
_EXTENSION = struct.Struct("!BI")
# Epoch and offset of the first message; the sizes of all payloads, four bytes each, where there are several messages;
# the proof of the message before the first one, then those of the messages, six bytes each.
_CURSOR_EXTENSION, _SIZES_EXTENSION, _PROOFS_EXTENSION = 1, 2, 3


class InvalidFrame(ValueError):
    """The bytes are no frame of this version of the backbone."""


def to_frame(messages: Sequence[Message]) -> bytes:
    """The backbone's frame of messages of one channel and one kind, with cursors that follow each other, or none."""
    first = messages[0]
    kind, payload = (first.kind, first.payload) if first.attributes is None else first.entry
    extensions = b""
    if first.cursor is not None:
        cursor = b"%b:%d" % (first.cursor.epoch.encode(), first.cursor.offset)
        extensions = _EXTENSION.pack(_CURSOR_EXTENSION, len(cursor)) + cursor
        if first.cursor.proof:
            chain = (first.before or UNPROVED) + "".join([each.cursor.proof for each in messages if each.cursor])
            proofs = bytes.fromhex(chain)
            extensions += _EXTENSION.pack(_PROOFS_EXTENSION, len(proofs)) + proofs
    if len(messages) > 1:
        payloads = [message.payload for message in messages]
        if kind & ENVELOPE:
            payloads = [message.entry[1] for message in messages]
        payload = b"".join(payloads)
        sizes = struct.pack(f"!{len(payloads)}I", *map(len, payloads))
        extensions += _EXTENSION.pack(_SIZES_EXTENSION, len(sizes)) + sizes
    header = _HEADER.pack(VERSION, kind, len(extensions), first.published)
    return b"%b\0%b%b%b" % (first.channel.encode(), header, extensions, payload)


def runs(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Split messages of one channel into those of one frame each: of one kind, all with attributes or all without, and
    ending with the message that goes over `RUN_BYTES`."""
    begin = size = 0
    kind, plain = messages[0].kind, messages[0].attributes is None
    for at, message in enumerate(messages):
        if message.kind != kind or (message.attributes is None) is not plain or size > RUN_BYTES:
            yield messages[begin:at]
            begin, size = at, 0
            kind, plain = message.kind, message.attributes is None
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
    if version != VERSION or kind & ~ENVELOPE > Kind.DELETION or start + length > len(frame):
        raise InvalidFrame(f"version {version}, kind {kind}, {len(frame)} bytes")
    cursor, sizes, chain = _read_extensions(frame[start : start + length]) if length else (None, None, "")
    payload = frame[start + length :]
    if kind == Kind.TEXT:
        _check_text(payload)
    if sizes is None:
        before = ""
        if cursor is not None and len(chain) == 2 * PROOF_DIGITS:
            before = "" if chain[:PROOF_DIGITS] == UNPROVED else chain[:PROOF_DIGITS]
            cursor = Cursor(cursor.epoch, cursor.offset, chain[PROOF_DIGITS:])
        messages = [Message(name, kind, payload, cursor, published, before)]
    elif sum(sizes) == len(payload):
        payloads = [payload[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
        messages = _several(name, kind, payloads, cursor, chain, published)
    else:
        raise InvalidFrame(f"payloads of {sum(sizes)} bytes in {len(payload)}")
    if kind & ENVELOPE:
        _open(messages)
    return messages


def _several(
    name: str, kind: int, payloads: list[bytes], cursor: Cursor | None, chain: str, published: int
) -> list[Message]:  # fmt: skip
    if cursor is None:
        return [Message(name, kind, each, None, published) for each in payloads]
    epoch, first, _ = cursor
    if len(chain) != (len(payloads) + 1) * PROOF_DIGITS:  # from a node that knows no proofs
        return [Message(name, kind, each, Cursor(epoch, at), published) for at, each in enumerate(payloads, first)]
    proofs = [chain[at : at + PROOF_DIGITS] for at in range(0, len(chain), PROOF_DIGITS)]
    if proofs[0] == UNPROVED:
        proofs[0] = ""
    return [
        Message(name, kind, each, Cursor(epoch, first + at, proofs[at + 1]), published, proofs[at])
        for at, each in enumerate(payloads)
    ]


def _open(messages: Sequence[Message]) -> None:
    """Open the envelopes of messages with attributes."""
    for message in messages:
        try:
            message.open()
        except NoEnvelope as error:
            raise InvalidFrame(str(error)) from error
        if message.kind == Kind.TEXT:
            _check_text(message.payload)


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
