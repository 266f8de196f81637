"""The judge of deliveries finds each kind of fault, and nothing where there is none."""

from __future__ import annotations

import json
import random
import threading
import time

import pytest

from tests.cluster.checker import FAILURES, Batch, Checker, Publication, Report, Subscription


class World:
    """A publisher on node a, and a subscription to channel x on node b that is in force."""

    def __init__(self) -> None:
        self.checker = Checker()
        self.publisher: Publication = self.checker.publisher("p", "a")
        self.subscription: Subscription = self.checker.subscription("x", "b")
        self.subscription.in_force()

    def sent(self, count: int = 5, channel: str = "x") -> Batch:
        batch = self.publisher.send(channel, count)
        batch.acknowledged()
        return batch

    def receive(self, *payloads: str) -> None:
        for payload in payloads:
            self.subscription.received(payload)

    def report(self, **failures: int) -> Report:
        """The report, which has this many failures of each kind and no others."""
        report = self.checker.report()
        expected = {**dict.fromkeys(FAILURES, 0), **failures}
        assert {kind: report.total(kind) for kind in FAILURES} == expected, str(report)
        assert report.clean == (not failures)
        assert ("NOT CLEAN" in str(report)) == bool(failures)
        for kind in failures:
            assert f"\n{kind}: " in str(report)
        return report


@pytest.fixture
def world() -> World:
    return World()


def test_clean(world: World) -> None:
    for _ in range(3):
        world.receive(*world.sent().payloads)
    assert world.report().total("received") == 15
    assert str(world.report()).splitlines()[1:] == [
        "from  to  received  lost  duplicated  reordered  unexpected  excused",
        "   a   b        15     0           0          0           0        0",
    ]


def test_payloads_are_compact_json() -> None:
    batch = Checker().publisher('p"1', "a").send("ä/x", 2)
    assert batch.payloads == ['["p\\"1","ä/x",0]', '["p\\"1","ä/x",1]']
    assert [json.loads(payload) for payload in batch.payloads] == [['p"1', "ä/x", 0], ['p"1', "ä/x", 1]]


def test_bytes_are_as_good_as_text(world: World) -> None:
    for payload in world.sent(channel="x").payloads:
        world.subscription.received(payload.encode())
    assert world.report().total("received") == 5


@pytest.mark.parametrize("missing", [[2], [0], [4], [0, 1], [3, 4], [0, 4], range(5)])
def test_loss(world: World, missing: list[int]) -> None:
    batch = world.sent()
    world.receive(*[payload for number, payload in enumerate(batch.payloads) if number not in missing])
    assert world.subscription.owed() == len(missing)
    report = world.report(lost=len(missing))
    assert [message.payload for message in report.findings[0].lost] == [batch.payloads[n] for n in missing]


def test_loss_of_a_batch_between_others(world: World) -> None:
    batches = [world.sent() for _ in range(3)]
    world.receive(*batches[0].payloads, *batches[2].payloads)
    assert "acknowledged +" in str(world.report(lost=5))


def test_duplicates(world: World) -> None:
    payloads = world.sent().payloads
    world.receive(*payloads, payloads[4], payloads[1])
    world.report(duplicated=2)


def test_disorder(world: World) -> None:
    a, b, c, d, e = world.sent().payloads
    world.receive(a, c, b, e, d)
    world.report(reordered=2)


def test_order_is_each_publishers_own(world: World) -> None:
    other = world.checker.publisher("q", "a").send("x", 2)
    other.acknowledged()
    a, b, *_ = world.sent(2).payloads
    world.receive(a, other.payloads[0], b, other.payloads[1])
    world.report()


def test_a_foreign_channel(world: World) -> None:
    world.receive(*world.sent(2, channel="y").payloads)
    world.report(unexpected=2)


def test_what_nobody_sent(world: World) -> None:
    world.receive("", "[]", '["p","x",0]')
    assert "nobody has sent" in str(world.report(unexpected=3))
    world.sent(1)
    world.report(unexpected=3, lost=1)  # it came before it was sent


def test_refused_but_delivered(world: World) -> None:
    batch = world.publisher.send("x", 2)
    batch.refused()
    world.receive(batch.payloads[0])
    assert "refused" in str(world.report(unexpected=1))


def test_refused_and_tried_again(world: World) -> None:
    world.receive(*world.sent(2).payloads)
    world.publisher.send("x", 2).refused()
    assert world.subscription.owed() == 0
    world.receive(*world.sent(2).payloads)
    world.report()


@pytest.mark.parametrize("arrived", range(6))
def test_what_was_never_answered_may_come_up_to_any_message(world: World, arrived: int) -> None:
    unanswered = world.publisher.send("x", 5)
    world.receive(*unanswered.payloads[:arrived])
    assert world.subscription.owed() == 0
    world.report()
    world.receive(*world.sent().payloads)
    world.report()


def test_what_was_never_answered_has_no_holes_and_comes_once_and_in_order(world: World) -> None:
    world.receive(*world.sent(1).payloads)
    a, _, c, d, _ = world.publisher.send("x", 5).payloads
    world.receive(a, d, c, a)
    world.report(lost=1, reordered=1, duplicated=1)


def test_messages_from_before_the_subscription_may_come_from_any_one_on() -> None:
    for first in range(10):
        world = World()
        late = world.checker.subscription("x", "b")
        payloads = [payload for _ in range(2) for payload in world.sent().payloads]
        world.receive(*payloads)
        late.in_force()
        owed = world.sent().payloads
        world.receive(*owed)
        for payload in (*payloads[first:], *owed):
            late.received(payload)
        world.report()


def test_a_hole_in_messages_from_before_the_subscription() -> None:
    world = World()
    late = world.checker.subscription("x", "b")
    a, b, c = world.sent(3).payloads
    world.receive(a, b, c)
    late.in_force()
    late.received(a)
    late.received(c)
    world.report(lost=1)


def test_sent_before_and_acknowledged_after_is_not_owed() -> None:
    checker = Checker()
    subscription = checker.subscription("x", "b")
    batch = checker.publisher("p", "a").send("x", 1)
    subscription.in_force()
    batch.acknowledged()
    assert subscription.owed() == 0
    assert checker.report().clean


def test_leaving(world: World) -> None:
    before, under_way = world.sent(), world.publisher.send("x", 1)
    world.subscription.leaving()
    under_way.acknowledged()
    world.sent()
    assert world.subscription.owed() == 5, "what was acknowledged before is still to come"
    world.receive(*before.payloads[:4])
    assert world.subscription.owed() == 1
    world.report(lost=1)
    world.receive(before.payloads[4])
    assert world.subscription.owed() == 0
    world.report()


def test_what_comes_after_leaving_is_judged_too(world: World) -> None:
    world.subscription.leaving()
    a, _, c = world.sent(3).payloads
    world.receive(a, c, c)
    world.report(lost=1, duplicated=1)


def test_a_subscription_that_ended(world: World) -> None:
    world.sent()
    world.subscription.leaving("a reset")
    world.subscription.leaving()
    assert world.subscription.ended == "a reset"
    assert "because of a reset" in str(world.report(lost=5))


def test_owed_follows_what_comes(world: World) -> None:
    first, unanswered = world.sent(3), world.publisher.send("x", 2)
    assert world.subscription.owed() == 3
    world.receive(*first.payloads)
    assert world.subscription.owed() == 0
    unanswered.acknowledged()
    assert world.subscription.owed() == 2
    world.sent(2, channel="y")
    world.receive(*unanswered.payloads)
    assert world.subscription.owed() == 0


@pytest.mark.parametrize(
    ("publisher", "subscriber", "holds"),
    [("a", "b", True), (None, "b", True), ("a", None, True), (None, None, True), ("b", "a", False), ("c", None, False)],
)
def test_excuses_are_between_nodes(world: World, publisher: str | None, subscriber: str | None, holds: bool) -> None:
    start = time.monotonic()
    world.sent()
    assert world.subscription.owed() == 5
    world.checker.excuse(publisher, subscriber, start, time.monotonic())
    world.receive(*world.sent().payloads)
    assert world.subscription.owed() == (0 if holds else 5)
    report = world.report(**({} if holds else {"lost": 5}))
    assert report.total("excused") == (5 if holds else 0)


def test_excuses_are_for_a_time(world: World) -> None:
    before = world.sent()
    touching = world.publisher.send("x", 5)
    start = time.monotonic()
    touching.acknowledged()
    within = world.sent()
    late = world.publisher.send("x", 5)
    end = time.monotonic()
    late.acknowledged()
    world.sent()
    world.checker.excuse("a", "b", start, end)
    report = world.report(lost=10)
    assert report.total("excused") == 15
    world.receive(*before.payloads, *touching.payloads[:2], *within.payloads[3:])
    assert world.report(lost=5).total("excused") == 11


def test_an_excuse_is_for_losses_only(world: World) -> None:
    start = time.monotonic()
    a, b, c, _ = world.sent(4).payloads
    world.checker.excuse(None, None, start, time.monotonic())
    world.receive(a, c, b, b)
    assert world.report(reordered=1, duplicated=1).total("excused") == 1


def test_examples_are_few(world: World) -> None:
    world.sent(100)
    text = str(world.report(lost=100))
    assert text.count("\nlost: ") == 6 and "lost: 95 more" in text


def test_churn() -> None:
    """Subscriptions that come and go while messages are delivered late, as a cluster would do it."""
    chance = random.Random(1)
    checker = Checker()
    publishers = [checker.publisher(f"p{n}", f"node{n}") for n in range(3)]
    delivered: dict[Subscription, int] = {}
    sent: dict[str, list[str]] = {"x": [], "y": []}

    def catch_up(subscription: Subscription) -> None:
        for payload in sent[subscription.channel][delivered[subscription] :]:
            subscription.received(payload)
        delivered[subscription] = len(sent[subscription.channel])

    for _ in range(5000):
        step = chance.random()
        if step < 0.05:
            subscription = checker.subscription(chance.choice("xy"), chance.choice(["node0", "node1"]))
            delivered[subscription] = max(len(sent[subscription.channel]) - chance.randrange(3), 0)
            subscription.in_force()
        elif step < 0.1 and delivered:
            subscription = chance.choice(list(delivered))
            subscription.leaving()
            catch_up(subscription)
            assert subscription.owed() == 0
            del delivered[subscription]
        elif step < 0.5:
            channel = chance.choice("xy")
            batch = chance.choice(publishers).send(channel, 3)
            outcome = chance.random()
            if outcome < 0.8:
                batch.acknowledged()
                sent[channel] += batch.payloads
            elif outcome < 0.9:
                batch.refused()
            else:
                sent[channel] += batch.payloads[: chance.randrange(4)]
        elif delivered:
            catch_up(chance.choice(list(delivered)))
    for subscription in delivered:
        catch_up(subscription)
        assert subscription.owed() == 0
    report = checker.report()
    assert report.clean, str(report)
    assert len(report.findings) > 100 and report.total("received") > 10_000


def test_threads() -> None:
    """Two publish, one receives what they have sent, one asks: nothing is owed when all has come."""
    checker = Checker()
    subscription = checker.subscription("x", "b")
    subscription.in_force()
    under_way: list[str] = []
    done = threading.Event()

    def publish(publisher: Publication) -> None:
        for _ in range(2000):
            batch = publisher.send("x", 3)
            under_way.extend(batch.payloads)
            batch.acknowledged()

    def ask() -> None:
        while not done.is_set():
            assert subscription.owed() >= 0

    publishers = [threading.Thread(target=publish, args=(checker.publisher(f"p{n}", "a"),)) for n in range(2)]
    asker = threading.Thread(target=ask)
    for thread in (*publishers, asker):
        thread.start()
    at = 0
    while at < 12_000:
        for payload in under_way[at:]:
            subscription.received(payload)
            at += 1
    done.set()
    for thread in (*publishers, asker):
        thread.join(20)
    assert subscription.owed() == 0
    assert checker.report().clean, str(checker.report())


def test_it_is_cheap() -> None:
    """40,000 messages to five subscriptions each: what the checker costs must not shape what it measures."""
    checker = Checker()
    subscriptions = [checker.subscription(f"c{n % 20}", "b") for n in range(100)]
    publisher = checker.publisher("p", "a")
    by_channel: dict[str, list[bytes]] = {f"c{n}": [] for n in range(20)}
    started = time.process_time()
    for subscription in subscriptions:
        subscription.in_force()
    for n in range(4000):
        batch = publisher.send(f"c{n % 20}", 10)
        batch.acknowledged()
        by_channel[batch.channel] += [payload.encode() for payload in batch.payloads]
    for subscription in subscriptions:
        for payload in by_channel[subscription.channel]:
            subscription.received(payload)
        assert subscription.owed() == 0
    report = checker.report()
    assert report.clean and report.total("received") == 200_000
    assert time.process_time() - started < 4
