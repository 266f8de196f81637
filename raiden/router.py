"""The worker's table of channels and subscriptions, and the fan-out to them.

Two dictionaries are the whole of it: topic by name, and in a topic the sinks by encoding and filters. The first
subscription of a name subscribes the backbone, the last to go unsubscribes it.

A turn takes what the backbone has, in order. Consecutive messages of one channel are a run: a run is encoded once per
encoding, joined once, and the same bytes are put before every sink. At the end of the turn each sink that got something
sends it, in one piece. So idle, a message leaves at once; loaded, runs grow by themselves and one send carries many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import gevent

from raiden.backend import Backend, Question
from raiden.encoding import Encoding, dumps
from raiden.filters import Filters
from raiden.message import Kind, Message, topic
from raiden.stats import Stats

# Seconds; the event loop's timers are no finer, and a shorter turn is not worth the wait.
MIN_GATHER = 0.001


class TooManyChannels(Exception):
    """The worker carries as many channels as it may (`max_channels`)."""


class Sink(Protocol):
    """What encoded bytes are put before: `pending` collects them during a turn, `flush` sends them after it.

    `flush` may close the sink and so end its subscriptions; it may not yield to another greenlet.
    """

    pending: list[bytes]

    def flush(self) -> None: ...


class Subscriber(Protocol):
    """Who holds subscriptions, and is told when one ends because its channel was deleted."""

    def ended(self, subscription: Subscription) -> None: ...


class Subscription:
    """One channel or pattern of one sink, with its encoding and filters."""

    __slots__ = ("encoding", "filters", "name", "owner", "sink")

    def __init__(self, name: str, sink: Sink, owner: Subscriber, encoding: Encoding, filters: Filters | None) -> None:
        self.name = name
        self.sink = sink
        self.owner = owner
        self.encoding = encoding
        self.filters = filters


class Topic:
    """The subscriptions of one name, grouped by what they are sent: equal groups get equal bytes."""

    __slots__ = ("groups", "messages")

    def __init__(self) -> None:
        self.groups: dict[tuple[Encoding, Filters | None], dict[Sink, Subscription]] = {}
        self.messages = 0

    def subscriptions(self) -> list[Subscription]:
        return [subscription for group in self.groups.values() for subscription in group.values()]


class Router:
    """Fans messages out to this worker's subscribers. ``max_gather`` (seconds) bounds how long a turn may be put off to
    let messages gather: after a turn that took d, the next one waits up to d."""

    def __init__(
        self, backend: Backend, *, stats: Stats, max_channels: int = 100_000, max_gather: float = 0.02
    ) -> None:
        self.backend = backend
        self.stats = stats
        self.max_channels = max_channels
        self.max_gather = max_gather
        self._channels: dict[bytes, Topic] = {}
        self._patterns: dict[bytes, Topic] = {}
        self._pattern_sizes: list[int] = []
        self._loop = gevent.get_hub().loop
        self._readable = self._loop.io(backend.fileno, 1)
        self._again = self._loop.timer(0)
        self._gathering = False

    def start(self) -> None:
        self._readable.start(self._look)
        self.backend.touched.start(self._look)

    def stop(self) -> None:
        for watcher in (self._readable, self._again):
            watcher.stop()
            watcher.close()
        self.backend.touched.stop()

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand messages of one channel to the backbone, all or, raising BackboneFull, none."""
        self.backend.publish(messages)
        self.stats.published += len(messages)
        self.stats.bytes_in += sum([len(message.payload) for message in messages])

    def subscribe(
        self, name: str, sink: Sink, owner: Subscriber, encoding: Encoding, filters: Filters | None = None
    ) -> Subscription:
        """Add a subscription; messages may reach the sink from the next turn on, surely after `in_force`."""
        key = topic(name)
        table = self._patterns if name.endswith("*") else self._channels
        found = table.get(key)
        if found is None:
            if self.carried >= self.max_channels:
                raise TooManyChannels(f"this worker carries {self.max_channels} channels already: try again later")
            # First in: nothing yields between the table's change and the backbone's.
            found = table[key] = Topic()
            self.backend.subscribe(key)
            self._measure_patterns()
        subscription = Subscription(name, sink, owner, encoding, filters)
        found.groups.setdefault((encoding, filters), {})[sink] = subscription
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription; one that is not there any more is ignored."""
        key = topic(subscription.name)
        table = self._patterns if subscription.name.endswith("*") else self._channels
        found = table.get(key)
        group_key = (subscription.encoding, subscription.filters)
        group = found.groups.get(group_key) if found else None
        if found is None or group is None or group.get(subscription.sink) is not subscription:
            return
        del group[subscription.sink]
        if not group:
            del found.groups[group_key]
        if not found.groups:
            # Last out: nothing yields between the table's change and the backbone's.
            del table[key]
            self.backend.unsubscribe(key)
            self._measure_patterns()

    def in_force(self) -> tuple[str, ...]:
        """Wait until all subscriptions made so far hold everywhere. Returns the addresses of the nodes that did not say
        so; raises NotInForce."""
        return self.backend.in_force()

    @property
    def carried(self) -> int:
        """How many channels and patterns have subscribers here."""
        return len(self._channels) + len(self._patterns)

    def channels(self) -> dict[str, dict[str, int]]:
        """This worker's channels and patterns: how many subscribers, how many messages since the first of them."""
        rows = [(key[:-1], found) for key, found in self._channels.items()]
        rows += [(key + b"*", found) for key, found in self._patterns.items()]
        return {
            key.decode(): {"subscribers": sum(map(len, found.groups.values())), "messages": found.messages}
            for key, found in rows
        }

    def _measure_patterns(self) -> None:
        self._pattern_sizes = sorted({len(prefix) for prefix in self._patterns})

    # The fan-out.

    def _look(self) -> None:
        if not self._gathering:
            self._turn()

    def _turn(self) -> None:
        if self._gathering:
            self._gathering = False
            self._readable.start(self._look)
        started = time.perf_counter()
        dirty: list[Sink] = []
        messages: list[Message] = []
        for channel, run in self._runs():
            messages += run
            for found in self._topics(channel):
                found.messages += len(run)
                self._put(found, run, dirty)
        for sink in dirty:
            sink.flush()
        if messages:
            self.stats.observe_deliveries(messages)
            wait = min(time.perf_counter() - started, self.max_gather)
            if wait >= MIN_GATHER and not self.backend.more:
                self._gathering = True
                # Or the loop would spin for as long as what gathers keeps the descriptor readable.
                self._readable.stop()
                self._again.close()
                self._again = self._loop.timer(wait)
                self._again.start(self._turn, update=True)
                return
        if self.backend.readable:
            self.backend.touched.send()

    def _runs(self) -> Iterator[tuple[bytes, list[Message]]]:
        """The turn's messages, as runs of the same channel; questions of other workers are answered on the way."""
        current: bytes | None = None
        run: list[Message] = []
        for received in self.backend.receive():
            if isinstance(received, Question):
                self._answer(received)
                continue
            channel, frame = received
            message = self.backend.message(channel, frame)
            if message is None:
                self.stats.bad_frames += 1
                continue
            if run and (channel != current or message.kind == Kind.END):
                assert current is not None
                yield current, run
                run = []
            if message.kind == Kind.END:
                self._end(channel)
                continue
            current = channel
            run.append(message)
        if run:
            assert current is not None
            yield current, run

    def _topics(self, channel: bytes) -> list[Topic]:
        exact = self._channels.get(channel + b"\0")
        topics = [] if exact is None else [exact]
        for size in self._pattern_sizes:
            if size > len(channel):
                break
            found = self._patterns.get(channel[:size])
            if found is not None:
                topics.append(found)
        return topics

    def _put(self, found: Topic, run: list[Message], dirty: list[Sink]) -> None:
        for (encoding, filters), group in found.groups.items():
            passed = run if filters is None else [message for message in run if filters.match(message)]
            if not passed:
                continue
            data = encoding(passed[0]) if len(passed) == 1 else b"".join([encoding(message) for message in passed])
            self.stats.delivered += len(passed) * len(group)
            # The hot loop: one append a subscriber and run.
            for sink in group:
                pending = sink.pending
                if not pending:
                    dirty.append(sink)
                pending.append(data)

    def _end(self, channel: bytes) -> None:
        found = self._channels.get(channel + b"\0")
        for subscription in found.subscriptions() if found else []:
            self.unsubscribe(subscription)
            subscription.sink.flush()
            subscription.owner.ended(subscription)

    def _answer(self, question: Question) -> None:
        answers: dict[bytes, Any] = {b"stats": self.stats.snapshot, b"channels": self.channels}
        make = answers.get(question.text)
        if make is not None:
            self.backend.answer(question, dumps(make()))
