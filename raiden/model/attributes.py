"""Attributes of a message: what is said of it besides its payload. Pure.

Most messages have none, and they cost nothing. A message with attributes is stored, and travels between nodes, as an
*envelope*: its kind has the bit `ENVELOPE` set, and in front of its payload stand the attributes,

    length of the attributes(4) attributes as JSON payload

So histories and the backbone, which never look into a payload, need to know nothing of them, and the proof of a message
covers its attributes.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

# The bit of a kind that says that the payload is behind attributes.
ENVELOPE: Final = 0x10

_LENGTH = struct.Struct("!I")


# No sender; a union of `msgspec.Raw` with None could not be read.
NOBODY: Final = msgspec.Raw(b"")


# The names of Raiden's own events on event streams, and of those that a browser's EventSource fires by itself.
RESERVED: Final = frozenset({
    "changed", "disconnected", "end", "ended", "error", "expired", "gap", "join", "leave", "open", "presence",
    "refused", "revoked", "skipped",
})  # fmt: skip


class Attributes(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The attributes of one message. ``event`` is its name ("": it has none), ``sender`` the subject and the info of
    the client that published it, as a JSON object (`NOBODY`: it is not shown), ``excluded`` the id of the connection
    that is not to get it. ``end``: the message is the last one of its channel, until that is deleted."""

    event: str = ""
    tags: dict[str, str] = {}
    sender: msgspec.Raw = msgspec.field(name="from", default=NOBODY)
    excluded: str = msgspec.field(name="except", default="")
    end: bool = False


class NoEnvelope(ValueError):
    """The bytes are no attributes and a payload."""


def put_in(attributes: Attributes, payload: bytes) -> bytes:
    """Return the envelope of attributes and a payload."""
    written = msgspec.json.encode(attributes)
    return b"%b%b%b" % (_LENGTH.pack(len(written)), written, payload)


def taken_out(envelope: bytes) -> tuple[Attributes, bytes]:
    """Return the attributes and the payload of an envelope. Members that this release does not know are ignored. Raises
    NoEnvelope."""
    try:
        (length,) = _LENGTH.unpack_from(envelope)
        end = _LENGTH.size + length
        if end > len(envelope):
            raise NoEnvelope(f"attributes of {length} bytes in {len(envelope)}")
        return msgspec.json.decode(envelope[_LENGTH.size : end], type=Attributes), envelope[end:]
    except (struct.error, msgspec.MsgspecError) as error:
        raise NoEnvelope(str(error)) from error
