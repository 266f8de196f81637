"""Proofs and epochs, which tell one history from another: each message's proof covers all before it, and each life of
the store has an epoch of its own. Pure.

**Proofs.** A message's proof is a short hash over the proof of the message before it and the message itself. Two
histories with the same proof at an offset have the same messages up to there, unless 48 bits of SHA-1 collide by
accident. (It is no signature: whoever may write to the store can write what they like.)

**Lives.** A store may be opened on older data than it had: a snapshot, a copy that was put back, a disk that lost its
last writes, a replica that was behind. It can't know that, but it knows that a new life of it begins. The first message
that a channel gets in a new life begins a new epoch, at the next offset; cursors that were given out before keep their
epoch. So a cursor of an old epoch is good up to where that epoch ended. A cursor beyond that names a message that the
store has lost. Its reader has seen all that is left of that epoch, and goes on with the first message of the next.
Where nothing is left of that epoch, its name tells how many epochs came before it. The epoch with as many before it in
the present history began when the other was lost.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from raiden.model.message import EARLIEST, PROOF_DIGITS, UNPROVED, Cursor

# Digits at the beginning of an epoch's name, which all epochs of one history share.
ROOT_DIGITS: Final = 8
# Digits at the end of a later epoch's name, which tell it from others with as many epochs before them.
OWN_DIGITS: Final = 6
# Past epochs that are remembered for a channel.
MAX_PAST: Final = 64

# Epochs that are over, in their order, each with the offset at which the next one began.
Past = tuple[tuple[str, int], ...]


def link(before: str, kind: int, published: int, payload: bytes) -> str:
    """Return the proof of a message. ``before`` is the proof of the message before it ("": unknown)."""
    head = f"{before} {kind} {published} ".encode()
    return hashlib.sha1(head + payload, usedforsecurity=False).hexdigest()[:PROOF_DIGITS]


def is_proved(cursor: Cursor, last: Cursor, at: str | None, following: tuple[int, int, bytes, int, str] | None) -> bool:
    """Whether a cursor's proof is that of the history, as far as there are proofs to compare. ``last`` is the history's
    last message, ``at`` the proof of the message at the cursor (None: it is gone), ``following`` the offset, kind,
    payload, time and proof of the first one after it that is there."""
    if not cursor.proof:
        return True
    if cursor.offset == last.offset:
        at = last.proof
    elif at is None and following is not None and following[0] == cursor.offset + 1 and following[4]:
        _, kind, payload, published, proof = following
        return link(cursor.proof, kind, published, payload) == proof
    return not at or at == cursor.proof


class Lives(NamedTuple):
    """The epochs of a history: the present one, the offset of its next message, and the past ones. ``over``: a new life
    of the store has begun since, so the next message begins a new epoch."""

    epoch: str
    next: int
    past: Past = ()
    over: bool = False

    def epoch_of(self, offset: int) -> str:
        """The epoch in which the message at an offset was appended."""
        for epoch, end in self.past:
            if offset < end:
                return epoch
        return self.epoch

    def holds(self, cursor: Cursor) -> bool:
        """Whether a cursor is a place in this history, by its epoch."""
        return cursor == EARLIEST or cursor.offset < self._end(cursor.epoch)

    def stand(self, cursor: Cursor | None) -> int:
        """The offset behind which a reader with this cursor goes on. Where the history went back behind the cursor,
        that is the last offset that both have in common. (If more than one whole epoch was lost, nobody knows; then it
        is where an epoch began before the cursor.) 0: they have nothing in common."""
        if cursor is None or cursor == EARLIEST:
            return 0
        end = self._end(cursor.epoch)
        if not end and cursor.epoch[:ROOT_DIGITS] == self.epoch[:ROOT_DIGITS]:
            count = _count(cursor.epoch)
            for begin, before in self._begins():
                if begin > cursor.offset:
                    break
                end = begin
                if 0 < count <= before:
                    break
        return max(0, min(cursor.offset, end - 1))

    def begin(self) -> tuple[str, Past]:
        """The name of a new epoch, and the past epochs from then on. An epoch without messages stays among them: a
        reader that comes from there is told how many are missing."""
        epoch = f"{self.epoch[:ROOT_DIGITS]}{_count(self.epoch) + 1:x}{new_digits()}"
        return epoch, (*self.past, (self.epoch, self.next))[-MAX_PAST:]

    def _begins(self) -> Iterator[tuple[int, int]]:
        """The offset at which each epoch began (for the first one known: at the latest), and the number of epochs
        before it; also of the next epoch, if it is due."""
        begin = 1
        for epoch, end in (*self.past, (self.epoch, self.next)):
            yield begin, _count(epoch)
            begin = end
        if self.over:
            yield begin, _count(self.epoch) + 1

    def _end(self, epoch: str) -> int:
        """The offset at which an epoch ends; 0 where it is not known."""
        return self.next if epoch == self.epoch else dict(self.past).get(epoch, 0)


def first_epoch(*facts: object) -> str:
    """The name of a channel's first epoch, before it has a message. It follows from facts that are known to all, so
    that nothing needs to be written for a channel without a message, and at least one of which changes before the
    channel begins anew. The names of its later epochs begin with it."""
    text = " ".join([str(fact) for fact in facts])
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:ROOT_DIGITS]


def new_digits() -> str:
    """The random end of a later epoch's name. The number of epochs before it stands in front of that, hexadecimal."""
    return secrets.token_hex(OWN_DIGITS // 2)


def _count(epoch: str) -> int:
    """The number of epochs before this one; 0 where the name does not tell."""
    try:
        return int(epoch[ROOT_DIGITS:-OWN_DIGITS], 16)
    except ValueError:  # the first epoch, an epoch of a release that did not count, or a name that a client made up
        return 0


def write_past(past: Past) -> str:
    return " ".join([f"{epoch}:{end}" for epoch, end in past])


def read_past(text: str) -> Past:
    return tuple([(epoch, int(end)) for epoch, _, end in [each.partition(":") for each in text.split()]])


def chained(before: str, proofs: Sequence[str]) -> str:
    """Proofs as one text, the one before the first message ahead of the others."""
    return (before or UNPROVED) + "".join(proofs)
