"""The judge: which of a log's events break a promise. It is pure, and each promise is a sentence of the documents:

order      "There is one order of its messages, the same for all subscribers on all nodes: that of its cursors", and
           "the offsets of a channel have no holes". A new life of the store goes on with the next number, in a new
           epoch. (history.md, What is guaranteed, When the store went back; zeromq.md, SUB)
once       What is published once, or again under one key, is stored once. (history.md, Publish once)
kept       An acknowledged message is in the history at its cursor, as long as size and age allow; with Redis that
           flushes always, whatever dies. (history.md, What an acknowledgement means)
whole      A batch, and a message to several channels with history, is stored as a whole or not at all. (the same)
refused    503: "Nothing was published, and nothing will be, unless it says that nobody knows". (history.md, When the
           store fails)
sequence   A subscriber gets each message after its position, once and in order, "or is told what is missing". Filters
           hide what does not match, and nothing else. (history.md, What is guaranteed, What can't be recovered)
begin      Without a position a subscription begins with the next message, and what is published after the head has
           come follows. (history.md, Going on where one left off; http.md, Subscribe)
gap        What is told to be missing is gone: too old, or others took its place; and its numbers are known.
           (history.md, What can't be recovered)
recovered  "true, all of it follows", but for a node that was cut off and has not asked the store since; "false,
           something is missing"; and neither by a node whose store has been away for some seconds. (history.md,
           Cursors)
position   A position between messages is that of the last message, or behind what filters hid. (http.md, Positions)
end        An acknowledged message reaches every connected subscriber, also the last one. (history.md, What is
           guaranteed)
pattern    Of each channel of a pattern all messages come in order from the first one that was stored since the pattern
           is in force; not what came before. (the same)
session    A session brings all subscriptions back on any node, as long as its window lasts. (history.md, Sessions)
durable    Each message is handed out at least once, for as long as the history has it; and not again once its
           acknowledgement has counted. (history.md, Durable subscriptions)
plain      Without history a message comes at most once, and in order for each publisher that keeps to one connection;
           and between nodes that no fault touches, it comes. (history.md, What is guaranteed; cluster.md, What holds)
answer     4xx and 500 are for mistakes, and there were none. (http.md, Errors, Close codes)

Of a cursor its epoch and its number are read (history.md, Cursors); the proof has no meaning here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import inf

from tests.independent.events import (
    Bad,
    Began,
    Done,
    Ended,
    Event,
    Fault,
    Got,
    Handed,
    Kept,
    Missed,
    Moved,
    Page,
    Published,
    Resumed,
    Violation,
)
from tests.independent.plain import plain
from tests.independent.truth import NOWHERE, Truth, matches, place

SESSION_WINDOW = 120.0
POSITION_CHECK = 5.0
LINGER = 5.0
TRUSTED = 5.0  # seconds for which the store's last answer counts, three, and time for who asks and who cuts
STORE_AWAY = ("cut node", "stop history", "kill Redis", "stop Redis", "cut Redis")
BETWEEN_NODES = ("cut link", "cut one way")  # faults that leave a node its way to the store


class Stream:
    """How far a subscriber is in a channel; ``offset`` is None before the first message of a pattern's channel."""

    def __init__(self, began: Began, epoch: str, offset: int | None) -> None:
        self.began, self.epoch, self.offset = began, epoch, offset
        # The head has told that something is missing, or that it begins with what there is; the position may be told
        # before the gap is.
        self.told = began.recovered is False or began.asked == "earliest"
        self.behind = 0


def judge(channels: Mapping[str, Kept], log: Sequence[Event]) -> list[Violation]:
    """All violations. The log ends with all faults mended, a last message on each channel with history that all were
    waited for to get, and the pages of what is left. Raises ValueError where a client did not do what it must."""
    court = _Court(channels)
    court.learn(log)
    for event in log:
        court.hear(event)
    court.close(log)
    return court.found


class _Court:
    def __init__(self, channels: Mapping[str, Kept]) -> None:
        self.truths = {name: Truth(kept) for name, kept in channels.items()}
        self.found: list[Violation] = []
        self.streams: dict[tuple[str, str], Stream] = {}
        self.patterns: dict[str, Began] = {}
        # From when and until when a node followed a channel, because somebody did there.
        self.followed: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        self.handed: dict[tuple[str, int], int] = {}
        self.done: dict[tuple[str, int], int] = {}

    def say(self, guarantee: str, channel: str, at: float, text: str) -> None:
        self.found.append(Violation(guarantee, channel, at, text))

    # What is where

    def learn(self, log: Iterable[Event]) -> None:
        self.faults = [event for event in log if isinstance(event, Fault)]
        for event in log:
            if isinstance(event, Published):
                self.truths[event.channel].begun.update(dict.fromkeys(event.ids, event.begun))
        for event in log:
            match event:
                case Published(channel=channel, outcome="stored"):
                    truth = self.truths[channel]
                    if len(event.cursors) != len(event.ids):
                        self.say("whole", channel, event.at, f"{len(event.ids)} messages, cursors {event.cursors}")
                    for message, cursor in zip(event.ids, event.cursors, strict=False):
                        self.put(channel, cursor, message, event.at)
                        truth.stored.append((event.at, place(cursor).offset, message))
                case Got(cursor=str() as cursor) | Handed(cursor=cursor):
                    self.put(event.channel, cursor, event.id, event.at)
                case Page():
                    for cursor, message in event.messages:
                        self.put(event.channel, cursor, message, event.at)
        self.learn_who_follows(log)
        for channel, truth in self.truths.items():
            truth.seal()
            lives = [epoch for epoch, _ in groupby(epoch for _, epoch in sorted(truth.epochs.items()))]
            if len(lives) != len(set(lives)):
                self.say("order", channel, 0.0, f"an epoch comes again: {lives}")

    def learn_who_follows(self, log: Iterable[Event]) -> None:
        """A node follows a channel for some seconds more when nobody does any longer, and from when it is asked for."""
        following: dict[str, dict[tuple[int, str], float]] = defaultdict(dict)
        for event in log:
            if isinstance(event, Began) and not event.pattern:
                following[event.who].setdefault((event.node, event.channel), event.begun)
            elif isinstance(event, Ended):
                for here, begun in following.pop(event.who, {}).items():
                    self.followed[here].append((begun, event.at + LINGER))
        for places in following.values():
            for here, begun in places.items():
                self.followed[here].append((begun, inf))

    def put(self, channel: str, cursor: str, message: str, at: float) -> None:
        truth, (epoch, offset) = self.truths[channel], place(cursor)
        if truth.epochs.setdefault(offset, epoch) != epoch:
            self.say("order", channel, at, f"{message} is at {cursor}, and {offset} is in {truth.epochs[offset]}")
        if truth.ids.setdefault(offset, message) != message:
            self.say("order", channel, at, f"at {cursor} are {truth.ids[offset]} and {message}")
        if truth.offsets.setdefault(message, offset) != offset:
            self.say("once", channel, at, f"{message} is at {cursor} and at {truth.offsets[message]}")
        if message not in truth.begun:
            self.say("sequence", channel, at, f"{message} at {cursor} was never published there")

    # What each was told

    def hear(self, event: Event) -> None:
        match event:
            case Began():
                self.begin(event)
            case Got(cursor=None):
                pass  # judged at the end
            case Got():
                self.got(event)
            case Moved():
                self.moved(event)
            case Missed():
                self.missed(event)
            case Handed():
                key = event.channel, place(event.cursor).offset
                if self.done.get(key, event.attempt) < event.attempt:
                    self.say(
                        "durable", event.channel, event.at, f"{event.id} is done, and was handed out again: {event}"
                    )
                self.handed[key] = max(event.attempt, self.handed.get(key, 0))
            case Done():
                self.done[event.channel, place(event.cursor).offset] = event.attempt
            case Page():
                self.page(event)
            case Resumed():
                if event.back is None and event.at < event.left + SESSION_WINDOW:
                    self.say("session", "", event.at, f"{event.who}: its session is lost, which had {set(event.had)}")
                elif event.back is not None and event.had - event.back:
                    self.say("session", "", event.at, f"{event.who} did not get back {set(event.had - event.back)}")
            case Ended():
                self.patterns.pop(event.who, None)
            case Bad():
                self.say("answer", event.channel, event.at, f"{event.who}: {event.what}")

    def begin(self, event: Began) -> None:
        key, channel = (event.who, event.channel), event.channel
        if event.pattern:
            # A pattern is in force at a node since its first subscriber there.
            same = [p for p in self.patterns.values() if (p.node, p.channel) == (event.node, event.channel)]
            event = event._replace(begun=min([event.begun, *(each.begun for each in same)]))
            self.patterns[event.who] = event
            for each in [
                each for each, stream in self.streams.items() if each[0] == event.who and stream.began.pattern
            ]:
                del self.streams[each]
            return
        truth = self.truths[channel]
        if not truth.kept.size:
            return
        start = place(event.cursor) if event.cursor else None
        if event.recovered is not None and self.has_no_store(event):
            self.say("recovered", channel, event.at, f"{event.who} is told {event.recovered} without a store")
        if event.asked is None:
            assert start, event
            if start.offset < truth.acknowledged(event.begun - 2 * POSITION_CHECK) and not self.is_cut(event):
                self.say("begin", channel, event.at, f"{event.who} begins in the past, at {event.cursor}")
            following = truth.next_published(event.at)
            if following is not None and following <= start.offset:
                self.say("begin", channel, event.at, f"{event.who} begins at {start}: behind what is published later")
            self.streams[key] = Stream(event, *start)
            return
        epoch, offset = (NOWHERE, 0) if event.asked == "earliest" else place(event.asked)
        before = self.streams.get(key)
        if before and before.offset is not None and before.offset < offset:
            raise ValueError(f"a client comes back with more than it was told: {event}")
        if event.asked == "earliest" and start:
            epoch, offset = start
            if offset and not truth.may_be_gone(offset, event.at):
                self.say("begin", channel, event.at, f"{event.who} begins at {start}, and not with the earliest")
        if event.repeats and start and offset > start.offset:
            offset = start.offset
        if start and event.recovered and start.offset > offset:
            self.say(
                "recovered", channel, event.at, f"{event.who} asked for {event.asked}, recovered, begins at {start}"
            )
        gone = range(offset + 1, truth.highest(event.at) + 1 + truth.unseen(truth.highest(event.at)))
        if (
            event.recovered is False
            and not event.repeats
            and not any(truth.may_be_gone(each, event.at) for each in gone)
        ):
            self.say("recovered", channel, event.at, f"{event.who} asked for {event.asked}: false, and nothing is gone")
        self.streams[key] = Stream(event, epoch, offset)

    def stream(self, event: Got | Moved | Missed) -> Stream | None:
        stream = self.streams.get((event.who, event.channel))
        if stream is None and event.who in self.patterns:
            stream = self.streams[event.who, event.channel] = Stream(self.patterns[event.who], NOWHERE, None)
        return stream

    def got(self, event: Got) -> None:
        stream = self.stream(event)
        if stream is None or event.cursor is None:
            self.say("sequence", event.channel, event.at, f"{event} without a subscription")
            return
        offset = place(event.cursor).offset
        if stream.began.filtered and not matches(event.id):
            self.say("sequence", event.channel, event.at, f"{event.who} got {event.id}, which its filter hides")
        if stream.offset is None:
            self.pattern_begins(stream.began, offset, event)
        elif offset <= stream.offset:
            self.say(
                "sequence", event.channel, event.at, f"{event.who} got {event.id} at {offset} after {stream.offset}"
            )
            return
        else:
            self.skipped(stream, offset, event)
        stream.epoch, stream.offset, stream.told = place(event.cursor).epoch, offset, False

    def skipped(self, stream: Stream, offset: int, event: Got | Moved | Missed) -> None:
        """Nothing between the stream's offset and this one came, and no gap was told."""
        truth = self.truths[event.channel]
        assert stream.offset is not None
        lost: Sequence[int] = range(stream.offset + 1, offset)
        if stream.told:
            lost = [each for each in lost if not truth.may_be_gone(each, event.at)]
        if stream.began.filtered:
            lost_ids = [truth.ids[each] for each in lost if each in truth.ids and matches(truth.ids[each])]
        else:
            lost_ids = [truth.ids.get(each, f"?{each}") for each in lost]
        if lost_ids:
            text = f"{event.who} was not told of {lost_ids[:5]} ({len(lost_ids)}) before {event}"
            self.say("sequence", event.channel, event.at, text)

    def pattern_begins(self, began: Began, offset: int, event: Got) -> None:
        truth = self.truths[event.channel]
        # What is on its way to others of the node may come to it, too; that is told there within `position_check`.
        late = began.begun
        here = began.node, event.channel
        if any(begun < began.at and until > began.begun for begun, until in self.followed[here]):
            late = 0.0 if self.is_cut(began) else late - 2 * POSITION_CHECK
        # "If the store does not tell its time within a second, a channel of the pattern begins with the first message
        # that comes."
        timeless = any(fault.kind not in BETWEEN_NODES for fault in self.striking(began, 0))
        if timeless:
            return
        if offset <= truth.acknowledged(late):
            self.say("pattern", event.channel, event.at, f"{event.who} got {event.id}, of before its pattern")
        following = truth.next_published(began.at)
        if following is not None and following < offset and not began.unconfirmed:
            self.say("pattern", event.channel, event.at, f"{event.who} begins with {offset}, not with {following}")

    def striking(self, began: Began, before: float) -> list[Fault]:
        """Faults of the store and of a subscription's node while it began, and for some seconds before."""
        return [
            fault
            for fault in self.faults
            if fault.begun < began.at and fault.at > began.begun - before
            and (not fault.nodes or began.node in fault.nodes)
        ]  # fmt: skip

    def is_cut(self, began: Began) -> bool:
        """A node that was cut off from the others hears from the store within `POSITION_CHECK` what it missed."""
        return bool(self.striking(began, 2 * POSITION_CHECK))

    def has_no_store(self, began: Began) -> bool:
        """The store had been away for longer than a node trusts its last answer, and was not there yet."""
        return any(
            fault.kind in STORE_AWAY and (not fault.nodes or began.node in fault.nodes)
            and fault.begun + TRUSTED < began.begun and began.at < fault.until
            for fault in self.faults
        )  # fmt: skip

    def moved(self, event: Moved) -> None:
        stream, offset = self.stream(event), place(event.cursor).offset
        if stream is None or stream.offset is None:
            return
        if offset < stream.offset:
            self.say("position", event.channel, event.at, f"{event.who} is at {stream.offset}, told {event.cursor}")
            return
        self.skipped(stream, offset + 1, event)
        stream.behind = offset
        if not stream.told:
            stream.offset = offset

    def missed(self, event: Missed) -> None:
        truth, stream = self.truths[event.channel], self.stream(event)
        if stream is None or stream.offset is None:
            return  # of a pattern: what came before its first message
        if event.missing is None:
            never = stream.epoch == NOWHERE and truth.may_be_gone(1, event.at)
            if not never:
                self.say("gap", event.channel, event.at, f"{event.who} was told of a gap without numbers")
            stream.offset = max(stream.offset, truth.acknowledged(event.at - truth.kept.ttl))
            return
        first, last = event.missing["first"], event.missing["last"]
        if first <= stream.offset and not stream.began.repeats:
            self.say("gap", event.channel, event.at, f"{event.who} is at {stream.offset}: {event.missing}")
        self.skipped(stream, first, event)
        if last < stream.behind and stream.told:
            self.say("position", event.channel, event.at, f"{event.who} was told {stream.behind}, then {event.missing}")
        self.gone(event, event.who, max(first, stream.offset + 1), last)
        if stream.began.recovered and first <= truth.acknowledged(stream.began.begun) and not self.is_cut(stream.began):
            self.say("recovered", event.channel, event.at, f"{event.who}: recovered, and then {event.missing}")
        stream.offset, stream.told = max(stream.offset, last), False

    def gone(self, event: Missed | Page, who: str, first: int, last: int) -> None:
        """What was told as lost must be."""
        truth = self.truths[event.channel]
        there = [each for each in range(first, last + 1) if not truth.may_be_gone(each, event.at)]
        if there:
            text = f"{who} was told that {first} to {last} are lost; {there[:5]} ({len(there)}) are not"
            self.say("gap", event.channel, event.at, text)

    def page(self, event: Page) -> None:
        truth = self.truths[event.channel]
        offsets = [place(cursor).offset for cursor, _ in event.messages]
        if event.since is not None and event.gap:
            self.gone(event, "a page", place(event.since).offset + 1, event.gap["last"])
        if event.since is not None:
            offsets.insert(0, event.gap["last"] if event.gap else place(event.since).offset)
        if offsets and offsets != list(range(offsets[0], offsets[0] + len(offsets))):
            self.say("order", event.channel, event.at, f"a page after {event.since} has a hole: {offsets}")
        if event.since is None:
            there, newest = set(offsets), max(offsets, default=0)
            for at, offset, message in truth.stored:
                reached = event.last or offset <= newest
                if at < event.begun and reached and offset not in there and truth.must_be_there(offset, at, event.at):
                    self.say("kept", event.channel, event.at, f"{message}, acknowledged at {offset}, is not there")

    # What can be said only when all is over

    def close(self, log: Sequence[Event]) -> None:
        self.stored_or_not(log)
        for (who, channel), stream in self.streams.items():
            end = self.truths[channel].acknowledged(float("inf"))
            if stream.offset is not None and max(stream.offset, stream.behind) < end and not stream.began.pattern:
                self.say("end", channel, stream.began.at, f"{who} stays at {stream.offset}, {end} was acknowledged")
        for channel in {channel for channel, _ in self.handed}:
            for at, offset, message in self.truths[channel].stored:
                if (channel, offset) not in self.handed:
                    self.say("durable", channel, at, f"{message}, {offset}, was never handed out")
        self.found += plain({name for name, truth in self.truths.items() if not truth.kept.size}, log)

    def stored_or_not(self, log: Sequence[Event]) -> None:
        together: dict[tuple[str, ...], list[tuple[Published, bool]]] = defaultdict(list)
        for event in log:
            if not isinstance(event, Published) or not self.truths[event.channel].kept.size:
                continue
            there = [message in self.truths[event.channel].offsets for message in event.ids]
            if event.outcome == "refused" and any(there):
                self.say("refused", event.channel, event.at, f"{event.ids} was refused, and is there")
            long = self.truths[event.channel].kept.ttl >= 600 and self.truths[event.channel].kept.size >= 10_000
            if long and any(there) and not all(there):
                self.say("whole", event.channel, event.at, f"of {event.ids} there is only a part")
            if long:
                together[event.ids].append((event, any(there)))
        for events in together.values():
            if len({there for _, there in events}) > 1:
                self.say("whole", events[0][0].channel, events[0][0].at, f"{events[0][0].ids} is not in all channels")
