"""Subscriptions of a channel that are sent each message as a change of the one before it. Pure.

They ask for that by an encoding with a `Encoding.change`. A subscription that has not got the message before is
*behind*, and is sent the whole message: it has just begun, or was excluded from that message. It is then like the
others. The message before is one for all subscriptions of the channel, and the change is made once for all of an
encoding. Only a channel with such subscriptions keeps its last message.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from raiden.model.encoding import Encoding
from raiden.model.message import Message

# Bytes of the largest message of which a change is made, and that is kept for the next one.
MOST: Final = 16 << 10
# Bytes of the messages that all channels of a worker keep. One for which there is no room is not kept.
MOST_IN_ALL: Final = 32 << 20
# Bytes of the messages of a run of which changes are made: to look for what has changed in so many may take 4 ms, and
# where that is not compiled 20.
MOST_OF_RUN: Final = 64 << 10

Sink = TypeVar("Sink")
Member = TypeVar("Member")


class Kept:
    """The messages that all channels of a worker keep: their bytes."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Deltas(Generic[Sink, Member]):
    """The state of one channel. ``before`` is its last message (None: there is none, or it is not kept). ``kept`` is
    that of all channels."""

    __slots__ = ("_behind", "_kept", "before")

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self.before: Message | None = None
        # Subscriptions that have not got that message, by encoding; each encoding has an entry while it is used.
        self._behind: dict[Encoding, dict[Sink, Member]] = {}

    def join(self, encoding: Encoding, sink: Sink, member: Member) -> None:
        """Add a subscription, which has no message yet."""
        self._behind.setdefault(encoding, {})[sink] = member

    def leave(self, encoding: Encoding, sink: Sink, *, is_last: bool) -> None:
        """Remove a subscription, the last one of its encoding or not."""
        if is_last:
            del self._behind[encoding]
            if not self._behind:
                self._keep(None)
        else:
            self._behind[encoding].pop(sink, None)

    def __bool__(self) -> bool:
        """Whether there are subscriptions."""
        return bool(self._behind)

    def parts(
        self, encoding: Encoding, group: dict[Sink, Member], kept: dict[Sink, Member], run: list[Message]
    ) -> list[tuple[dict[Sink, Member], bytes]]:  # fmt: skip
        """The parts of a group, each with the bytes of a run. ``kept`` are those of the group's subscriptions that get
        the run: the others are behind from now on."""
        behind = self._behind[encoding]
        if not behind and len(kept) == len(group):
            return [(group, _encoded(encoding, run, self.before))]
        begin = {sink: member for sink, member in behind.items() if sink in kept}
        go_on = {sink: member for sink, member in kept.items() if sink not in behind}
        self._behind[encoding] = {sink: member for sink, member in group.items() if sink not in kept}
        parts = []
        if begin:
            parts.append((begin, _encoded(encoding, run, None)))
        if go_on:
            parts.append((go_on, _encoded(encoding, run, self.before)))
        return parts

    def delivered(self, run: list[Message]) -> None:
        """Keep the last message of a run, of which all encodings have had their parts; and of that only what it says:
        its encodings may be many times as large."""
        last = run[-1]
        self._keep(Message(last.channel, last.kind, last.payload, published=last.published))

    def _keep(self, message: Message | None) -> None:
        if self.before is not None:
            self._kept.bytes -= len(self.before.payload)
        size = 0 if message is None else len(message.payload)
        self.before = message if size <= MOST and self._kept.bytes + size <= MOST_IN_ALL else None
        if self.before is not None:
            self._kept.bytes += size


def _encoded(encoding: Encoding, run: list[Message], before: Message | None) -> bytes:
    """The bytes of a run for subscriptions that have the message ``before`` it."""
    change = encoding.change
    assert change is not None
    parts: list[bytes] = []
    left = MOST_OF_RUN
    for message in run:
        size = len(message.payload)
        if before is None or size > min(MOST, left):
            parts.append(encoding(message))
        else:
            left -= size
            parts.append(change(message, before))
        before = message if size <= MOST else None
    return b"".join(parts)
