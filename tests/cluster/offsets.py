"""The judge of channels with history: every follower gets every offset, once and in order, or is told which it misses.

A `Follower` is a subscriber of one channel that leaves and comes back, on whichever node, from its last cursor on. Its
client tells what happens to it, in order; nothing is judged meanwhile. Publications are those of the `Checker`, whose
batches are acknowledged with cursors; one that was not answered is sent again under its key, as the same batch, until
it is. `Offsets.report` then judges:

- An offset of an epoch has one value, whoever says it: acknowledgements and followers agree, and no message has two
  offsets.
- What a publisher sends to a channel stands there in that order.
- A follower that comes gets what follows the place that it was told; one that comes back, what follows its cursor. From
  there on each message has the next offset of the same epoch, or is the first one of an epoch that begins with the next
  offset. (Whoever has a later offset of the epoch before has got what was lost, and must be told a gap.)
- Only what a gap, told in band, names may be left out, also where it was told that it was not recovered. After one that
  names nothing, anything may come.
- What was acknowledged before a follower left for good, has come.
- Nothing comes twice, after what follows it, from another channel, or from nobody.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from raiden.model.message import EARLIEST, Cursor
from raiden.model.page import Gap
from tests.cluster.checker import EXAMPLES, Batch, Checker, Message, Publication

FAILURES = ("lost", "duplicated", "reordered", "unexpected", "conflicting")
COUNTS = ("received", "resumed", "recovered", "gaps")


class Arrival(NamedTuple):
    """``message`` is bytes where nobody has sent it."""

    cursor: Cursor
    message: Message | bytes


class Begin(NamedTuple):
    """It has come, or come back from ``since``, and was told this."""

    since: Cursor | None
    cursor: Cursor
    recovered: bool | None
    node: str


class Missed(NamedTuple):
    """It was told of a gap; None: nobody knows how much."""

    gap: Gap | None


class Offsets:
    """The followers, and what is known of each channel's offsets."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.followers: list[Follower] = []

    def follower(self, channel: str) -> Follower:
        follower = Follower(self.checker, channel, f"follower {len(self.followers)}")
        self.followers.append(follower)
        return follower

    def report(self) -> Verdict:
        """Judge what has happened until now."""
        verdict = Verdict(len(self.followers))
        truths = {channel: Truth(batches, verdict) for channel, batches in list(self.checker.batches.items())}
        for follower in self.followers:
            truth = truths.get(follower.channel)
            for event in follower.events:
                if truth is not None and isinstance(event, Arrival):
                    truth.hear(event.cursor)
        for follower in self.followers:
            _Trial(follower, truths.get(follower.channel) or Truth([], verdict), verdict).judge()
        return verdict


class Truth:
    """The values of a channel's offsets, as far as anybody has said; who says another one is wrong. To begin with,
    what was acknowledged."""

    def __init__(self, batches: Sequence[Batch], verdict: Verdict) -> None:
        self.batches = [batch for batch in batches if batch.cursors]
        self._messages: dict[Cursor, Message] = {}
        self._cursors: dict[Message, Cursor] = {}
        # The proofs of places; ZeroMQ clients are told none.
        self._proofs: dict[Cursor, str] = {}
        # Of each epoch, the first offset that anybody has said, and its rank: epochs come one after the other.
        self._begins: dict[str, int] = {}
        self._ranks: dict[str, float] = {}
        latest: dict[Publication, Cursor] = {}
        for batch in self.batches:
            if len(batch.cursors) != len(batch.numbers):
                verdict.note("conflicting", f"{batch.payloads[0]} and what follows has {len(batch.cursors)} cursors")
            for number, cursor in zip(batch.numbers, batch.cursors, strict=False):
                before = latest.get(batch.publication, EARLIEST)
                if before.epoch == cursor.epoch and before.offset >= cursor.offset:
                    verdict.note("reordered", f"{Message(batch, number).payload} is at {cursor}, after {before}")
                latest[batch.publication] = cursor
                self.note(cursor, Message(batch, number), "the acknowledgement", verdict)
                assert batch.acknowledged_at is not None
                rank = min(batch.acknowledged_at, self._ranks.get(cursor.epoch, batch.acknowledged_at))
                self._ranks[cursor.epoch] = rank

    def note(self, cursor: Cursor, message: Message, who: str, verdict: Verdict) -> None:
        """Somebody says that this message is there."""
        self.hear(cursor)
        bare = cursor._replace(proof="")
        other = self._messages.setdefault(bare, message)
        place = self._cursors.setdefault(message, bare)
        proof = self._proofs.setdefault(bare, cursor.proof) if cursor.proof else ""
        if other != message:
            verdict.note("conflicting", f"{message.payload} is at {cursor} for {who}, and so is {other.payload}")
        elif place != bare:
            verdict.note("conflicting", f"{message.payload} is at {cursor} for {who}, and at {place}")
        elif proof != cursor.proof:
            verdict.note("conflicting", f"{message.payload} is at {cursor} for {who}, and at {bare}:{proof}")

    def hear(self, cursor: Cursor) -> None:
        """Something is there."""
        self._begins[cursor.epoch] = min(cursor.offset, self._begins.get(cursor.epoch, cursor.offset))

    def begins(self, cursor: Cursor) -> bool:
        """Whether this is the first place of its epoch, as far as anybody has said."""
        return self._begins.get(cursor.epoch) == cursor.offset

    def is_later(self, epoch: str, than: str) -> bool:
        """Whether something was acknowledged in an epoch only after that other one had begun."""
        return self._ranks.get(epoch, 0.0) > self._ranks.get(than, 0.0)


class Follower:
    """A subscriber of a channel over all its connections."""

    def __init__(self, checker: Checker, channel: str, name: str) -> None:
        self.channel = channel
        self.name = name
        self.left_at: float | None = None
        # The last place that it got, or was told of: from there it goes on.
        self.position: Cursor | None = None
        self.events: list[Arrival | Begin | Missed] = []
        self._checker = checker
        self._messages = checker.messages

    def begins(self, since: Cursor | None, cursor: Cursor, recovered: bool | None, node: str) -> None:
        """It is subscribed, and was told where that begins, and whether all since its cursor was recovered."""
        self.events.append(Begin(since, cursor, recovered, node))
        self.position = since if recovered and since else cursor

    def received(self, cursor: Cursor, payload: bytes) -> None:
        self.events.append(Arrival(cursor, self._messages.get(payload, payload)))
        self.position = cursor

    def missed(self, gap: Gap | None) -> None:
        self.events.append(Missed(gap))
        if gap is not None:
            self.position = Cursor(gap.epoch, gap.last)

    def leaving(self) -> None:
        """What is acknowledged from now on is not owed."""
        with self._checker.noting:
            self.left_at = self.left_at or time.monotonic()

    def is_behind(self) -> bool:
        """Something that was acknowledged has not come yet, as far as its position tells."""
        newest = self._checker.newest.get(self.channel)
        if newest is None:
            return False
        position = self.position or EARLIEST
        return position.epoch != newest.epoch or position.offset < newest.offset


class _Trial:
    """Goes through what happened to a follower."""

    def __init__(self, follower: Follower, truth: Truth, verdict: Verdict) -> None:
        self._follower = follower
        self._truth = truth
        self._verdict = verdict
        # The place behind which the next message is expected; None: anywhere.
        self._place: Cursor | None = None
        self._epochs: set[str] = set()
        self._came: set[Cursor] = set()
        self._messages: set[Message] = set()

    def judge(self) -> None:
        for event in self._follower.events:
            if isinstance(event, Arrival):
                self._arrival(*event)
            elif isinstance(event, Begin):
                self._begin(event)
            else:
                self._missed(event.gap)
        self._end()

    def _begin(self, begin: Begin) -> None:
        verdict = self._verdict
        verdict.counts["resumed"] += begin.since is not None
        verdict.counts["recovered"] += begin.recovered is True
        self._place = begin.since or begin.cursor
        self._epochs.add(self._place.epoch)

    def _missed(self, gap: Gap | None) -> None:
        self._verdict.counts["gaps"] += 1
        if gap is None:
            self._place = None
            return
        self._follows(Cursor(gap.epoch, gap.first), "a gap")
        self._place = Cursor(gap.epoch, gap.last)
        self._epochs.add(gap.epoch)

    def _arrival(self, cursor: Cursor, message: Message | bytes) -> None:
        self._verdict.counts["received"] += 1
        if isinstance(message, bytes):
            self._note("unexpected", f"{message[:100]!r}, which nobody has sent, at {cursor}")
            return
        if message.batch.channel != self._follower.channel or message.batch.is_refused:
            self._note("unexpected", f"{message.payload} at {cursor}")
            return
        self._truth.note(cursor, message, self._follower.name, self._verdict)
        if cursor in self._came or message in self._messages:
            self._note("duplicated", f"{message.payload} at {cursor}")
            if cursor in self._came:
                return
        self._came.add(cursor)
        self._messages.add(message)
        if self._follows(cursor, message.payload):
            self._place = cursor
            self._epochs.add(cursor.epoch)

    def _follows(self, cursor: Cursor, what: str) -> bool:
        """Whether this is behind the place; what is between is lost."""
        place = self._place
        if place is None:
            return True
        if place.epoch == cursor.epoch and cursor.offset <= place.offset:
            self._note("reordered", f"{what} at {cursor} came after {place}")
            return False
        goes_on = place.offset > 0 and cursor.offset == place.offset + 1 and self._truth.begins(cursor)
        if place != EARLIEST and place.epoch != cursor.epoch and not goes_on:
            self._note("lost", f"what follows {place}, for {what} at {cursor} came next")
        else:
            for offset in range(place.offset + 1, cursor.offset):
                self._note("lost", f"{cursor.epoch}:{offset}, for {what} at {cursor} came after {place}")
        return True

    def _end(self) -> None:
        """What was acknowledged in time, and is behind the last place, or in an epoch that it knows nothing of."""
        left, place = self._follower.left_at, self._place
        if place is None:
            return
        for batch in self._truth.batches:
            assert batch.acknowledged_at is not None
            if left is not None and batch.acknowledged_at >= left:
                continue
            for number, cursor in zip(batch.numbers, batch.cursors, strict=False):
                behind = cursor.epoch == place.epoch and cursor.offset > place.offset
                if behind or (cursor.epoch not in self._epochs and self._truth.is_later(cursor.epoch, place.epoch)):
                    self._note("lost", f"{Message(batch, number).payload} at {cursor}, for {place} came last")

    def _note(self, kind: str, what: str) -> None:
        where = next((e.node for e in reversed(self._follower.events) if isinstance(e, Begin)), "nowhere")
        self._verdict.note(kind, f"{what}, by {self._follower.name} of {self._follower.channel}, last on {where}")


class Verdict:
    """How often each of `FAILURES` was found, with the first examples; and in ``counts`` also what was received,
    resumed, recovered, and how many gaps were told."""

    def __init__(self, followers: int) -> None:
        self.followers = followers
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def note(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES:
            self.examples.append(f"{kind}: {what}")

    @property
    def clean(self) -> bool:
        return not any(self.counts[kind] for kind in FAILURES)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.counts[kind]} {kind}" for kind in (*COUNTS, *FAILURES))
        verdict = "clean" if self.clean else "NOT CLEAN"
        return "\n".join([f"{self.followers} followers, {verdict}: {counts}", *self.examples])
