"""Token buckets: against a naive model, in a table that is too small, and shared by processes."""

from __future__ import annotations

import os
import random
import signal
import time
from fractions import Fraction

import pytest

from raiden.access.buckets import ROW, WAYS, Buckets, whole
from raiden.access.rates import MOST, TABLE, Rates, limits
from raiden.model.refusals import TooFast, TooLarge
from raiden.runtime.shared import Shared


class Clock:
    """A clock that a test sets. Its steps are powers of two, so that sums of them are exact."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Naive:
    """A bucket as one would write it down: tokens, and the time when they were counted."""

    def __init__(self, clock: Clock, per_second: float, at_once: float) -> None:
        self.clock = clock
        self.per_second, self.at_once = Fraction(per_second), Fraction(at_once)
        self.tokens, self.counted = self.at_once, Fraction(clock.now)

    def left(self) -> Fraction:
        now = Fraction(self.clock.now)
        self.tokens = min(self.at_once, self.tokens + (now - self.counted) * self.per_second)
        self.counted = now
        return self.tokens

    def take(self, count: float, needed: float) -> Fraction:
        """Take tokens; or return the seconds until there are enough."""
        left = self.left()
        if left < needed:
            return (Fraction(needed) - left) / self.per_second
        self.tokens -= Fraction(count)
        return Fraction(0)


def bucket(rng: random.Random) -> tuple[float, float]:
    return 2.0 ** rng.randint(-3, 8), float(rng.choice((1, 2, 5, 64, 200)))


@pytest.mark.parametrize("seed", range(20))
def test_all_that_it_says_is_what_the_model_says(seed: int) -> None:
    rng, clock = random.Random(seed), Clock()
    table = Buckets(bytearray(ROW * 4096), clock)
    kinds = {rng.getrandbits(63): bucket(rng) for _ in range(20)}
    models = {key: Naive(clock, *kind) for key, kind in kinds.items()}
    for _ in range(3000):
        clock.now += rng.choice((0.0, 0.0, 2.0**-10, 2.0**-4, 0.5, 30.0))
        key = rng.choice(list(kinds))
        per_second, at_once = kinds[key]
        count = float(rng.randint(1, int(at_once)))
        what = rng.random()
        if what < 0.7:
            assert table.take(key, per_second, at_once, count) == models[key].take(count, count)
        elif what < 0.85:
            assert table.owe(key, per_second, at_once, count + 3) == models[key].take(count + 3, 1.0)
        elif not table.take(key, per_second, at_once, count):
            table.give_back(key, per_second, count)
            models[key].take(0.0, 0.0)
        assert table.left(key, per_second, at_once) == models[key].left()


@pytest.mark.parametrize("seed", range(10))
def test_a_forgotten_bucket_gives_no_more_than_a_full_one(seed: int) -> None:
    """The table has room for 16, and 60 clients are there."""
    rng, clock = random.Random(seed), Clock()
    table = Buckets(bytearray(ROW * WAYS * 2), clock)
    keys = [rng.getrandbits(63) for _ in range(60)]
    models = {key: Naive(clock, 4.0, 8.0) for key in keys}
    forgotten = 0
    for _ in range(5000):
        clock.now += rng.choice((0.0, 2.0**-10, 2.0**-6))
        key, count = rng.choice(keys), float(rng.randint(1, 8))
        left, deserved = table.left(key, 4.0, 8.0), models[key].left()
        assert deserved <= left <= 8.0, "never less than it deserves, and never more than a full one has"
        if left != deserved:
            assert left == 8.0
            models[key].tokens = Fraction(8)
            forgotten += 1
        assert (table.take(key, 4.0, 8.0, count) == 0.0) is (models[key].take(count, count) == 0)
    assert forgotten > 100


def test_a_flood_of_others_does_not_fill_a_bucket_again() -> None:
    clock = Clock()
    table = Buckets(bytearray(ROW * 1024), clock)
    assert table.take(7, 1.0, 100.0, 100.0) == 0.0
    for key in range(100_000):
        table.take(key * 1_000_003, 10.0, 20.0, 1.0)
        clock.now += 2.0**-16
    assert table.take(7, 1.0, 100.0, 50.0) > 40.0, "it was kept: others would gain less by being forgotten"


def test_a_table_takes_no_more_than_it_was_given() -> None:
    memory = bytearray(TABLE)
    Buckets(memory, Clock())
    assert len(memory) == MOST * ROW == 1 << 20


def test_whole_tokens() -> None:
    assert [whole(tokens) for tokens in (-3.0, 0.0, 0.99, 0.9999999, 1.0, 2.5)] == [0, 0, 0, 1, 1, 2]


def test_a_refusal_takes_nothing_from_any_bucket() -> None:
    clock = Clock()
    rates = Rates(limits({"publish": (1, 20), "channel": (1, 4)}), Buckets(bytearray(TABLE), clock))
    rates.publish("ann", [("a", 4), ("b", 2)])
    with pytest.raises(TooFast) as refused:
        rates.publish("ann", [("c", 1), ("b", 1), ("a", 1)])
    assert (refused.value.policy, refused.value.left, refused.value.wait) == ("channel", 0, 1.0)
    rates.publish("ann", [("d", 4), ("e", 4), ("f", 4)])
    with pytest.raises(TooLarge):  # though "ann" has only 2 left now: that will pass, and this won't
        rates.publish("ann", [("c", 5)])
    assert rates.left("ann") == (2, 1)
    rates.publish("ann", [("c", 2)])


def test_some_are_as_many_as_both_limits_allow() -> None:
    clock = Clock()
    rates = Rates(limits({"publish": (1024, 100), "channel": (512, 64)}), Buckets(bytearray(TABLE), clock))
    assert rates.some("ann", "a", 40) == (40, 0.0)
    assert rates.some("ann", "a", 40) == (24, 0.0)
    count, wait = rates.some("ann", "a", 40)
    assert count == 0 and wait > 0.0
    clock.now += wait
    count, _ = rates.some("ann", "a", 40)
    assert 1 <= count <= 512 * 0.02, "worth to be woken for, and no more than has come"
    assert rates.some("bob", "b", 1000) == (64, 0.0)
    rates.become({})
    assert rates.some("ann", "a", 1000) == (1000, 0.0)


# Shared by processes.


def test_processes_together_get_no_more_than_one_would() -> None:
    shared, processes, at_once = Shared(TABLE), 4, 10_000.0
    reading, writing = os.pipe()
    children = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            table, taken = Buckets(shared.memory, time.monotonic, shared), 0
            while not table.take(77, 1e-6, at_once, 1.0):
                taken += 1
            os.write(writing, b"%8d" % taken)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    told = [int(os.read(reading, 8)) for _ in children]
    os.close(reading)
    os.close(writing)
    # A process that waits for its turn on a processor for longer than others wait for its lock may lose one.
    assert at_once <= sum(told) <= at_once * 1.01, told


def test_a_process_that_is_stopped_or_dies_with_a_lock_stops_nobody() -> None:
    shared = Shared(TABLE)
    table = Buckets(shared.memory, time.monotonic, shared)
    pid = os.fork()
    if pid == 0:
        for part in range(table.parts):
            shared.acquire(part)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(1)
    os.waitpid(pid, os.WUNTRACED)
    assert table.take(1, 1.0, 1.0, 1.0) == 0.0, "it goes on without the lock"
    assert table.take(1, 1.0, 1.0, 1.0) > 0.0
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert table.take(2, 1.0, 1.0, 1.0) == 0.0
