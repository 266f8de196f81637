"""The table of a worker's channels and patterns, with their subscriptions. Pure.

A name with subscriptions has a `Topic`, which groups these by the bytes that they are sent. The backbone keeps each
byte of each name several times, on every node, so the table bounds the bytes of its names as well as their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias

from raiden.delivery.deltas import Deltas, Kept
from raiden.delivery.occupancy import Occupancy
from raiden.delivery.prefixes import Prefixes
from raiden.delivery.selection import Selection
from raiden.delivery.sorted_names import SortedNames
from raiden.delivery.thinned import Room, Thinned
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.message import Cursor, Message
from raiden.model.names import topic
from raiden.model.page import Gap
from raiden.model.refusals import Unavailable
from raiden.model.thinning import Thinning

# Channels for which the patterns that bring them are remembered, where patterns have more lengths than `FEW`: then a
# search takes longer.
REMEMBERED, FEW = 10_000, 8
# Names of a page of the table, and names that are looked at for each: some have no subscriber just now.
MAX_ROWS, LOOKS = 1000, 3


class TooManyChannels(Unavailable):
    """The worker carries as many channels, or as long names, as it may (`max_channels`, `max_channel_bytes`)."""


class Sink(Protocol):
    """The receiver of encoded bytes: `pending` collects them during a turn, `flush` sends them after it.

    `flush` may close the sink and so end its subscriptions; it may not yield to another greenlet. `own_id` is that of
    its connection (`raiden.delivery.connection_ids`); b"": it has none of its own, or nobody has asked for its id.
    """

    pending: list[bytes]

    @property
    def own_id(self) -> bytes: ...

    def flush(self) -> None: ...


class End(NamedTuple):
    """The end of a channel, at the place of its last message; ``message`` is that, where it was just delivered. It may
    be an empty end (`Message.is_empty_end`), which is put before nobody."""

    channel: str
    cursor: Cursor
    message: Message | None = None


class Subscriber(Protocol):
    """The holder of subscriptions, which is told what happens to them. It may end them, and may not yield to another
    greenlet."""

    lasts: bool
    """Whether its subscriptions outlast the deletion of their channels."""

    def ended(self, subscription: Subscription) -> None:
        """Hear that the channel was deleted, and the subscription with it."""

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """Hear that messages of the channel were lost; the next messages follow the gap."""

    def at_end(self, subscription: Subscription, end: End) -> None:
        """Hear that the channel has come to its end, and that the subscription has got all of it. A subscription to
        that channel alone may be ended."""

    def connections(self) -> Iterable[Any]:
        """The connections of the clients that are present by its subscriptions."""


class Subscription:
    """One channel or pattern of one sink, with its encoding and filters. ``topic`` is None when it has ended; ``since``
    is the Unix time at which it was attached."""

    __slots__ = ("encoding", "filters", "name", "owner", "since", "sink", "topic")

    def __init__(
        self, name: str, topic: Topic, sink: Sink, owner: Subscriber, encoding: Encoding, filters: Filters | None
    ) -> None:
        self.name = name
        self.topic: Topic | None = topic
        self.sink = sink
        self.owner = owner
        self.encoding = encoding
        self.filters = filters
        self.since = 0.0

    @property
    def deletions(self) -> int:
        """The number of times that its channel was deleted, since the worker carries that; -1: it has ended."""
        return -1 if self.topic is None else self.topic.deletions

    @property
    def clients(self) -> int:
        """The number of clients that get its messages: several may share a long-poll."""
        count: int = getattr(self.owner, "clients", 1)
        return count

    @property
    def place(self) -> Cursor | None:
        """The place up to which it was sent everything, or told that it was skipped; None: all that came."""
        if self.filters is None or self.filters.thinning is None or self.topic is None or self.topic.thinned is None:
            return None
        group = self.topic.thinned.groups.get((self.encoding, self.filters))
        return None if group is None else group.place(self.sink)


# Subscriptions that get the same bytes.
Group: TypeAlias = dict[Sink, Subscription]


class Topic:
    """The subscriptions of one name: their number, and those that are attached, in groups that get equal bytes. The
    backbone is subscribed to ``key``; ``made`` is the number of the table's change that made the topic. ``since`` is a
    moment between the first subscription and when that was in force, in microseconds by the history's clock (0: not
    known yet). ``rounds`` is the number of rounds that the backbone had begun when the topic was made, ``deletions``
    the number of times that the channel was deleted since, ``changes`` that of subscriptions that came or went.
    ``room`` is that of all its thinned groups, and of others; ``kept`` is the same for messages that are kept for
    changes."""

    __slots__ = (
        "_kept", "changes", "count", "deletions", "deltas", "filtered", "groups", "key", "made", "messages", "room",
        "rounds", "since", "thinned",
    )  # fmt: skip

    def __init__(self, key: bytes, made: int, rounds: int, room: Room, kept: Kept) -> None:
        self.room = room
        self._kept = kept
        self.key = key
        self.made = made
        self.rounds = rounds
        self.since = 0
        self.count = self.deletions = self.changes = 0
        # Groups without filters, by encoding; those with filters, if there are any.
        self.groups: dict[Encoding, Group] = {}
        self.filtered: Selection[Group] | None = None
        # The state of groups without filters that are sent changes, if there are any.
        self.deltas: Deltas[Sink, Subscription] | None = None
        # Groups that do not get all messages, if there are any.
        self.thinned: Selection[Thinned[Sink, Subscription]] | None = None
        self.messages = 0

    def attach(self, subscription: Subscription) -> None:
        subscription.since = time.time()
        self.changes += 1
        encoding, filters = subscription.encoding, subscription.filters
        if not filters:
            self.groups.setdefault(encoding, {})[subscription.sink] = subscription
            if encoding.change is not None:
                if self.deltas is None:
                    self.deltas = Deltas(self._kept)
                self.deltas.join(encoding, subscription.sink, subscription)
            return
        if filters.thinning is not None:
            self._attach_thinned(subscription, filters, filters.thinning)
            return
        if self.filtered is None:
            self.filtered = Selection()
        group = self.filtered.groups.get((encoding, filters))
        if group is None:
            group = {}
            self.filtered.add((encoding, filters), group)
        group[subscription.sink] = subscription

    def detach(self, subscription: Subscription) -> None:
        """Detach a subscription, which need not be attached."""
        self.changes += 1
        encoding, filters, sink = subscription.encoding, subscription.filters, subscription.sink
        if not filters:
            group = self.groups.get(encoding)
            if group is not None and group.get(sink) is subscription:
                del group[sink]
                if self.deltas is not None and encoding.change is not None:
                    self.deltas.leave(encoding, sink, is_last=not group)
                    if not self.deltas:
                        self.deltas = None
                if not group:
                    del self.groups[encoding]
        elif filters.thinning is not None:
            self._detach_thinned(subscription, filters)
        elif self.filtered is not None:
            group = self.filtered.groups.get((encoding, filters))
            if group is not None and group.get(sink) is subscription:
                del group[sink]
                if not group:
                    self.filtered.remove((encoding, filters))
                    if not self.filtered.groups:
                        self.filtered = None

    def _attach_thinned(self, subscription: Subscription, filters: Filters, thinning: Thinning) -> None:
        if self.thinned is None:
            self.thinned = Selection()
        group = self.thinned.groups.get((subscription.encoding, filters))
        if group is None:
            group = Thinned(thinning, _is_behind, has_places=not subscription.name.endswith("*"), room=self.room)
            self.thinned.add((subscription.encoding, filters), group)
        group.join(subscription.sink, subscription)

    def _detach_thinned(self, subscription: Subscription, filters: Filters) -> None:
        key = subscription.encoding, filters
        group = None if self.thinned is None else self.thinned.groups.get(key)
        if self.thinned is not None and group is not None:
            group.leave(subscription.sink, subscription)
            if not len(group):
                self.thinned.remove(key)
                group.close()
                if not self.thinned.groups:
                    self.thinned = None

    def subscriptions(self) -> list[Subscription]:
        """The subscriptions that are attached."""
        groups = [*self.groups.values(), *(self.filtered.groups.values() if self.filtered is not None else ())]
        found = [subscription for group in groups for subscription in group.values()]
        for thinned in self.thinned.groups.values() if self.thinned is not None else ():
            found += thinned.subscriptions()
        return found

    @property
    def is_attached(self) -> bool:
        """Whether a subscription is attached."""
        return bool(self.groups) or self.filtered is not None or self.thinned is not None

    def row(self) -> dict[str, int]:
        """The name's row of figures: clients that are attached, and messages since the first of them."""
        clients = sum([clients_of(encoding, group) for encoding, group in self.groups.items()])
        if self.filtered is not None:
            clients += sum([clients_of(encoding, group) for (encoding, _), group in self.filtered.groups.items()])
        if self.thinned is not None:
            clients += sum([len(group) for group in self.thinned.groups.values()])
        return {"subscribers": clients, "messages": self.messages}


def _is_behind(subscription: Subscription) -> bool:
    """Whether its client has yet to read what was sent before."""
    return any([connection.outbox_size for connection in subscription.owner.connections()])


def clients_of(encoding: Encoding, group: Group) -> int:
    """The number of clients of a group. With most encodings each subscription has one client, and they need not be
    looked at."""
    return sum([each.clients for each in group.values()]) if encoding.shared else len(group)


def without(group: Group, excluded: bytes) -> Group:
    """A group without the sink that has this ``own_id``."""
    return {sink: subscription for sink, subscription in group.items() if sink.own_id != excluded}


class Table:
    """Topics by name. ``max_channels`` bounds their number, ``max_bytes`` the bytes of their names in UTF-8."""

    def __init__(self, *, max_channels: int, max_bytes: int) -> None:
        self.max_channels = max_channels
        self.max_bytes = max_bytes
        self.bytes = 0
        self.channels: dict[bytes, Topic] = {}
        self.patterns: Prefixes[Topic] = Prefixes()
        # The number of times that a topic was made or removed.
        self.changes = 0
        # The channels with subscribers, where somebody follows them.
        self.occupancy: Occupancy | None = None
        self._names = SortedNames()
        self._room, self._kept = Room(), Kept()
        # The patterns that bring a channel.
        self._brought_by: dict[bytes, list[Topic]] = {}

    def __len__(self) -> int:
        return len(self.channels) + len(self.patterns.values)

    def find(self, name: str) -> Topic | None:
        """The topic of a channel or a pattern."""
        key = topic(name)
        return self.patterns.values.get(key) if name.endswith("*") else self.channels.get(key)

    def why_full(self, name: str) -> str | None:
        """The reason why there is no room for this name; None where there is room."""
        if len(self) >= self.max_channels:
            return f"this worker carries {self.max_channels} channels already (max_channels): try again later"
        if self.bytes + len(name.encode()) > self.max_bytes:
            return (
                f"the names of this worker's channels have {self.max_bytes} bytes already (max_channel_bytes): try "
                "again later, or use shorter names"
            )
        return None

    def add(self, name: str, rounds: int) -> Topic:
        """Make the topic of a name that has none; raises TooManyChannels."""
        why = self.why_full(name)
        if why is not None:
            raise TooManyChannels(why)
        key, written = topic(name), name.encode()
        self.changes += 1
        made = Topic(key, self.changes, rounds, self._room, self._kept)
        if name.endswith("*"):
            self.patterns.add(key, made)
            self._brought_by.clear()
        else:
            self.channels[key] = made
        self.bytes += len(written)
        self._names.add(written)
        if self.occupancy is not None:
            self.occupancy.note(name, occupied=True)
        return made

    def remove(self, name: str) -> Topic:
        """Remove the topic of a name that has one."""
        key, written = topic(name), name.encode()
        self.changes += 1
        if name.endswith("*"):
            removed = self.patterns.remove(key)
            self._brought_by.clear()
        else:
            removed = self.channels.pop(key)
        self.bytes -= len(written)
        self._names.discard(written)
        if self.occupancy is not None:
            self.occupancy.note(name, occupied=False)
        return removed

    def follow(self) -> Occupancy:
        """The channels with subscribers, whose changes are noted from now on."""
        if self.occupancy is None:
            self.occupancy = Occupancy([key[:-1].decode() for key in self.channels])
        return self.occupancy

    def matching(self, channel: bytes) -> list[Topic]:
        """The topics that want a channel's messages: its own first, then patterns, the shortest first. The list is not
        the caller's to change."""
        exact = self.channels.get(channel + b"\0")
        if not self.patterns.sizes:
            return [] if exact is None else [exact]
        brought_by = self.patterns.matching(channel) if len(self.patterns.sizes) <= FEW else self._remembered(channel)
        return brought_by if exact is None else [exact, *brought_by]

    def _remembered(self, channel: bytes) -> list[Topic]:
        found = self._brought_by.get(channel)
        if found is None:
            if len(self._brought_by) >= REMEMBERED:
                self._brought_by.clear()
            found = self._brought_by[channel] = self.patterns.matching(channel)
        return found

    def row(self, name: str) -> dict[str, int]:
        """The row of figures of a channel or pattern; zeros where nobody subscribes to it."""
        found = self.find(name)
        return {"subscribers": 0, "messages": 0} if found is None else found.row()

    def page(self, prefix: str, after: str, limit: int) -> tuple[dict[str, dict[str, int]], str | None]:
        """Channels and patterns that begin with ``prefix``, come behind ``after`` and have subscribers, in the order of
        their names in UTF-8; at most ``limit``. With them comes the name up to which the table was searched; None: to
        its end."""
        start, begins = after.encode(), prefix.encode()
        rows: dict[str, dict[str, int]] = {}
        last = after
        for looks, written in enumerate(self._names.since(max(start + b"\0" if start else b"", begins))):
            if not written.startswith(begins):
                break
            if len(rows) >= limit or looks >= LOOKS * limit:
                return rows, last
            last = written.decode()
            found = self.find(last)
            if found is not None and found.is_attached:
                rows[last] = found.row()
        return rows, None
