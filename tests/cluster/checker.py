"""What was published, who had to receive it, and who did: the judge of a cluster's deliveries.

Whoever publishes announces each batch to its `Publication` before sending it, and says how it was answered; whoever
subscribes tells its `Subscription` when it is in force, what comes, and when it leaves. Nothing is judged meanwhile:
receiving is a look-up and an append. `Checker.report` then judges each subscription by itself, in `Checker._judge`,
which has all the rules:

- A message whose sending began when the subscription was in force, and which was acknowledged before it left, must
  have been received.
- So must each acknowledged message between the first and the last that came from a publisher: messages sent before the
  subscription was in force need not come, but once one has, nothing may be left out.
- A batch that was never answered may arrive in full, in part from its beginning, or not at all.
- Nothing comes twice, and nothing after what the same publisher has sent later.
- Nothing comes that was refused, that belongs to another channel, or that nobody has sent.
- Where a fault between the two nodes is an excuse, a message may be missing; the other rules hold.

What comes of channels with history, to subscribers that come back, has stricter rules: `tests.cluster.offsets`.

Times are of `time.monotonic`. Each publication and subscription may be used by a thread of its own; `owed` by any.
"""

from __future__ import annotations

import json
import math
import threading
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from raiden.model.message import Cursor

# How many failures of each kind a report shows.
EXAMPLES = 5
FAILURES = ("lost", "duplicated", "reordered", "unexpected")
KINDS = ("received", *FAILURES, "excused")


class Checker:
    def __init__(self) -> None:
        self.started = time.monotonic()
        self.subscriptions: list[Subscription] = []
        self.excuses: list[Excuse] = []
        self.messages: dict[bytes, Message] = {}
        self.batches: defaultdict[str, list[Batch]] = defaultdict(list)
        # Of each channel, the last place that was acknowledged.
        self.newest: dict[str, Cursor] = {}
        # Held where a time is taken and noted: what happened before a noted time is visible, and lists are in order.
        self.noting = threading.Lock()

    def publisher(self, name: str, node: str) -> Publication:
        """``name`` is no other publisher's; what it sends on a channel is to be received in that order."""
        return Publication(self, name, node)

    def subscription(self, channel: str, node: str) -> Subscription:
        with self.noting:
            subscription = Subscription(self, channel, node)
            self.subscriptions.append(subscription)
        return subscription

    def excuse(self, publisher_node: str | None, subscriber_node: str | None, start: float, end: float) -> None:
        """Messages published on one node (None: any) may be missed on the other if they were on their way, from
        sending to acknowledgement, at some time from ``start`` to ``end``.

        An acknowledgement says that the publisher's node has taken the message, not that others have it: let the
        excuse begin a little before the fault, and end when the nodes are known to be connected again.
        """
        self.excuses.append(Excuse(publisher_node, subscriber_node, start, end))

    def report(self) -> Report:
        """Judge what has happened until now."""
        return Report([self._judge(subscription) for subscription in self.subscriptions], self.started)

    def _judge(self, subscription: Subscription) -> Finding:
        finding = Finding(subscription)
        received: defaultdict[Publication, set[int]] = defaultdict(set)
        latest: defaultdict[Publication, int] = defaultdict(lambda: -1)
        for arrival in subscription.arrivals:
            if isinstance(arrival, bytes) or arrival.batch.channel != subscription.channel or arrival.batch.is_refused:
                finding.unexpected.append(arrival)
                continue
            publication, number = arrival.batch.publication, arrival.number
            numbers = received[publication]
            if number in numbers:
                finding.duplicated.append(arrival)
            elif number < latest[publication]:
                finding.reordered.append(arrival)
            else:
                latest[publication] = number
            numbers.add(number)
            finding.received[publication.node] += 1
        first = {publication: min(numbers) for publication, numbers in received.items()}
        for batch in self.batches[subscription.channel]:
            publication = batch.publication
            owed = subscription.is_owed(batch)
            start, end = first.get(publication, math.inf), latest[publication]
            within = batch.numbers.start < end and batch.numbers.stop > start
            if batch.is_refused or not (owed or within):
                continue
            numbers = received[publication]
            if batch.acknowledged_at is None:
                # Its end may be missing, whatever came after it.
                end = max((number for number in batch.numbers if number in numbers), default=-1)
            missing = [n for n in batch.numbers if n not in numbers and (owed or start < n < end)]
            if not missing:
                continue
            if self.is_excused(batch, subscription):
                finding.excused[publication.node] += len(missing)
            else:
                finding.lost += [Message(batch, number) for number in missing]
        return finding

    def is_excused(self, batch: Batch, subscription: Subscription) -> bool:
        return any(excuse.covers(batch, subscription) for excuse in self.excuses)


class Publication:
    """What one publisher sends, on any number of channels."""

    def __init__(self, checker: Checker, name: str, node: str) -> None:
        self.name = name
        self.node = node
        self._checker = checker
        self._sent: Counter[str] = Counter()

    def send(self, channel: str, count: int) -> Batch:
        """Call this right before these messages are sent: they are numbered from 0 on for each channel."""
        start = self._sent[channel]
        self._sent[channel] = start + count
        prefix = json.dumps([self.name, channel], separators=(",", ":"), ensure_ascii=False)[:-1]
        checker = self._checker
        with checker.noting:
            batch = Batch(checker, self, channel, range(start, start + count), prefix, time.monotonic())
            for number, payload in zip(batch.numbers, batch.payloads, strict=True):
                checker.messages[payload.encode()] = Message(batch, number)
            checker.batches[channel].append(batch)
        return batch


class Batch:
    """Messages that are sent at once. Until it is told `acknowledged` or `refused`, anything may come of them."""

    __slots__ = (
        "acknowledged_at", "channel", "checker", "cursors", "is_refused", "numbers", "payloads", "publication",
        "started",
    )  # fmt: skip

    def __init__(
        self, checker: Checker, publication: Publication, channel: str, numbers: range, prefix: str, started: float
    ) -> None:
        self.checker = checker
        self.publication = publication
        self.channel = channel
        self.numbers = numbers
        # Compact JSON, as it is to come back: [publisher, channel, number].
        self.payloads = [f"{prefix},{number}]" for number in numbers]
        self.started = started
        self.acknowledged_at: float | None = None
        self.is_refused = False
        # What the acknowledgement said, where the channel keeps history.
        self.cursors: list[Cursor] = []

    def acknowledged(self, cursors: Sequence[str] = ()) -> None:
        self.cursors = [Cursor.parse(cursor) for cursor in cursors]
        with self.checker.noting:
            self.acknowledged_at = time.monotonic()
            for cursor in self.cursors[-1:]:
                newest = self.checker.newest.get(self.channel)
                if newest is None or newest.epoch != cursor.epoch or newest.offset < cursor.offset:
                    self.checker.newest[self.channel] = cursor

    def refused(self) -> None:
        self.is_refused = True


class Message(NamedTuple):
    batch: Batch
    number: int

    @property
    def payload(self) -> str:
        return self.batch.payloads[self.number - self.batch.numbers.start]


class Subscription:
    """What comes of one channel on one connection to a node."""

    def __init__(self, checker: Checker, channel: str, node: str) -> None:
        self.channel = channel
        self.node = node
        self.in_force_at: float | None = None
        self.left_at: float | None = None
        # Why it ended without being asked to.
        self.ended: str | None = None
        # In the order they came; bytes are a payload that nobody has sent.
        self.arrivals: list[Message | bytes] = []
        self._checker = checker
        self._messages = checker.messages
        self._batches = checker.batches[channel]
        # What `owed` has found so far: batches before this index have been looked at, and some must be again.
        self._looked_at: int | None = None
        self._open: list[Batch] = []
        self._counts: dict[Batch, int] = {}
        self._counting = threading.Lock()

    def in_force(self) -> None:
        with self._checker.noting:
            self.in_force_at = time.monotonic()

    def received(self, payload: str | bytes) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        message = self._messages.get(data)
        if message is None:
            self.arrivals.append(data)
            return
        self.arrivals.append(message)
        counts, batch = self._counts, message.batch
        counts[batch] = counts.get(batch, 0) + 1

    def leaving(self, ended: str | None = None) -> None:
        """What is acknowledged from now on is not owed; what was before, still is."""
        with self._checker.noting:
            if self.left_at is None:
                self.left_at = time.monotonic()
            self.ended = self.ended or ended

    def is_owed(self, batch: Batch) -> bool:
        return (
            self.in_force_at is not None
            and self.in_force_at < batch.started
            and batch.acknowledged_at is not None
            and (self.left_at is None or batch.acknowledged_at < self.left_at)
        )

    def owed(self) -> int:
        """How many messages must still come. It counts, and does not judge: a duplicate makes up for a loss here."""
        with self._counting:
            if self.in_force_at is None:
                return 0
            if self._looked_at is None:
                self._looked_at = bisect_right(self._batches, self.in_force_at, key=lambda batch: batch.started)
            fresh = self._batches[self._looked_at :]
            self._looked_at += len(fresh)
            owed, still_open = 0, []
            left = self.left_at is not None  # asked first: what is acknowledged after that can't become owed
            for batch in (*self._open, *fresh):
                missing = len(batch.numbers) - self._counts.get(batch, 0)
                if missing <= 0 or batch.is_refused or self._checker.is_excused(batch, self):
                    continue
                if self.is_owed(batch):
                    owed += missing
                elif left:
                    continue
                still_open.append(batch)
            self._open = still_open
            return owed


class Excuse(NamedTuple):
    """A fault that lasted from ``start`` to ``end``."""

    publisher_node: str | None
    subscriber_node: str | None
    start: float
    end: float

    def covers(self, batch: Batch, subscription: Subscription) -> bool:
        return (
            self.publisher_node in (None, batch.publication.node)
            and self.subscriber_node in (None, subscription.node)
            and batch.started <= self.end
            and (batch.acknowledged_at is None or batch.acknowledged_at >= self.start)
        )


@dataclass
class Finding:
    """The verdict on one subscription; ``received`` and ``excused`` by the publisher's node."""

    subscription: Subscription
    lost: list[Message] = field(default_factory=list)
    duplicated: list[Message] = field(default_factory=list)
    reordered: list[Message] = field(default_factory=list)
    unexpected: list[Message | bytes] = field(default_factory=list)
    received: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)

    def failures(self) -> dict[str, list[Message] | list[Message | bytes]]:
        return {
            "lost": self.lost, "duplicated": self.duplicated, "reordered": self.reordered,
            "unexpected": self.unexpected,
        }  # fmt: skip

    @property
    def clean(self) -> bool:
        return not any(self.failures().values())


class Report:
    """All findings; `str` has the totals from node to node, and examples of what went wrong."""

    def __init__(self, findings: list[Finding], started: float) -> None:
        self.findings = findings
        self.clean = all(finding.clean for finding in findings)
        self._started = started

    def total(self, kind: str) -> int:
        """How many messages of one of `KINDS`, of all subscriptions together."""
        return sum(counts[kind] for counts in self._by_nodes().values())

    def _by_nodes(self) -> dict[tuple[str, str], Counter[str]]:
        table: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for finding in self.findings:
            node = finding.subscription.node
            for kind, by_publisher in (("received", finding.received), ("excused", finding.excused)):
                for publisher, count in by_publisher.items():
                    table[publisher, node][kind] += count
            for kind, failures in finding.failures().items():
                for failure in failures:
                    publisher = "?" if isinstance(failure, bytes) else failure.batch.publication.node
                    table[publisher, node][kind] += 1
        return table

    def __str__(self) -> str:
        rows = [["from", "to", *KINDS]]
        for (publisher, subscriber), counts in sorted(self._by_nodes().items()):
            rows.append([publisher, subscriber, *[str(counts[kind]) for kind in KINDS]])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        for kind in FAILURES:
            examples = [(finding, failure) for finding in self.findings for failure in finding.failures()[kind]]
            lines += [f"{kind}: {self._describe(*example)}" for example in examples[:EXAMPLES]]
            if len(examples) > EXAMPLES:
                lines.append(f"{kind}: {len(examples) - EXAMPLES} more")
        verdict = "clean" if self.clean else "NOT CLEAN"
        return "\n".join([f"{len(self.findings)} subscriptions, {verdict}", *lines])

    def _describe(self, finding: Finding, failure: Message | bytes) -> str:
        if isinstance(failure, bytes):
            sent = f"{failure[:100]!r}, which nobody has sent,"
        else:
            batch = failure.batch
            answered = "refused" if batch.is_refused else f"acknowledged {self._time(batch.acknowledged_at)}"
            sent = f"{failure.payload} of {batch.publication.node}, sent {self._time(batch.started)}, {answered},"
        subscription = finding.subscription
        ended = f" because of {subscription.ended}" if subscription.ended else ""
        return (
            f"{sent} by {subscription.channel} on {subscription.node}, "
            f"in force {self._time(subscription.in_force_at)}, left {self._time(subscription.left_at)}{ended}"
        )

    def _time(self, moment: float | None) -> str:
        return "never" if moment is None else f"{moment - self._started:+.3f} s"
