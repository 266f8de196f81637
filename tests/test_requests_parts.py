"""The parts of requests and replies that need no sockets, with a clock that the test turns."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from raiden.delivery.questions import TooManyQuestions
from raiden.model.message import Kind, Message
from raiden.model.refusals import Conflict, NotFound, Unavailable
from raiden.requests import asking, letters, serving
from raiden.requests.asking import Asking
from raiden.requests.deadlines import Deadlines
from raiden.requests.letters import Asked, Letter, Report
from raiden.requests.refusals import Full, Late, Lost, Nobody, TooLate
from raiden.requests.routes import Route
from raiden.requests.servers import Given, Pool, Server
from raiden.requests.serving import Serving

ONE, TWO = "n:0.0000000000000001", "n:1.0000000000000002"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.looked = 0

    def __call__(self) -> float:
        self.looked += 1
        return self.now


class Sink:
    """A server that keeps what it is given."""

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = ready
        self.most = 1 << 20
        self.given: list[Given] = []
        self.cancelled: list[str] = []

    def is_ready(self, size: int) -> bool:
        return self.ready and size <= self.most

    def give(self, given: Given, message: Message, left: float) -> None:
        self.given.append(given)

    def withdrawn(self, given: Given) -> None:
        self.cancelled.append(given.id)


def message(payload: bytes = b"1", channel: str = "a") -> Message:
    return Message(channel, Kind.JSON, payload)


def test_deadlines() -> None:
    """Against a list that is sorted anew each time."""
    chance = random.Random(1)
    deadlines: Deadlines[int] = Deadlines()
    times: dict[int, float] = {}
    now = 0.0
    for key in range(2000):
        at = now + chance.uniform(0, 60)
        deadlines.add(key, at)
        times[key] = at
        if chance.random() < 0.3:
            gone = chance.choice(list(times))
            deadlines.remove(gone, times.pop(gone))
        if chance.random() < 0.3:
            now += chance.uniform(0, 2)
            due = deadlines.due(now)
            assert all(times[each] <= now for each in due)
            for each in due:
                del times[each]
            assert all(at > now - 0.05 for at in times.values()), "none is later than a look"
    deadlines.due(now + 100)
    assert not deadlines


def test_the_server_with_the_fewest_open_requests_is_next() -> None:
    chance = random.Random(2)
    pool = Pool()
    servers = [Server("a", Sink(), "h", window=chance.randint(1, 5)) for _ in range(10)]
    for server in servers:
        pool.add(server)
    open_ones: list[Given] = []
    for number in range(3000):
        if open_ones and chance.random() < 0.5:
            pool.end(open_ones.pop(chance.randrange(len(open_ones))))
        free = [server for server in servers if len(server.open) < server.window]
        chosen = next(pool.choices(), None)
        assert (chosen is None) == (not free)
        if chosen is not None:
            assert len(chosen.open) == min(len(server.open) for server in free) == pool.least[0]
            given = Given(str(number), "x", number, 0.0, chosen)
            pool.begin(given)
            open_ones.append(given)
        assert pool.room == sum(server.window - len(server.open) for server in servers)
    for server in servers:
        pool.remove(server)
    assert pool.room == 0 and next(pool.choices(), None) is None
    for given in open_ones:
        pool.end(given)
    assert not any(server.open for server in servers)


def test_an_older_report_counts_for_nothing() -> None:
    route = Route("a")
    route.take(Report(TWO, 5, "a", 1, 0, 1, 4))
    route.take(Report(TWO, 4, "a", 0))
    assert route.best(ONE) == TWO
    route.take(Report(TWO, 6, "a", 0))
    assert route.best(ONE) is None and not route.workers


def test_letters() -> None:
    report = Report(ONE, 1, "a", 2, 1, 1, 9)
    for letter in (
        Asked(ONE, 1, "ä", 2, b"\0\xff", 4.5, True), letters.Answered(1, 0, b"1", report), letters.Told(report),
        letters.Failed(1, 2, "no", report), letters.Settle(ONE, 1, "id", "h", 0, b"", 1, None), letters.Ping(ONE),
    ):  # fmt: skip
        data = letters.to_bytes(letter)
        assert letters.from_bytes(data) == letter
        for end in range(len(data)):
            assert letters.from_bytes(data[:end]) is None
    assert letters.from_bytes(b"\x92\x0d\xa1a") == letters.Ping("a")
    assert letters.from_bytes(b"\x92\x0d\xa1\xff") is None, "no UTF-8"
    for size in range(200):
        letters.from_bytes(os.urandom(size))  # a letter or None, and no error
    assert letters.report_of(letters.to_row(report)) == report
    for value in (None, [], [1], [ONE, "1", "a", 2], {"worker": ONE}):
        assert letters.report_of(value) is None
    assert letters.life_in("0123456789abcdef-x") == "0123456789abcdef"
    assert letters.life_in("0123456789abcdeg-x") is None and letters.life_in("") is None


class Pair:
    """Both halves of two workers, whose letters go at once; what `Asking` seeks is found when the test says so."""

    def __init__(self, *, most: int = 10_000) -> None:
        self.clock = Clock()
        self.sought: list[str] = []
        self.servings = {name: Serving(name, self._post, self.clock) for name in (ONE, TWO)}
        self.asking = Asking(
            ONE, self._post, self.servings[ONE].report, self.sought.append, self.clock, lambda: most
        )  # fmt: skip
        self.outcomes: list[Any] = []
        self.posted: list[Letter] = []
        self.is_full = False

    def _post(self, worker: str, letter: Letter) -> bool:
        if self.is_full:
            return False
        self.posted.append(letter)
        there = self.servings[worker]
        by_kind: dict[type, Callable[[Any], object]] = {
            Asked: there.take,
            letters.Withdrawn: lambda letter: there.withdraw(letter.asker, letter.number),
            letters.Waits: lambda letter: there.wait(letter.asker, letter.channel),
            letters.Passed: lambda letter: there.passed(letter.asker, letter.channel),
            letters.Ping: lambda letter: None,
            letters.Answered: lambda letter: self.asking.answered(letter.number, message(), letter.report),
            letters.Dropped: lambda letter: self.asking.dropped(letter.number, letter.report),
            letters.Returned: lambda letter: self.asking.returned(letter.number, letter.report),
            letters.Called: lambda letter: self.asking.called(letter.report),
            letters.Told: lambda letter: self.asking.told(letter.report),
        }
        by_kind[type(letter)](letter)
        return True

    def ask(self, payload: bytes = b"1", *, again: bool = False, timeout: float = 5.0) -> Any:
        return self.asking.ask(message(payload), timeout, again=again, done=self.outcomes.append)

    def found(self) -> None:
        reports = [each.follow("a", ONE) for each in self.servings.values()]
        for channel in self.sought[:]:
            self.sought.remove(channel)
            self.asking.found(channel, reports)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.now += 0.05
            self.asking.tick()
            for each in self.servings.values():
                each.tick()


def test_a_worker_is_asked_for_its_servers_first() -> None:
    pair = Pair()
    sink = Sink()
    pair.servings[TWO].add("a", sink, "h", window=2)
    pair.ask()
    assert pair.sought == ["a"] and not sink.given
    pair.found()
    assert len(sink.given) == 1
    pair.servings[TWO].settle(sink.given[0].id, "h", message())
    assert len(pair.outcomes) == 1 and pair.asking.open == 0 and pair.servings[TWO].open == 0


def test_a_server_that_comes_meanwhile_is_not_forgotten_by_an_older_answer() -> None:
    pair = Pair()
    pair.ask()
    old = pair.servings[TWO].report("a")
    sink = Sink()
    pair.servings[TWO].add("a", sink, "h", window=2)
    pair.asking.told(pair.servings[TWO].report("a"))  # as all are told of a new server
    pair.asking.found("a", [old])
    assert len(sink.given) == 1 and not pair.outcomes


def test_nobody_and_late() -> None:
    pair = Pair()
    pair.ask()
    pair.found()
    assert isinstance(pair.outcomes.pop(), Nobody)
    sink = Sink(ready=False)
    pair.servings[TWO].add("a", sink, "h", window=2)
    pair.ask()
    pair.found()
    pair.pass_time(4.9)
    assert not pair.outcomes and not sink.given
    pair.pass_time(0.3)
    assert isinstance(pair.outcomes.pop(), Late)


def test_an_answer_after_the_deadline_is_refused_before_anybody_has_looked_at_the_clock() -> None:
    pair = Pair()
    sink = Sink()
    pair.servings[TWO].add("a", sink, "h", window=1)
    pair.ask()
    pair.found()
    pair.clock.now += 5.01
    for _ in range(2):
        with pytest.raises(TooLate):
            pair.servings[TWO].settle(sink.given[0].id, "h", message())
    assert pair.servings[TWO].report("a").room == 1


def test_a_lost_request_is_given_to_another_server_only_where_that_is_wanted() -> None:
    for again in (False, True):
        pair = Pair()
        first, second = Sink(), Sink()
        server = pair.servings[TWO].add("a", first, "first", window=2)
        pair.ask(again=again)
        pair.found()
        pair.servings[ONE].add("a", second, "second", window=2)
        pair.servings[TWO].remove(server)
        pair.found()
        assert len(second.given) == again
        if not again:
            assert isinstance(pair.outcomes.pop(), Lost)
            continue
        with pytest.raises(NotFound):
            pair.servings[TWO].settle(first.given[0].id, "first", message())
        pair.servings[ONE].settle(second.given[0].id, "second", message())
        assert len(pair.outcomes) == 1


def test_workers_that_have_gone() -> None:
    pair = Pair()
    sink = Sink()
    pair.servings[TWO].add("a", sink, "h", window=2)
    pair.ask()
    pair.found()
    pair.servings[TWO].gone(lambda worker: worker == ONE)
    assert sink.cancelled == [sink.given[0].id], "nobody waits for the answer"
    pair.asking.gone(lambda worker: worker == TWO)
    assert isinstance(pair.outcomes.pop(), Lost) and pair.asking.open == 0


def test_a_worker_that_gives_no_sign_of_life() -> None:
    pair = Pair()
    pair.servings[TWO].add("a", Sink(), "h", window=2)
    pair.ask(timeout=60.0)
    pair.found()
    pair.pass_time(asking.SILENT - 2)
    pair.asking.heard_of(TWO)
    pair.pass_time(asking.SILENT - 2)
    assert not pair.outcomes
    pair.pass_time(5)
    assert isinstance(pair.outcomes.pop(), Lost)


def test_a_worker_that_stood_still_does_not_take_the_others_for_dead() -> None:
    pair = Pair()
    pair.servings[TWO].add("a", Sink(), "h", window=2)
    pair.ask(timeout=60.0)
    pair.found()
    pair.pass_time(1)
    pair.clock.now += asking.SILENT + 5  # what has come meanwhile is heard behind the next look
    pair.pass_time(1)
    pair.asking.heard_of(TWO)
    pair.pass_time(asking.SILENT - 2)
    assert not pair.outcomes
    pair.pass_time(5)
    assert isinstance(pair.outcomes.pop(), Lost)


def test_a_request_that_comes_twice_is_given_once() -> None:
    pair = Pair()
    sink = Sink()
    pair.servings[TWO].add("a", sink, "h", window=2)
    pair.ask()
    pair.found()
    asked = next(letter for letter in pair.posted if isinstance(letter, Asked))
    pair.servings[TWO].take(asked)
    assert len(sink.given) == 1
    pair.servings[TWO].settle(sink.given[0].id, "h", message())
    assert pair.servings[TWO].open == 0 and pair.servings[TWO].report("a").room == 2


def test_an_answer_while_the_backbone_is_full_may_come_again() -> None:
    for stays in (True, False):
        pair = Pair()
        sink, serving = Sink(), pair.servings[TWO]
        server = serving.add("a", sink, "h", window=2, stays=stays)
        pair.ask()
        pair.found()
        if not stays:
            serving.remove(server, returns=True)
        pair.is_full = True
        for _ in range(2):
            with pytest.raises(Unavailable, match="again"):
                serving.settle(sink.given[0].id, "h", message())
        assert serving.open == 1 and not pair.outcomes
        pair.is_full = False
        serving.settle(sink.given[0].id, "h", message())
        assert len(pair.outcomes) == 1 and serving.open == 0 and not server.open
        assert serving.report("a").room == (2 if stays else 0)
        with pytest.raises(Conflict):
            serving.settle(sink.given[0].id, "h", message())


@pytest.mark.parametrize("where", [ONE, TWO])
def test_a_server_that_does_not_read_is_not_tried_again_and_again(where: str) -> None:
    pair = Pair()
    sink, second = Sink(ready=False), Sink()
    pair.servings[where].add("a", sink, "h", window=10)
    pair.ask(timeout=30)
    pair.found()
    pair.posted.clear()
    pair.pass_time(5)
    assert sum(isinstance(letter, Asked) for letter in pair.posted) <= 5, "a request has a body that may be large"
    sink.ready = True
    pair.pass_time(0.1)
    assert len(sink.given) == 1
    sink.most = 1000  # there is room for small ones only
    pair.ask(bytes(2000), timeout=30)
    pair.posted.clear()
    pair.pass_time(5)
    assert sum(isinstance(letter, Asked) for letter in pair.posted) <= 10 and len(sink.given) == 1
    pair.servings[where].add("a", second, "second", window=1)
    assert len(second.given) == 1


def test_servers_are_known_on_while_they_cannot_be_asked_for() -> None:
    pair = Pair()
    near, far = Sink(), Sink()
    server = pair.servings[TWO].add("a", far, "far", window=1)
    pair.ask()
    pair.found()
    pair.asking.found("a", [], TooManyQuestions("later"))
    pair.servings[TWO].settle(far.given[0].id, "far", message())
    pair.ask()
    assert len(far.given) == 2 and not pair.sought, "it is known where the server is"
    pair.servings[TWO].remove(server)
    # A channel of which only the servers here are known, and these have no room.
    pair = Pair()
    pair.servings[ONE].add("a", near, "near", window=1)
    for _ in range(2):
        pair.ask(timeout=30)
    assert len(near.given) == 1 and pair.sought == ["a"]
    for _ in range(3):
        pair.sought.clear()
        pair.asking.found("a", [pair.servings[ONE].report("a")], TooManyQuestions("later"))
        assert not pair.sought, "not at once: they can't be asked for now, either"
        pair.pass_time(1.1)
        assert pair.sought == ["a"]
    pair.found()
    pair.servings[ONE].settle(near.given[0].id, "near", message())
    assert len(near.given) == 2


def test_channels_that_wait_for_a_long_poll_cost_nothing_meanwhile() -> None:
    pair = Pair()
    there = pair.servings[TWO]
    for number in range(serving.MAX_CHANNELS + 1):
        there.remove(there.add(f"c{number}", Sink(), "h", window=1, stays=False), returns=True)
    assert there.serves("c0") and not there.serves(f"c{serving.MAX_CHANNELS}"), "only so many are waited for"
    pair.clock.looked = 0
    there.tick()
    assert pair.clock.looked < 10, "nobody is to be told of them"
    pair.pass_time(1)
    assert pair.clock.looked < serving.MAX_CHANNELS, "each is looked at when its time is up"
    pair.pass_time(serving.LINGER)
    assert not there.serves("c0") and not there.is_busy


def test_bounds() -> None:
    pair = Pair(most=3000)
    for _ in range(asking.MAX_WAITING):
        pair.ask()
    with pytest.raises(Full, match="wait for servers"):
        pair.ask()
    pair = Pair(most=10)
    for _ in range(10):
        request = pair.ask()
    with pytest.raises(Full, match="max_requests"):
        pair.ask()
    pair.asking.cancel(request)
    pair.ask()
    pair = Pair()
    large = bytes(asking.MAX_BYTES // 4)
    for _ in range(4):
        pair.ask(large)
    with pytest.raises(Full, match="bytes"):
        pair.ask()
    servers = pair.servings[ONE]
    for number in range(100):
        server = servers.add(f"b{number}", Sink(), "h", window=1000)
    with pytest.raises(Unavailable):
        servers.add("b", Sink(), "h", window=1)
    servers.remove(server)
    servers.remove(server)
    servers.add("b", Sink(), "h", window=1000)


def test_requests_that_are_over_are_forgotten() -> None:
    pair = Pair()
    sink = Sink()
    pair.servings[TWO].add("a", sink, "h", window=1)
    for _ in range(serving.MAX_OVER + 5):
        pair.ask()
        pair.found()
        pair.servings[TWO].settle(sink.given[-1].id, "h", message())
    with pytest.raises(NotFound):
        pair.servings[TWO].settle(sink.given[0].id, "h", message())
    assert len(pair.outcomes) == serving.MAX_OVER + 5
    pair.pass_time(asking.UNUSED + 2)
    assert not pair.asking.is_busy, "the way is forgotten"
