"""A message: its payload, its kind, and its cursor, which is its place in the history of its channel. Pure."""

from __future__ import annotations

import re
import time
from typing import Any, Final, NamedTuple

import msgspec

from raiden.model import attributes, strict_json
from raiden.model.attributes import ENVELOPE, Attributes
from raiden.model.refusals import Invalid
from raiden.model.strict_json import InvalidPayload

PROOF_DIGITS = 12
_PROOF = re.compile("[0-9a-f]{12}")
# The entry of a chain of proofs for a message without one.
UNPROVED = "0" * PROOF_DIGITS


class InvalidCursor(Invalid):
    """The text is no cursor; the error's text shows what a cursor looks like."""


class Kind:
    """The kinds of a message's payload; ``DELETION`` is that of a channel, which travels like any message. They are
    plain numbers: a look-up in an enumeration takes half as long as making a message."""

    JSON: Final = 0
    TEXT: Final = 1
    BYTES: Final = 2
    DELETION: Final = 3


class Cursor(NamedTuple):
    """A place in a channel's history, with its proof: ``epoch:offset:proof``. The proof covers the message and all
    before it (`raiden.model.chain`). A cursor may have no proof: then the epoch alone tells whether the place is good.
    Two cursors of one place are equal only if both have the proof, or neither."""

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
        """Epoch and offset, which name the message."""
        return self.epoch, self.offset


# The place before the first message of any epoch; no epoch has this name.
EARLIEST: Final = Cursor("0", 0)


def _now() -> int:
    return time.time_ns() // 1000


class Message(msgspec.Struct, eq=False, gc=False):
    """One payload on one channel. ``published`` is wall-clock microseconds since 1970, ``before`` the proof of the
    message before it in the channel's history ("": unknown, or there is none). ``transient``: it is not stored, though
    its channel may have a history; only the worker that publishes it knows that."""

    channel: str
    kind: int
    payload: bytes
    cursor: Cursor | None = None
    published: int = msgspec.field(default_factory=_now)
    before: str = ""
    attributes: Attributes | None = None
    transient: bool = False
    # Cached encodings of this message, by `Encoding`, and parts of them, by keys of their own.
    encoded: dict[object, bytes] | None = None
    decoded: dict[str, Any] | bool | None = False

    @property
    def entry(self) -> tuple[int, bytes]:
        """Kind and payload, as they are stored, and travel between nodes: in an envelope, if there are attributes."""
        if self.attributes is None:
            return self.kind, self.payload
        return self.kind | ENVELOPE, attributes.put_in(self.attributes, self.payload)

    @property
    def ends(self) -> bool:
        """Whether it is the last one of its channel."""
        return self.attributes is not None and self.attributes.end

    @property
    def is_empty_end(self) -> bool:
        """Whether it ends its channel and says nothing besides: it has no payload."""
        return not self.payload and self.ends

    def open(self) -> None:
        """Take kind and payload, which are those of an `entry`, apart; raises `attributes.NoEnvelope`."""
        if self.kind & ENVELOPE:
            self.attributes, self.payload = attributes.taken_out(self.payload)
            self.kind &= ~ENVELOPE

    def fields(self) -> dict[str, Any] | None:
        """The top-level fields of a JSON object, else None; decoded once, and only if a filter asks."""
        if self.decoded is False:
            try:
                value = strict_json.value(self.payload) if self.kind == Kind.JSON else None
            except InvalidPayload:  # an older node may have stored a payload that is nested more deeply
                value = None
            self.decoded = value if isinstance(value, dict) else None
        return self.decoded  # type: ignore[return-value]
