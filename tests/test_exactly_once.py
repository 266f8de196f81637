"""What subscribers get who come and go while messages are published, lost, late, and trimmed from the history, against
the plain rule: each offset after a subscriber's cursor once and in order, or inside one gap that is told.

The router, its orders, the recovery and the sessions are the real ones. The history and the backbone are drawn: between
each question and its answer anything may happen."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, TypeVar, cast

import gevent
import pytest

from raiden.backend import Backend
from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.model import encoding
from raiden.model.chain import Lives
from raiden.model.filters import Filters
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.page import Page, Record, Stand, Start
from raiden.protocols.http import Json
from raiden.router import Router
from raiden.runtime.stats import Stats
from raiden.sessions import in_band
from raiden.sessions.asks import Subscribe
from raiden.sessions.poll import Poll
from raiden.sessions.recovery import Beginning
from raiden.sessions.stream import Stream

CHANNEL = "a"
T = TypeVar("T")


class World:
    """A channel's history, and a backbone that is late: in ``inbox`` is what this worker has not got yet."""

    is_fresh = True  # its store always answers

    def __init__(self, random: Random, *, size: int, lost: float, swapped: float, deleted: float) -> None:
        self.random = random
        self.size, self.lost, self.swapped, self.deleted = size, lost, swapped, deleted
        self.lives = 1
        self.records: list[int] | None = None
        self.newest = 0
        self.inbox: list[Message] = []
        self.over = False
        # What a router wants of its backend.
        self.history = self
        self.channels = None
        self._come: deque[Message] = deque()
        self._pipe = os.pipe()
        self.fileno = self._pipe[0]
        self._look_here: Callable[[], None] = lambda: None
        self.more = self.readable = False
        self.rounds = 0

    def close(self) -> None:
        for end in self._pipe:
            os.close(end)

    @property
    def epoch(self) -> str:
        return f"e{self.lives}"

    @property
    def position(self) -> Cursor | None:
        return None if self.records is None else Cursor(self.epoch, self.newest)

    # What happens.

    def step(self) -> None:
        if self.over:
            return
        draw = self.random.random()
        if draw < 0.5:
            for _ in range(self.random.choice([1, 1, 2, self.size])):
                self.publish()
        elif draw < 0.9:
            self.deliver(self.random.choice([1, 1, 5, 1000]))
        elif draw < 0.9 + self.deleted:
            self.delete()

    def publish(self, *, surely: bool = False) -> None:
        if self.records is None:
            self.records, self.newest = [], 0
        self.newest += 1
        self.records = [*self.records, self.newest][-self.size :]
        if surely or self.random.random() >= self.lost:
            came = Message(CHANNEL, Kind.JSON, b"%d" % self.newest, Cursor(self.epoch, self.newest))
            at = len(self.inbox)
            if not surely and self.random.random() < self.swapped:
                at = self.random.randrange(at + 1)
            self.inbox.insert(at, came)

    def delete(self) -> None:
        epoch = EARLIEST.epoch if self.records is None else self.epoch
        if self.records is not None:
            self.records, self.lives = None, self.lives + 1
        self.inbox.append(Message(CHANNEL, Kind.DELETION, b"", Cursor(epoch, 0)))

    def deliver(self, count: int) -> None:
        self._come.extend(self.inbox[:count])
        del self.inbox[:count]
        self._look_here()

    # The backend, as far as a router uses it.

    def receive(self, *, local: bool = False, most: int = 0) -> Iterator[tuple[bytes, Sequence[Message]]]:
        while self._come:
            yield CHANNEL.encode(), [self._come.popleft()]

    def listen(self, look: Callable[[], None], look_here: Callable[[], None]) -> None:
        self._look_here = look_here

    def listen_no_more(self) -> None: ...

    def keeps(self, channel: str) -> bool:
        return True

    def subscribe(self, topic: bytes) -> None: ...

    def unsubscribe(self, topic: bytes) -> None: ...

    def holds(self, begun: int) -> bool:
        return True

    # The history.

    def _answer(self, make: Callable[[], T]) -> T:
        for _ in range(self.random.randrange(3)):
            self.step()
        gevent.sleep(0)
        answer = make()
        for _ in range(self.random.randrange(3)):
            self.step()
        gevent.sleep(0)
        return answer

    def positions(self, names: Sequence[str]) -> dict[str, Stand]:
        return self._answer(lambda: {} if self.position is None else {CHANNEL: Stand(self.position)})

    def open(self, names: Sequence[str]) -> dict[str, Stand]:
        return self._answer(lambda: {CHANNEL: Stand(self.position or Cursor(self.epoch, 0))})

    def after(self, name: str, cursor: Cursor | None, limit: int) -> Page:
        limit = min(limit, self.random.choice([1, 3, 100]))

        def after() -> Page:
            if self.records is None:
                return Page() if cursor == Cursor(self.epoch, 0) else Page.nothing(cursor, forward=True)
            lives = Lives(self.epoch, self.newest + 1)
            found = [record_of(offset) for offset in self.records if offset > lives.stand(cursor)]
            return Page.found(found, lives, "", cursor, limit, forward=True)

        return self._answer(after)

    def before(self, name: str, cursor: Cursor | None, limit: int) -> Page:
        assert cursor is None

        def before() -> Page:
            if self.records is None:
                return Page.nothing(None, forward=False)
            found = [record_of(offset) for offset in reversed(self.records)]
            lives = Lives(self.epoch, self.newest + 1)
            return Page.found(found[: limit + 1], lives, "", None, limit, forward=False)

        return self._answer(before)


def record_of(offset: int) -> Record:
    return Record(offset, Kind.JSON, b"%d" % offset, 7)


class Rule:
    """What one subscription may be told. ``at`` is the place behind which the next message must stand, at the beginning
    of the next life where that life is over: what a deletion has cleared is not told to those who were there. After a
    gap of unknown size it is None: anywhere in a life after the one that is over."""

    def __init__(self, world: World, at: Cursor | None) -> None:
        self.world = world
        self.at = at
        self.life = 0
        self.told: list[str] = [f"behind {at}"]

    def _follows(self, epoch: str, offset: int) -> bool:
        if self.at is None:
            return int(epoch[1:]) >= self.life
        if self.at.epoch == epoch:
            return offset == self.at.offset + 1
        return offset == 1 and self.is_over(self.at)

    def is_over(self, place: Cursor) -> bool:
        return place == EARLIEST or place.epoch != self.world.epoch

    def message(self, cursor: str, value: int) -> None:
        self.told.append(cursor)
        place = Cursor.parse(cursor)
        assert place.offset == value and self._follows(place.epoch, place.offset), self.told
        self.at = place

    def gap(self, missing: dict[str, Any] | None) -> None:
        self.told.append(f"gap {missing}")
        if missing is None:
            over = self.world.lives > self.life if self.at is None else self.is_over(self.at)
            assert over, f"{self.told}: nothing of it is over"
            self.life = 1 + (self.life if self.at is None else int(self.at.epoch.removeprefix("e")))
            self.at = None
            return
        epoch, first, last = missing["epoch"], missing["first"], missing["last"]
        assert self._follows(epoch, first), self.told
        if epoch == self.world.epoch:
            assert not set(range(first, last + 1)).intersection(self.world.records or ()), f"{self.told}: it is there"
        self.at = Cursor(epoch, last)

    def goes_on(self, cursor: str) -> Cursor:
        """Who comes back with this cursor has missed nothing, and gets nothing again."""
        self.told.append(f"go on behind {cursor}")
        place = Cursor.parse(cursor)
        over = self.at is not None and self.is_over(self.at) and (place == EARLIEST or place.offset == 0)
        assert self.at is None or place == self.at or over, self.told
        self.at = place
        return place


class Ear:
    """A connection whose peer reads all at once, and hands events to the rule."""

    closed = closing = False
    permit = None
    max_outbox = 1 << 20
    outbox_size = 0

    def __init__(self) -> None:
        self.pending: list[bytes] = []
        self.session: Stream | None = None
        self.rule: Rule | None = None
        self.failures: list[AssertionError] = []

    def send(self, data: bytes) -> None:
        for block in data.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            try:
                if fields.get("event") == "gap":
                    assert self.rule
                    self.rule.gap(json.loads(fields["data"])["missing"])
                elif "data" in fields:
                    assert self.rule
                    self.rule.message(fields["id"], int(fields["data"]))
                elif fields:
                    assert self.rule
                    self.rule.goes_on(fields["id"])
            except AssertionError as error:
                self.failures.append(error)  # raised here it would end the router's turn

    def flush(self) -> None:
        data = b"".join(self.pending)
        self.pending.clear()
        self.send(data)

    def wait_until_sent(self, timeout: float) -> bool:
        gevent.sleep(0)
        return not self.closed

    def finish(self, goodbye: bytes = b"") -> None:
        self.flush()
        self.session = None
        self.closed = True


class Clock:
    """The deadlines of connections: none ever comes."""

    def schedule(self, connection: object, seconds: float) -> None: ...


class Client:
    """Comes with a cursor, goes, and comes back with what it was told last, until it is told to stay."""

    def __init__(self, world: World, router: Router, start: Start, failures: list[AssertionError]) -> None:
        self.world, self.router, self.start = world, router, start
        self.failures = failures
        self.stays = False
        self.rule: Rule | None = None

    def run(self) -> None:
        raise NotImplementedError

    def is_at_the_end(self) -> bool:
        return self.rule is not None and self.rule.at == self.world.position

    def pause(self) -> None:
        for _ in range(self.world.random.randrange(1, 10)):
            gevent.sleep(0)

    def began(self, start: Start, place: Cursor | None, recovered: bool | None) -> Rule:
        """The rule for a subscription that asked to begin here, and is told that it does begin there."""
        if start.cursor is not None:
            return Rule(self.world, start.cursor)
        return Rule(self.world, place)  # what is before the earliest, or before the last ones, is not told


class EventStream(Client):
    def run(self) -> None:
        while True:
            ear = Ear()
            session = Stream(
                cast(Connection, ear), self.router, cast(Wheel, Clock()), 25.0, in_band.stream("event", False, False),
                [CHANNEL],
            )  # fmt: skip
            ear.session = session
            session.subscribe(CHANNEL, encoding.sse(False, False))
            beginning = Beginning(self.router, [CHANNEL], {CHANNEL: self.start})
            self.rule = ear.rule = self.began(self.start, beginning.place(CHANNEL), beginning.recovered(CHANNEL))
            session.begin(beginning)
            self.pause()
            session.tick()
            while self.stays and not ear.closed and not ear.failures:
                gevent.sleep(0.001)
            session.close()
            ear.closed = True
            self.failures += ear.failures
            if ear.rule.at is not None:
                self.start = Start(ear.rule.at)


POLL = Subscribe((CHANNEL,), Filters([]), {}, False, "poll", encoding.poll(False), wait=25.0)


def _answer(answers: list[Json], waiters: object, answer: Json) -> None:
    answers.append(answer)


class LongPoll(Client):
    def run(self) -> None:
        while True:
            answers: list[Json] = []
            poll = Poll(self.router, cast(Wheel, Clock()), POLL, partial(_answer, answers), 1 << 20)
            waiter = poll.join(cast(Connection, Ear()), cast(Any, None))
            poll.subscribe(CHANNEL, POLL.encoding)
            beginning = Beginning(self.router, [CHANNEL], {CHANNEL: self.start})
            rule = self.rule = self.began(self.start, beginning.place(CHANNEL), beginning.recovered(CHANNEL))
            poll.begin(beginning)
            poll.opened()
            self.pause()
            while not answers and (self.stays or self.world.random.random() < 0.9):
                gevent.sleep(0.001)
            waiter.tick() if not answers else None
            try:
                self.judge(rule, answers[0])
            except AssertionError as error:
                self.failures.append(error)

    def judge(self, rule: Rule, answer: Json) -> None:
        position = dict(answer.fields)["Raiden-Cursor"]
        if answer.status == 200:
            body = json.loads(answer.body)
            if "gap" in body:
                rule.gap(body["gap"]["missing"])
            for message in body["messages"]:
                rule.message(message["cursor"], message["data"])
            assert body["cursor"] == position
        self.start = Start(rule.goes_on(position))


def drawn_start(world: World) -> Start:
    """Where somebody may begin: behind what was got elsewhere, now or in an earlier life of the channel, or where no
    cursor says."""
    random = world.random
    draw = random.random()
    if draw < 0.6 and world.records is not None:
        return Start(Cursor(world.epoch, random.randrange(world.newest + 1)))
    if draw < 0.7:
        return Start(Cursor("e0", 7))
    if draw < 0.8:
        return Start(EARLIEST)
    return Start() if draw < 0.9 else Start(last=random.randrange(1, 6))


@contextmanager
def playing(world: World, *, gap_time: float) -> Iterator[tuple[Router, Callable[[Client], None]]]:
    """The router of a worker in this world, and what lets a client run there until the end."""
    router = Router(cast(Backend, world), stats=Stats(0), gap_time=gap_time, check_every=0.02)
    router.start()
    greenlets = [gevent.spawn(router.repair)]
    try:
        yield router, lambda client: greenlets.append(gevent.spawn(client.run))
        assert not any(greenlet.dead for greenlet in greenlets)
    finally:
        gevent.killall(greenlets)
        router.stop()
        world.close()


def come_to_the_end(world: World, clients: list[Client], failures: list[AssertionError]) -> None:
    """Nothing happens any more but one message that is not lost: all clients stay, and get it."""
    world.over = True
    for client in clients:
        client.stays = True
    world.publish(surely=True)
    world.deliver(len(world.inbox))
    with gevent.Timeout(10, AssertionError("not all clients get to the end")):
        while not failures and not all(client.is_at_the_end() for client in clients):
            gevent.sleep(0.002)
    assert not failures, failures[0]


@pytest.mark.parametrize("kind", [EventStream, LongPoll])
@pytest.mark.parametrize("seed", range(40))
def test_each_offset_once_or_in_one_gap(seed: int, kind: type[Client]) -> None:
    random = Random(seed)
    world = World(
        random, size=random.choice([3, 20, 250]), lost=random.choice([0, 0.1, 0.5]),
        swapped=random.choice([0, 0, 0.2]), deleted=random.choice([0, 0, 0.02]),
    )  # fmt: skip
    failures: list[AssertionError] = []
    clients: list[Client] = []
    with playing(world, gap_time=random.choice([0.0, 0.002])) as (router, run):
        for _ in range(random.choice([20, 80])):
            world.step()
            if len(clients) < 4 and random.random() < 0.2:
                clients.append(kind(world, router, drawn_start(world), failures))
                run(clients[-1])
            gevent.sleep(random.choice([0, 0, 0.001, 0.003]))
        come_to_the_end(world, clients, failures)


@pytest.mark.parametrize("kind", [EventStream, LongPoll])
def test_a_place_in_a_history_that_this_worker_has_heard_nothing_of(kind: type[Client]) -> None:
    """It keeps its epoch: who comes back with it is told what of that epoch is lost by then."""
    world = World(Random(0), size=1000, lost=0, swapped=0, deleted=0)
    world.over = True  # nothing happens but what this test does
    failures: list[AssertionError] = []
    with playing(world, gap_time=60) as (router, run):
        begin = Start(Cursor("e1", 0))
        clients = [kind(world, router, start, failures) for start in (Start(), begin)]
        run(clients[0])
        with gevent.Timeout(10):
            while router.position(CHANNEL) is None:
                gevent.sleep(0)
            world.publish()
            world.publish()
            run(clients[1])
            while clients[1].start is begin and not failures:
                gevent.sleep(0)
        assert clients[1].start == begin
        come_to_the_end(world, clients, failures)


def test_a_poll_that_does_not_wait_needs_no_timer() -> None:
    world = World(Random(0), size=1000, lost=0, swapped=0, deleted=0)
    world.over = True
    answers: list[Json] = []
    with playing(world, gap_time=60) as (router, _):
        at_once = POLL._replace(wait=0.0)
        poll = Poll(router, cast(Wheel, Clock()), at_once, partial(_answer, answers), 1 << 20)
        poll.join(cast(Connection, Ear()), cast(Any, None))
        poll.subscribe(CHANNEL, encoding.poll(False))
        poll.begin(Beginning(router, [CHANNEL], {CHANNEL: Start()}, whole=True))
        poll.opened()
        assert [(answer.status, dict(answer.fields)["Raiden-Cursor"]) for answer in answers] == [(204, "e1:0")]
