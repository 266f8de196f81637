"""The router of a worker: it publishes, and fans the messages that come out to subscribers.

The subscriptions are in the table (`raiden.delivery.table`). The first subscription of a name subscribes the backbone,
the last to go unsubscribes it. A subscription gets messages once it is attached: then the backbone's subscription is in
force, and the channel's order (`raiden.delivery.orders`) tells where it begins.

A turn takes the messages that the backbone has brought, in order. Consecutive messages of one channel are a run: a run
is encoded once per encoding, joined once, and the same bytes are put before every sink. At the end of the turn each
sink that got something sends it, in one piece. So on an idle worker a message leaves at once; on a loaded one, runs
grow by themselves and one send carries many.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Final

import gevent

from raiden.backend import Backend, Question
from raiden.delivery.answers import Answers
from raiden.delivery.connection_ids import ConnectionIds
from raiden.delivery.ends import Ends
from raiden.delivery.fan_out import FanOut
from raiden.delivery.orders import Orders, Repaired
from raiden.delivery.pace import Pace
from raiden.delivery.polled import Polled
from raiden.delivery.publisher import Publisher
from raiden.delivery.sends import Sends, flush
from raiden.delivery.table import Sink, Subscriber, Subscription, Table
from raiden.delivery.thinner import Thinner
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.message import Cursor, Kind, Message
from raiden.model.page import Gap
from raiden.runtime import faults
from raiden.runtime.stats import Stats

# Subscribers below which a turn takes too little time to be worth a wait.
MANY: Final = 100
# Seconds for which a topic is kept that will probably be subscribed to again, by a long-poll that was just answered.
LINGER = 5.0
# Seconds for which a turn takes messages, or the seconds for each sink that it will send to, if that is more: a message
# may be for a hundred patterns of few clients.
TURN_TIME: Final = 0.01
TIME_OF_SINK: Final = 0.00002
# Lingering topics that are dropped before others have their turn.
DROPPED_AT_ONCE = 500


class Router:
    """The router, which fans messages out to this worker's subscribers. Times are seconds: ``max_gather`` bounds how
    long a turn may be put off to let messages gather (`raiden.delivery.pace`); ``gap_time`` and ``check_every`` are
    those of `Orders`."""

    def __init__(
        self, backend: Backend, *, stats: Stats, max_channels: int = 100_000, max_channel_bytes: int = 4 << 20,
        max_gather: float = 0.02, gap_time: float = 0.05, check_every: float = 5.0,
    ) -> None:  # fmt: skip
        self.backend = backend
        # For sessions that read or consume the past of channels.
        self.history = backend.history
        self.channels = backend.channels
        self.stats = stats
        self.table = Table(max_channels=max_channels, max_bytes=max_channel_bytes)
        self.publisher = Publisher(backend, stats)
        self.ids = ConnectionIds()
        self.answers = Answers(backend, self.table, stats)
        # The clients of long-polls that were just answered: their topics linger, and so do they.
        self.polled = Polled(lambda: LINGER)
        self.pace = Pace(max_gather)
        self.sends = Sends(self._caught_up)
        self._thinner = Thinner(self.sends, stats, self.ids)
        self._fan = FanOut(self.table, self._thinner, stats, self.ids)
        self._orders = Orders(backend, self.table, gap_time=gap_time, check_every=check_every, limit=2 * max_channels)
        self._ends = Ends(self.table, self._orders, self._fan, self.unsubscribe)
        self._loop = gevent.get_hub().loop
        self._readable = self._loop.io(backend.fileno, 1)
        self._again = self._loop.timer(0)
        self._waiting = False
        # Names of topics without subscriptions that are kept, with the times until which they are, in this order.
        self._lingering: dict[str, float] = {}
        self._sweeper = self._loop.timer(LINGER / 5, LINGER / 5)

    def start(self) -> None:
        self._readable.start(self._look)
        self.backend.listen(self._look, self._look_here)

    def stop(self) -> None:
        for watcher in (self._readable, self._again, self._sweeper):
            watcher.stop()
            watcher.close()
        self._thinner.close()
        self.sends.close()
        self.backend.listen_no_more()

    def keeps(self, channel: str) -> bool:
        """Whether the channel has a history."""
        return self.backend.keeps(channel)

    def repair(self) -> None:
        """Deliver the messages that the backbone lost, where there is a history; endless, for a greenlet."""
        if self.history is not None:
            for repaired in self._orders.repairs():
                self._deliver(repaired)

    def sweep(self) -> None:
        """Forget the orders of channels that nobody subscribes to any more; endless, for a greenlet."""
        self._orders.sweep()

    def subscribe(
        self, name: str, sink: Sink, owner: Subscriber, encoding: Encoding, filters: Filters | None = None
    ) -> Subscription:
        """Add a subscription: the backbone brings its messages from now on, surely after `in_force`; the sink gets them
        once it is attached. Raises TooManyChannels."""
        found = self.table.find(name)
        if found is None:
            while self._lingering and self.table.why_full(name):
                self._drop_lingering(next(iter(self._lingering)))
            # First in: nothing yields between the table's change and the backbone's.
            found = self.table.add(name, self.backend.rounds)
            self.backend.subscribe(found.key)
            if name.endswith("*"):
                self._orders.follow(found)
            else:
                self._orders.carry(name)
        found.count += 1
        return Subscription(name, found, sink, owner, encoding, filters)

    def attach(self, subscription: Subscription) -> None:
        """Let the sink get the next messages; on a channel with history, those that follow its `position`. Where that
        is the channel's end, the subscriber is told."""
        if subscription.topic is not None:
            self._ends.attach(subscription)
        found = subscription.topic
        if found is not None:
            found.attach(subscription)

    def unsubscribe(self, subscription: Subscription, *, linger: bool = False) -> None:
        """Remove a subscription; one that has ended is ignored. ``linger``: it may soon be made again, so if it is its
        topic's last, the topic is kept for `LINGER` seconds."""
        found, subscription.topic = subscription.topic, None
        if found is None:
            return
        found.detach(subscription)
        found.count -= 1
        if not found.count and linger:
            self._lingering.pop(subscription.name, None)
            self._lingering[subscription.name] = time.monotonic() + LINGER
            self._sweeper.start(self._sweep, update=True)
        elif not found.count:
            self._drop(subscription.name)

    def _drop(self, name: str) -> None:
        """Drop a topic. Last out: nothing yields between the table's change and the backbone's."""
        removed = self.table.remove(name)
        self.backend.unsubscribe(removed.key)
        if name.endswith("*"):
            self._orders.leave(removed)
        elif self.table.matching(name.encode()):
            self._orders.forsake(name.encode())
        else:
            self._orders.drop(name.encode())

    def _sweep(self) -> None:
        """Drop the topics that have lingered for long enough, some of them in this turn of the event loop."""
        now = time.monotonic()
        due = [name for name, until in itertools.islice(self._lingering.items(), DROPPED_AT_ONCE) if until <= now]
        for name in due:
            self._drop_lingering(name)
        if len(due) == DROPPED_AT_ONCE:
            self._loop.run_callback(self._sweep)
        if not self._lingering:
            self._sweeper.stop()

    def _drop_lingering(self, name: str) -> None:
        del self._lingering[name]
        found = self.table.find(name)
        if found is not None and not found.count:
            self._drop(name)

    def is_in_force(self, names: Sequence[str]) -> bool:
        """Whether `in_force` has nothing to wait for."""
        return self._hold(names) and self._orders.are_open(names)

    def _hold(self, names: Sequence[str]) -> bool:
        for name in names:
            found = self.table.find(name)
            if found is None or not self.backend.holds(found.rounds):
                return False
        return True

    def in_force(self, names: Sequence[str] = ()) -> tuple[str, ...]:
        """Wait until the subscriptions to these names (none: all that were made so far) hold everywhere, and their
        positions are known. Returns the addresses of the nodes that did not say so; raises NotInForce and
        StoreFailed."""
        unconfirmed = () if names and self._hold(names) else self.backend.in_force()
        if not names or any([name.endswith("*") for name in names]):  # as `is_in_force` has it: else nothing waits
            self._orders.date()
        for repaired in self._orders.open(names):
            self._deliver(repaired)
        return unconfirmed

    @property
    def is_fresh(self) -> bool:
        """Whether this worker may tell the positions of channels that it knows without asking the store."""
        return self.history is None or self.history.is_fresh

    def position(self, name: str) -> Cursor | None:
        """The cursor of the message behind which a subscription begins that is attached now. None where no order is
        kept: the channel has no history, or it is a pattern."""
        return self._orders.position(name)

    def at_end(self, name: str) -> Cursor | None:
        """The cursor of a channel's end, where all was delivered up to that; None: it has none, as far as this worker
        has come."""
        return self._orders.at_end(name)

    def begin(self, name: str, epoch: str) -> Cursor | None:
        """Begin a channel's history; see `Orders.begin`."""
        return self._orders.begin(name, epoch)

    def foresee(self, name: str) -> None:
        """Find out the epoch of a channel at `EARLIEST`, which was deleted; see `Orders.foresee`. The channel may be
        deleted again meanwhile."""
        self._orders.foresee(name)

    def compare(self, name: str, place: Cursor | None, position: Cursor) -> None:
        """Compare with the end of a channel's history, ``position``, which was asked for when this worker was at
        ``place``: missing messages will be fetched."""
        self._orders.compare(name, place, position)

    def vanished(self, name: str, place: Cursor, known: Cursor) -> None:
        """Note that a channel has no history any more; see `Orders.vanished`."""
        if self._orders.vanished(name, place, known):
            self._deliver(Repaired(name.encode(), Gap(place.epoch, 0, 0), []))

    @property
    def carried(self) -> int:
        """The number of channels and patterns with subscribers here."""
        return len(self.table)

    @property
    def ordered(self) -> int:
        """The number of channels with history whose order is kept."""
        return len(self._orders)

    # The fan-out.

    def _look(self) -> None:
        if not self._waiting and not self._gather():
            self._turn()

    def _look_here(self) -> None:
        # The hot path of a worker that is alone: no call on a ZeroMQ socket, which takes as long as sending.
        if not self._waiting and not self._gather():
            self._turn(local=True)

    def _gather(self) -> bool:
        """Put the next turn off, if messages should wait for each other."""
        wait = 0.0 if self.backend.more else self.pace.wait()
        if not wait:
            return False
        self._wait()
        self._again.close()
        self._again = self._loop.timer(wait)
        self._again.start(self._turn, update=True)
        return True

    def _wait(self) -> None:
        """Let no turn begin until `_go_on`."""
        self._waiting = True
        # Otherwise the loop would spin for as long as waiting messages keep the descriptor readable.
        self._readable.stop()

    def _go_on(self) -> None:
        if self._waiting:
            self._waiting = False
            self._readable.start(self._look)

    def _caught_up(self) -> None:
        self._go_on()
        self.backend.look_again()

    def _turn(self, *, local: bool = False) -> None:
        self._go_on()
        fan = self._fan
        began, puts, put_bytes, run_bytes = time.perf_counter(), fan.puts, fan.bytes, fan.run_bytes
        dirty: list[Sink] = []
        came: list[tuple[int, int]] = []
        try:
            for channel, run in self._runs(self.backend.receive(local=local), came):
                self._fan_out(channel, run, dirty)
                took = time.perf_counter() - began
                if took > TURN_TIME and took > TIME_OF_SINK * len(dirty):
                    self.backend.enough = True
        finally:
            # Also where this raises: messages that have come are sent, and those that still wait are received.
            self.sends.send(dirty, fan.bytes - put_bytes, fan.run_bytes - run_bytes)
            if self.sends.behind:
                self._wait()
            if self.backend.more if local else self.backend.readable:
                self.backend.look_again()
        if came:
            self.stats.observe_deliveries(came)
        if len(dirty) >= MANY:
            self.pace.turn(began, time.perf_counter(), (fan.puts - puts) / len(dirty))

    def _runs(
        self, turn: Iterator[tuple[bytes, Sequence[Message]] | Question], came: list[tuple[int, int]]
    ) -> Iterator[tuple[bytes, list[Message]]]:
        """The turn's messages, as runs of the same channel; questions of other workers are answered on the way.
        ``came`` gets pairs of a time of publishing and a number of messages."""
        current: bytes | None = None
        run: list[Message] = []
        for received in turn:
            if isinstance(received, Question):
                faults.call("an answer to a worker", self.answers.answer, received)
                continue
            channel, messages = received
            if not messages:
                self.stats.bad_frames += 1
                continue
            if not self.table.matching(channel):
                continue  # nobody wants the channel any more, or, on a worker alone, ever did
            first = messages[0]
            if run and (channel != current or first.kind == Kind.DELETION):
                assert current is not None
                yield current, run
                run = []
            if first.kind == Kind.DELETION:
                self._ends.deleted(channel, first.cursor)
                continue
            current = channel
            came.append((first.published, len(messages)))
            if first.cursor is None:
                run += messages
            else:
                for message in messages:
                    run += self._orders.take(channel, message)
                    if run and run[-1].attributes is not None and run[-1].attributes.end:
                        yield channel, run
                        run = []
        if run:
            assert current is not None
            yield current, run

    def _fan_out(self, channel: bytes, run: list[Message], dirty: list[Sink]) -> None:
        last = run[-1]
        if last.attributes is not None and last.attributes.end:
            if last.is_empty_end:
                run = run[:-1]
            if run:
                self._fan.put(channel, run, dirty)
            self._ends.delivered(last, dirty)
        else:
            self._fan.put(channel, run, dirty)

    def _deliver(self, repaired: Repaired) -> None:
        """Deliver messages that did not come by the backbone as they should."""
        channel, gap, messages, fetched = repaired
        dirty: list[Sink] = []
        if gap is not None:
            self.stats.gaps += 1
            self._fan.tell_gap(channel, gap, dirty)
        if messages:
            self._fan_out(channel, messages, dirty)
            self.stats.repaired += fetched
        elif gap is not None:
            self._ends.missed(channel, dirty)
        flush(dirty)
