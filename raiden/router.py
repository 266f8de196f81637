"""What a worker publishes, and the fan-out of what comes to its subscribers.

Who has subscribed to what is in the table (`raiden.table`). The first subscription of a name subscribes the backbone,
the last to go unsubscribes it. A subscription gets messages once it is attached: then the backbone's is in force, and
the channel's order (`raiden.repair`) tells where it begins.

A turn takes what the backbone has, in order. Consecutive messages of one channel are a run: a run is encoded once per
encoding, joined once, and the same bytes are put before every sink. At the end of the turn each sink that got something
sends it, in one piece. So idle, a message leaves at once; loaded, runs grow by themselves and one send carries many.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import gevent
import ujson

from raiden import faults
from raiden.backend import TURN_BYTES, BackboneFull, Backend, Question
from raiden.frames import runs
from raiden.history.store import Appended, StoreFailed
from raiden.model.encoding import Encoding, dumps
from raiden.model.filters import Filters
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.page import Gap
from raiden.model.refusals import Refusal
from raiden.pace import Pace
from raiden.repair import Orders, Repaired
from raiden.stats import Stats
from raiden.table import MAX_ROWS, Group, Sink, Subscriber, Subscription, Table, Topic, clients_of

# Fewer subscribers than these take no time that is worth a wait.
MANY: Final = 100
# So many messages are stored before the end of the turn: a commit for them costs less than they do.
WORTH_A_COMMIT: Final = 8
# Seconds for which a topic is kept that will probably be subscribed to again: by a long-poll, once it was answered.
LINGER = 5.0
# Where a turn puts more bytes than the first number before its sinks, those that have more than the second send it in
# slices of so many seconds, between which others have their turn: to hundreds of subscribers who don't read, it may be
# tenths of a second until the kernel has taken it. With more bytes behind than LAG, no turn begins: more than a turn's
# bytes in one go would make a slow consumer of a sink that reads what it is sent.
MUCH: Final = 1 << 20
LARGE: Final = 16 << 10
SLICE: Final = 0.005
LAG: Final = TURN_BYTES
# Seconds for which a turn takes what has come, or so many for each sink that it will send to, if that is more: a
# message may be for a hundred patterns of few clients.
TURN_TIME: Final = 0.01
TIME_OF_SINK: Final = 0.00002
# So many of these are dropped before others have their turn.
DROPPED_AT_ONCE = 500
# The gap told to subscribers to whom a delivery failed: nobody knows how much of it they have.
LOST = Gap("", 0, 0)


Published = Callable[[list[list[Cursor]] | Refusal], None]
Answered = Callable[[Any, "Cursor | Refusal | None"], None]


class Router:
    """Fans messages out to this worker's subscribers. Times are seconds: ``max_gather`` bounds how long a turn may be
    put off to let messages gather (`raiden.pace`); ``gap_time`` and ``check_every`` are those of `Orders`."""

    def __init__(
        self, backend: Backend, *, stats: Stats, max_channels: int = 100_000, max_channel_bytes: int = 4 << 20,
        max_gather: float = 0.02, gap_time: float = 0.05, check_every: float = 5.0,
    ) -> None:  # fmt: skip
        self.backend = backend
        self.stats = stats
        self.table = Table(max_channels=max_channels, max_bytes=max_channel_bytes)
        self.pace = Pace(max_gather)
        # How many messages were put before sinks, one for each.
        self._puts = 0
        # Bytes that were put before sinks, counted for each, and counted once: no sink got more.
        self._put_bytes = self._run_bytes = 0
        # What is published at the end of the turn, by channel: messages, and whom to tell; how many are to be stored.
        self._batches: dict[str, tuple[list[Message], list[tuple[Answered, Any]], bool]] = {}
        self._to_store = 0
        self._orders = Orders(backend, self.table, gap_time=gap_time, check_every=check_every, limit=2 * max_channels)
        self._loop = gevent.get_hub().loop
        self._readable = self._loop.io(backend.fileno, 1)
        self._again = self._loop.timer(0)
        self._waiting = False
        # Sinks that have yet to send; bytes that came since there are some; and whether these are too many.
        self._unsent: deque[Sink] = deque()
        self._lag = 0
        self._behind = False
        self._slice = self._loop.timer(0)
        # Names of topics without subscriptions that are kept, and until when, in this order.
        self._lingering: dict[str, float] = {}
        self._sweeper = self._loop.timer(LINGER / 5, LINGER / 5)

    def start(self) -> None:
        self._readable.start(self._look)
        self.backend.touched.start(self._look)
        self.backend.heard = self._look_here

    def stop(self) -> None:
        for watcher in (self._readable, self._again, self._slice, self._sweeper):
            watcher.stop()
            watcher.close()
        self.backend.touched.stop()

    def keeps(self, channel: str) -> bool:
        """The channel has a history."""
        return self.backend.keeps(channel)

    def clear(self, channel: str) -> None:
        """Delete a channel: clear its history and end its subscriptions. Waits; raises StoreFailed and BackboneFull."""
        cursor = None
        if self.backend.history is not None and self.backend.keeps(channel):
            # It tells which epoch has ended: others may publish in the next one before they hear of it.
            cursor = EARLIEST._replace(epoch=self.backend.history.clear(channel) or EARLIEST.epoch)
        if not self.backend.alone:
            # What other workers have acknowledged comes before the end: their answers come behind it.
            self.backend.ask(b"reached", everywhere=True)
        self.publish_now([Message(channel, Kind.END, b"", cursor)])

    def repair(self) -> None:
        """Deliver what the backbone lost, where there is a history; endless, for a greenlet."""
        if self.backend.history is not None:
            for repaired in self._orders.repairs():
                self._deliver(repaired)

    def sweep(self) -> None:
        """Forget the orders of channels that nobody subscribes to any more; endless, for a greenlet."""
        self._orders.sweep()

    def publish(self, *groups: Sequence[Message], key: str | None = None, done: Published) -> None:
        """Publish groups of messages, each of one channel and one kind: a group, and all that are of channels with
        history, as a whole or not at all. ``done`` is called later, with the cursors of each group, or why it was not
        published; raises StoreFailed. What was published under ``key`` in the last five minutes is not published again,
        and gets the cursors that it got then."""
        self.publish_turn()
        keeps = [self.backend.keeps(group[0].channel) for group in groups]
        if not any(keeps):
            self._loop.run_callback(done, self._finish(groups, keeps, ()))
            return

        def stored(result: list[Appended] | StoreFailed) -> None:
            done(self._finish(groups, keeps, result) if isinstance(result, list) else result)

        self.backend.store([group for group, kept in zip(groups, keeps, strict=True) if kept], key, stored)

    def _finish(
        self, groups: Sequence[Sequence[Message]], keeps: Sequence[bool], result: Sequence[Appended]
    ) -> list[list[Cursor]] | BackboneFull:
        """Publish the groups that need not be stored, behind those that were. Returns the cursors of all."""
        appended = iter(result)
        cursors: list[list[Cursor]] = []
        for group, kept in zip(groups, keeps, strict=True):
            if not kept:
                cursors.append([])
                try:
                    self.publish_now(group)
                except BackboneFull as error:
                    return error
                continue
            one = next(appended)
            cursors.append(one.cursors())
            if not one.repeated:
                self._count(group)
        return cursors

    def publish_now(self, messages: Sequence[Message]) -> None:
        """Publish messages of one channel, which has no history, and of one kind; raises BackboneFull."""
        self.publish_turn()
        self._publish(messages)

    def publish_one(self, message: Message, done: Answered, asker: Any, key: str | None = None) -> None:
        """Publish a message together with what the event loop brings in this turn, which costs each of them least: what
        is published to one channel is one append to its history, and one frame. Then ``done(asker, outcome)`` is
        called, with the message's cursor, None where the channel keeps no history, or why it was not published."""
        if key is not None:
            self.publish([message], key=key, done=lambda outcome: done(asker, _only(outcome)))
            return
        batch = self._batches.get(message.channel)
        if batch is None:
            if not self._batches:
                self._loop.run_callback(self.publish_turn)
            batch = self._batches[message.channel] = ([], [], self.backend.keeps(message.channel))
        messages, askers, keeps = batch
        messages.append(message)
        askers.append((done, asker))
        if keeps:
            self._to_store += 1
            if self._to_store >= WORTH_A_COMMIT:
                # The history works while the event loop goes on; it puts together again what comes faster.
                self.publish_turn()
                self.backend.store_now()

    def publish_turn(self) -> None:
        """Publish what waits for the end of the turn."""
        batches, self._batches = self._batches, {}
        self._to_store = 0
        answers: list[tuple[list[tuple[Answered, Any]], Sequence[Refusal | None]]] = []
        for messages, askers, keeps in batches.values():
            if not keeps:
                answers.append((askers, self._publish_runs(messages)))
                continue
            # Where one may be refused for want of room, the others must not be for its sake.
            step = 1 if self.backend.most_at_once(messages[0].channel) else len(messages)
            for at in range(0, len(messages), step):
                some = askers[at : at + step]
                try:
                    self._store(messages[at : at + step], some)
                except StoreFailed as error:
                    answers.append((some, [error] * len(some)))
        # Who is told may publish at once, which must not overtake the rest.
        for askers, outcomes in answers:
            _tell_all(askers, outcomes)

    def _publish_runs(self, messages: Sequence[Message]) -> list[Refusal | None]:
        """Publish messages of one channel, which has no history. Returns why each was not."""
        outcomes: list[Refusal | None] = []
        for run in runs(messages):
            outcome = None
            try:
                self._publish(run)
            except BackboneFull as error:
                outcome = error
            outcomes += [outcome] * len(run)
        return outcomes

    def _store(self, messages: Sequence[Message], askers: Sequence[tuple[Answered, Any]]) -> None:
        """Store messages of one channel; publish them, and tell the askers, when that is done. Raises StoreFailed."""

        def stored(result: list[Appended] | StoreFailed) -> None:
            if isinstance(result, list):
                self._count(messages)
            outcomes: Sequence[Cursor | Refusal]
            outcomes = result[0].cursors() if isinstance(result, list) else [result] * len(askers)
            _tell_all(askers, outcomes)

        self.backend.store([messages], None, stored)

    def _publish(self, messages: Sequence[Message]) -> None:
        self.backend.publish(messages)
        self._count(messages)

    def _count(self, messages: Sequence[Message]) -> None:
        self.stats.published += len(messages)
        self.stats.bytes_in += sum([len(message.payload) for message in messages])
        passed = time.time_ns() // 1000 - messages[0].published
        self.stats.publish_latency.observe(max(0, passed) / 1e6, len(messages))

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
        """Let the sink get what comes next; on a channel with history, what follows its `position`."""
        found = subscription.topic
        if found is not None:
            found.attach(subscription)

    def unsubscribe(self, subscription: Subscription, *, linger: bool = False) -> None:
        """Remove a subscription; one that is not there any more is ignored. ``linger``: it may soon be made again, so
        if it is its topic's last, the topic is kept for `LINGER` seconds."""
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
        """Last out: nothing yields between the table's change and the backbone's."""
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
        """Whether what this worker knows of channels' positions may be told without asking the store."""
        history = self.backend.history
        return history is None or history.is_fresh

    def position(self, name: str) -> Cursor | None:
        """Where who is attached now begins: behind this message. None where no order is kept: the channel has no
        history, or it is a pattern."""
        return self._orders.position(name)

    def begin(self, name: str, epoch: str) -> Cursor | None:
        """A channel's history has begun; see `Orders.begin`."""
        return self._orders.begin(name, epoch)

    def compare(self, name: str, place: Cursor | None, position: Cursor) -> None:
        """A channel's history goes as far as ``position``, as was found out when this worker was at ``place``: what is
        missing will be fetched."""
        self._orders.compare(name, place, position)

    def vanished(self, name: str, place: Cursor, known: Cursor) -> None:
        """A channel has no history any more; see `Orders.vanished`."""
        if self._orders.vanished(name, place, known):
            self._deliver(Repaired(name.encode(), Gap(place.epoch, 0, 0), []))

    @property
    def carried(self) -> int:
        """How many channels and patterns have subscribers here."""
        return len(self.table)

    @property
    def ordered(self) -> int:
        """How many channels with history it keeps the order of."""
        return len(self._orders)

    # The fan-out.

    def _look(self) -> None:
        if not self._waiting and not self._gather():
            self._turn()

    def _look_here(self) -> None:
        # The hot path of a worker that is alone: not a call on a ZeroMQ socket, which takes as long as to send.
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
        # Or the loop would spin for as long as what waits keeps the descriptor readable.
        self._readable.stop()

    def _go_on(self) -> None:
        if self._waiting:
            self._waiting = False
            self._readable.start(self._look)

    def _turn(self, *, local: bool = False) -> None:
        self._go_on()
        began, puts = time.perf_counter(), self._puts
        put_bytes, run_bytes = self._put_bytes, self._run_bytes
        dirty: list[Sink] = []
        came: list[tuple[int, int]] = []
        try:
            for channel, run in self._runs(self.backend.receive(local=local), came):
                self._fan_out(channel, run, dirty)
                took = time.perf_counter() - began
                if took > TURN_TIME and took > TIME_OF_SINK * len(dirty):
                    self.backend.enough = True
        finally:
            # Also where this raises: what has come is sent, and what still waits is received.
            self._send(dirty, self._put_bytes - put_bytes, self._run_bytes - run_bytes)
            if self.backend.more if local else self.backend.readable:
                self.backend.touched.send()
        if came:
            self.stats.observe_deliveries(came)
        if len(dirty) >= MANY:
            self.pace.turn(began, time.perf_counter(), (self._puts - puts) / len(dirty))

    def _send(self, dirty: list[Sink], size: int, most: int) -> None:
        """Let sinks send what a turn has put before them: ``size`` bytes in all, each ``most`` at most."""
        if size > MUCH:
            small: list[Sink] = []
            for sink in dirty:
                large = sum([len(data) for data in sink.pending]) > LARGE
                (self._unsent if large else small).append(sink)
            dirty = small
        _flush(dirty)
        if self._unsent:
            self._lag += most
            if self._lag > LAG and not self._behind:
                self._behind = True
                self._wait()
            if not self._slice.active:
                self._slice.start(self._send_on)

    def _send_on(self) -> None:
        until = time.perf_counter() + SLICE
        while self._unsent and time.perf_counter() < until:
            _flush((self._unsent.popleft(),))
        if self._unsent:
            self._slice.start(self._send_on)
        else:
            self._sent_all()

    def send_all(self) -> None:
        """Let sinks send at once what came for them: they are to be closed."""
        while self._unsent:
            _flush((self._unsent.popleft(),))
        self._sent_all()

    def _sent_all(self) -> None:
        self._lag = 0
        if self._behind:
            self._behind = False
            self._go_on()
            self.backend.touched.send()

    def _runs(
        self, turn: Iterator[tuple[bytes, Sequence[Message]] | Question], came: list[tuple[int, int]]
    ) -> Iterator[tuple[bytes, list[Message]]]:
        """The turn's messages, as runs of the same channel; questions of other workers are answered on the way.
        ``came`` gets when messages were published, and how many then."""
        current: bytes | None = None
        run: list[Message] = []
        for received in turn:
            if isinstance(received, Question):
                faults.call("an answer to a worker", self._answer, received)
                continue
            channel, messages = received
            if not messages:
                self.stats.bad_frames += 1
                continue
            if not self.table.matching(channel):
                continue  # nobody wants it any more, or, alone, ever did
            first = messages[0]
            if run and (channel != current or first.kind == Kind.END):
                assert current is not None
                yield current, run
                run = []
            if first.kind == Kind.END:
                self._end(channel, first.cursor)
                continue
            current = channel
            came.append((first.published, len(messages)))
            if first.cursor is None:
                run += messages
            else:
                for message in messages:
                    run += self._orders.take(channel, message)
        if run:
            assert current is not None
            yield current, run

    def _fan_out(self, channel: bytes, run: list[Message], dirty: list[Sink]) -> None:
        for found in self.table.matching(channel):
            found.messages += len(run)
            try:
                self._put(found, run, dirty)
            except Exception:  # whatever it is: who may have missed something is told so
                faults.report("a delivery")
                for subscription in found.subscriptions():
                    faults.call("telling of a gap", subscription.owner.missed, subscription, channel.decode(), LOST)
                    dirty.append(subscription.sink)

    def _deliver(self, repaired: Repaired) -> None:
        """What did not come by the backbone as it should."""
        channel, gap, messages, fetched = repaired
        dirty: list[Sink] = []
        if gap is not None:
            self.stats.gaps += 1
            for found in self.table.matching(channel):
                for subscription in found.subscriptions():
                    faults.call("telling of a gap", subscription.owner.missed, subscription, channel.decode(), gap)
                    dirty.append(subscription.sink)
        if messages:
            self._fan_out(channel, messages, dirty)
            self.stats.repaired += fetched
        _flush(dirty)

    def _put(self, found: Topic, run: list[Message], dirty: list[Sink]) -> None:
        for encoding, group in found.groups.items():
            self._put_before(encoding, group, run, dirty)
        filtered = found.filtered
        if filtered is not None:
            for key, passed in filtered.matching(run).items():
                self._put_before(key[0], filtered.groups[key], passed, dirty)

    def _put_before(self, encoding: Encoding, group: Group, messages: list[Message], dirty: list[Sink]) -> None:
        data = encoding(messages[0]) if len(messages) == 1 else encoding.run(messages)
        self._puts += len(messages) * len(group)
        self._put_bytes += len(data) * len(group)
        self._run_bytes += len(data)
        self.stats.delivered += len(messages) * clients_of(encoding, group)
        # The hot loop: one append a subscriber and run.
        for sink in group:
            pending = sink.pending
            if not pending:
                dirty.append(sink)
            pending.append(data)

    def _end(self, channel: bytes, ended: Cursor | None) -> None:
        if not self._orders.ended(channel, ended.epoch if ended else ""):
            return
        found = self.table.channels.get(channel + b"\0")
        for subscription in found.subscriptions() if found else []:
            if subscription.owner.lasts:
                continue
            _flush([subscription.sink])  # what came before, while it is known where the channel stands
            self.unsubscribe(subscription)
            faults.call("the end of a subscription", subscription.owner.ended, subscription)

    def _answer(self, question: Question) -> None:
        """Tell another worker, or this one, what it asks: for each of its arguments (`raiden.questions`)."""
        kind, _, text = question.text.partition(b" ")
        try:
            arguments = ujson.loads(text) if text else [None]
            answers = [self._tell(kind, argument) for argument in arguments]
        except (ValueError, TypeError):
            return  # no worker of this release asks so
        self.backend.answer(question, dumps(answers))

    def _tell(self, kind: bytes, argument: Any) -> Any:
        if kind == b"stats":
            return self.stats.snapshot()
        if kind == b"channel":
            return self.table.row(str(argument))
        if kind == b"channels":
            prefix, after, limit = argument
            return self.table.page(str(prefix), str(after), min(int(limit), MAX_ROWS))
        if kind == b"reached":
            return True
        raise ValueError(f"an unknown question: {kind!r:.100}")


def _flush(sinks: Iterable[Sink]) -> None:
    """Let each send what it has got; what fails at one does not keep the others from it."""
    for sink in sinks:
        try:
            sink.flush()
        except Exception:  # whatever it is
            faults.report("a delivery to a client")


def _tell_all(askers: Sequence[tuple[Answered, Any]], outcomes: Sequence[Cursor | Refusal | None]) -> None:
    """Tell each of the askers its outcome; what fails at one does not keep the others from hearing."""
    for (done, asker), outcome in zip(askers, outcomes, strict=True):
        try:
            done(asker, outcome)
        except Exception:  # whatever it is
            faults.report("an answer to a publisher")


def _only(outcome: list[list[Cursor]] | Refusal) -> Cursor | Refusal | None:
    """The cursor of the one message of the one group."""
    return outcome if isinstance(outcome, Refusal) else next(iter(outcome[0]), None)
