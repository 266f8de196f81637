"""The judge of channels with history finds each kind of fault, and nothing where there is none."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from raiden.model.message import EARLIEST, Cursor
from raiden.model.page import Gap
from tests.cluster.checker import Batch, Checker, Publication
from tests.cluster.offsets import FAILURES, Follower, Offsets, Verdict


class World:
    """A publisher of channel x, which stands at e:10, and a follower that is there."""

    def __init__(self) -> None:
        self.checker = Checker()
        self.offsets = Offsets(self.checker)
        self.publisher: Publication = self.checker.publisher("p", "a")
        self.follower: Follower = self.offsets.follower("x")
        self.follower.begins(None, at(10), None, "b")
        self.next = 11

    def sent(self, count: int = 5, channel: str = "x") -> Batch:
        batch = self.publisher.send(channel, count)
        batch.acknowledged([f"e:{offset}" for offset in range(self.next, self.next + count)])
        self.next += count
        return batch

    def receive(self, batch: Batch, *indexes: int, first: int = 11) -> None:
        """The messages of a batch that begins at this offset, or some of them."""
        for index in indexes or range(len(batch.payloads)):
            self.follower.received(at(first + index), batch.payloads[index].encode())

    def report(self, **failures: int) -> Verdict:
        """The report, which has this many failures of each kind and no others."""
        verdict = self.offsets.report()
        assert {kind: verdict.counts[kind] for kind in FAILURES} == {**dict.fromkeys(FAILURES, 0), **failures}, str(
            verdict
        )
        assert verdict.clean == (not failures)
        assert ("NOT CLEAN" in str(verdict)) == bool(failures)
        for kind in failures:
            assert f"\n{kind}: " in str(verdict)
        return verdict


def at(offset: int, epoch: str = "e") -> Cursor:
    return Cursor(epoch, offset)


@pytest.fixture
def world() -> World:
    return World()


def test_clean(world: World) -> None:
    for first in (11, 16, 21):
        assert not world.follower.is_behind()
        batch = world.sent()
        assert world.follower.is_behind()
        world.receive(batch, first=first)
    assert world.report().counts["received"] == 15


@pytest.mark.parametrize("missing", [[2], [0], [4], [0, 1], [3, 4], [0, 4]])
def test_loss(world: World, missing: list[int]) -> None:
    world.receive(world.sent(), *[index for index in range(5) if index not in missing])
    world.report(lost=len(missing))


def test_nothing_came(world: World) -> None:
    world.sent()
    world.report(lost=5)


def test_a_hole_is_a_loss_though_nobody_acknowledged_it(world: World) -> None:
    batch = world.publisher.send("x", 3)
    world.receive(batch, 0, 2)
    world.report(lost=1)


def test_a_batch_that_was_never_answered_may_come_or_not(world: World) -> None:
    world.receive(world.publisher.send("x", 3), 0, 1)
    world.report()


def test_duplicates(world: World) -> None:
    batch = world.sent()
    world.receive(batch)
    world.receive(batch, 4, 1)
    world.report(duplicated=2)


def test_appended_twice(world: World) -> None:
    batch = world.sent(1)
    world.receive(batch)
    world.receive(batch, first=12)
    world.report(duplicated=1, conflicting=1)


def test_appended_twice_and_seen_once(world: World) -> None:
    """It was acknowledged at another offset than the follower got it at."""
    batch = world.sent(1)
    unanswered = world.publisher.send("x", 1)
    world.receive(unanswered, first=11)
    world.receive(batch, first=12)
    world.report(conflicting=2)


def test_disorder(world: World) -> None:
    world.receive(world.sent(), 0, 2, 1, 3, 4)
    world.report(lost=1, reordered=1)


def test_who_is_told_no_proofs_agrees_and_another_proof_does_not(world: World) -> None:
    batch = world.sent(3)
    for index, proof in enumerate(("a" * 12, "", "b" * 12)):
        world.follower.received(at(11 + index)._replace(proof=proof), batch.payloads[index].encode())
    world.report()
    other = world.offsets.follower("x")
    other.begins(None, at(10), None, "b")
    for index, proof in enumerate(("a" * 12, "c" * 12, "d" * 12)):
        other.received(at(11 + index)._replace(proof=proof), batch.payloads[index].encode())
    world.report(conflicting=1)


def test_one_value_an_offset(world: World) -> None:
    """Two followers, and no acknowledgement."""
    one, other = world.publisher.send("x", 1), world.publisher.send("x", 1)
    second = world.offsets.follower("x")
    second.begins(None, at(10), None, "c")
    world.receive(one)
    second.received(at(11), other.payloads[0].encode())
    world.report(conflicting=1)


def test_acknowledgements_that_contradict_each_other(world: World) -> None:
    world.offsets.followers.clear()
    world.publisher.send("x", 1).acknowledged(["e:11"])
    world.checker.publisher("q", "a").send("x", 1).acknowledged(["e:11"])
    world.report(conflicting=1)


def test_acknowledgements_out_of_order_or_too_few(world: World) -> None:
    world.offsets.followers.clear()
    world.publisher.send("x", 1).acknowledged(["e:12"])
    world.publisher.send("x", 1).acknowledged(["e:11"])
    world.publisher.send("x", 2).acknowledged(["e:13"])
    world.report(reordered=1, conflicting=1)


def test_what_nobody_sent_what_was_refused_and_a_foreign_channel(world: World) -> None:
    world.follower.received(at(11), b"?")
    refused = world.publisher.send("x", 1)
    refused.refused()
    world.receive(refused, first=12)
    world.receive(world.publisher.send("y", 1), first=13)
    world.report(unexpected=3)


def test_coming_back(world: World) -> None:
    world.receive(world.sent())
    missed = world.sent()
    world.follower.begins(at(15), at(15), True, "c")
    world.receive(missed, first=16)
    counts = world.report().counts
    assert (counts["resumed"], counts["recovered"], counts["gaps"]) == (1, 1, 0)


@pytest.mark.parametrize("recovered", [True, None])
def test_lost_while_away(world: World, recovered: bool | None) -> None:
    world.receive(world.sent())
    world.sent()
    world.follower.begins(at(15), at(20), recovered, "c")
    world.receive(world.sent(), first=21)
    world.report(lost=5)


def test_lost_while_away_at_the_end(world: World) -> None:
    world.receive(world.sent())
    world.sent()
    world.follower.begins(at(15), at(20), True, "c")
    assert world.follower.is_behind()
    world.report(lost=5)


def test_not_recovered(world: World) -> None:
    """It was told so, and what is missing: nothing else may be."""
    world.receive(world.sent())
    world.sent()
    world.follower.begins(at(15), at(20), False, "c")
    assert not world.follower.is_behind()
    world.follower.missed(Gap("e", 16, 20))
    batch = world.sent()
    world.receive(batch, 0, 1, first=21)
    world.report(lost=3)
    world.receive(batch, 2, 3, 4, first=21)
    counts = world.report().counts
    assert (counts["resumed"], counts["recovered"], counts["gaps"]) == (1, 0, 1)


def test_not_recovered_and_not_told_what_is_missing(world: World) -> None:
    world.receive(world.sent())
    world.sent()
    world.follower.begins(at(15), at(20), False, "c")
    world.receive(world.sent(), first=21)
    world.report(lost=5)


def test_once_over_all_connections(world: World) -> None:
    batch = world.sent()
    world.receive(batch)
    world.follower.begins(at(15), at(15), True, "c")
    world.receive(batch, 4)
    world.report(duplicated=1)


def test_a_gap_that_was_told(world: World) -> None:
    batch = world.sent()
    world.receive(batch, 0)
    world.follower.missed(Gap("e", 12, 14))
    world.receive(batch, 4)
    assert world.report().counts["gaps"] == 1


def test_a_gap_is_for_what_it_names_and_no_more(world: World) -> None:
    batch = world.sent(10)
    world.receive(batch, 0)
    world.follower.missed(Gap("e", 13, 14))
    world.receive(batch, 5, 6, 7, 8, 9)
    world.report(lost=2)


def test_a_gap_of_what_came(world: World) -> None:
    batch = world.sent()
    world.receive(batch)
    world.follower.missed(Gap("e", 14, 15))
    world.report(reordered=1)


def test_an_epoch_that_ended(world: World) -> None:
    batch = world.sent(2)
    world.receive(batch, 0)
    world.follower.missed(None)
    fresh = world.publisher.send("x", 2)
    fresh.acknowledged(["f:1", "f:2"])
    for offset, payload in enumerate(fresh.payloads, 1):
        world.follower.received(at(offset, "f"), payload.encode())
    assert not world.follower.is_behind()
    world.report()


def test_an_epoch_that_ended_without_a_word(world: World) -> None:
    world.receive(world.sent(1))
    fresh = world.publisher.send("x", 1)
    fresh.acknowledged(["f:1"])
    assert world.follower.is_behind()
    world.report(lost=1)
    world.follower.received(at(1, "f"), fresh.payloads[0].encode())
    world.report(lost=1)


def test_a_channel_without_a_history_yet(world: World) -> None:
    for first, failures in ((1, {}), (2, {"lost": 1})):
        world = World()
        world.follower.begins(None, EARLIEST, None, "b")
        world.follower.received(at(first), world.publisher.send("x", 1).payloads[0].encode())
        world.report(**failures)
    world = World()
    world.offsets.follower("x").begins(None, EARLIEST, None, "b")
    world.receive(world.sent(2))
    world.report(lost=2)


def test_leaving(world: World) -> None:
    world.sent()
    world.follower.leaving()
    world.follower.leaving()
    world.sent()
    world.report(lost=5)


Step = Callable[["Channel", random.Random], None]


class Channel:
    """A model: what was appended, and followers that come, go and get it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.appended: list[bytes] = []
        self.at: dict[Follower, int] = {}
        self.away: set[Follower] = set()

    def publish(self, chance: random.Random) -> None:
        batch = self.world.publisher.send("x", 3)
        begin = len(self.appended) + 1
        if chance.random() < 0.9:
            self.appended += [payload.encode() for payload in batch.payloads]
            if chance.random() < 0.9:
                batch.acknowledged([f"e:{offset}" for offset in range(begin, begin + 3)])

    def come(self, chance: random.Random) -> None:
        follower = self.world.offsets.follower("x")
        self.at[follower] = len(self.appended)
        follower.begins(None, at(len(self.appended)), None, "b")

    def part(self, chance: random.Random) -> None:
        if self.at:
            self.away.add(chance.choice(list(self.at)))

    def back(self, chance: random.Random) -> None:
        for follower in self.away:
            follower.begins(follower.position, follower.position or EARLIEST, True, "c")
        self.away.clear()

    def deliver(self, chance: random.Random) -> None:
        if self.at:
            self.catch_up(chance.choice(list(self.at)), chance.randrange(10))

    def catch_up(self, follower: Follower, count: int) -> None:
        if follower not in self.away:
            done = self.at[follower]
            for offset, payload in enumerate(self.appended[done : done + count], done + 1):
                follower.received(at(offset), payload)
                self.at[follower] = offset


@pytest.mark.parametrize("seed", range(5))
def test_coming_and_going(seed: int) -> None:
    """Nothing is found where there is nothing; and one message that is left out is."""
    chance = random.Random(seed)
    world = World()
    world.offsets.followers.clear()
    channel = Channel(world)
    steps: list[Step] = [Channel.publish, Channel.come, Channel.part, Channel.back, Channel.deliver]
    for step in chance.choices(steps, [5, 0.2, 2, 2, 8], k=3000):
        step(channel, chance)
    channel.back(chance)
    for follower in channel.at:
        channel.catch_up(follower, len(channel.appended))
        assert not follower.is_behind()
    assert world.report().counts["received"] > 10_000
    follower = chance.choice([each for each in channel.at if len(each.events) > 10])
    arrivals = [event for event in follower.events if not hasattr(event, "since")]
    follower.events.remove(chance.choice(arrivals))
    world.report(lost=1)


def test_it_is_cheap() -> None:
    """20,000 messages, 40,000 deliveries: what the judge costs must not shape what it judges."""
    world = World()
    followers = [world.follower, world.offsets.follower("x")]
    followers[1].begins(None, at(10), None, "c")
    started = time.process_time()
    for _ in range(400):
        batch = world.sent(50)
        for follower in followers:
            for offset, payload in enumerate(batch.payloads, world.next - 50):
                follower.received(at(offset), payload.encode())
    assert world.report().counts["received"] == 40_000
    assert time.process_time() - started < 1.6


# Epochs: a new one begins in each life of the store, with the next offset.


def begun(world: World, first: int) -> Batch:
    """A batch of three in an epoch that begins at this offset."""
    batch = world.publisher.send("x", 3)
    batch.acknowledged([f"f:{offset}" for offset in range(first, first + 3)])
    return batch


def receive_of_next(world: World, batch: Batch, first: int, *indexes: int) -> None:
    for index in indexes or range(3):
        world.follower.received(at(first + index, "f"), batch.payloads[index].encode())


def test_a_history_goes_on_in_another_epoch(world: World) -> None:
    world.receive(world.sent())
    receive_of_next(world, begun(world, 16), 16)
    world.report()


def test_the_first_of_an_epoch_is_lost(world: World) -> None:
    world.receive(world.sent())
    receive_of_next(world, begun(world, 16), 16, 1, 2)
    assert world.offsets.report().counts["lost"] > 0


@pytest.mark.parametrize("told", [True, False])
def test_a_history_that_went_back_must_be_told(world: World, told: bool) -> None:
    world.receive(world.sent())
    batch = begun(world, 13)
    if told:
        world.follower.missed(None)
    receive_of_next(world, batch, 13)
    if told:
        world.report()
    else:
        assert world.offsets.report().counts["lost"] > 0


def test_an_epoch_that_never_came(world: World) -> None:
    world.receive(world.sent())
    begun(world, 16)
    world.report(lost=3)
