"""What wakes the consumers of a durable subscription."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from raiden.backbone.addresses import Addresses
from raiden.backend import Backend
from raiden.history.store import StoreFailed
from raiden.model.message import Kind, Message
from raiden.protocols.limits import HttpLimits
from raiden.router import Router
from raiden.runtime.stats import Stats
from raiden.sessions.bell import Bell, Bells, TooManyConsumers
from tests.states import state


class Consumer:
    def __init__(self, bells: Bells, durable: str = "d") -> None:
        self.wake = Event()
        self.calls = 0
        self.over = False
        self.bell: Bell = bells.enter(self, "a", durable)

    def called(self) -> None:
        self.calls += 1
        self.wake.set()

    def ended(self) -> None:
        self.over = True
        self.wake.set()

    def waits(self) -> gevent.Greenlet[..., None]:
        self.wake.clear()
        waiting = gevent.spawn(self.bell.wait, self, None)
        gevent.idle()
        return waiting


@pytest.fixture
def bells(tmp_path: Path) -> Iterator[Bells]:
    """The router of a worker that is alone."""
    backend = Backend(Addresses.within(tmp_path, "nowhere"), sole=True)
    backend.hear_roster(state(1, alone=True))
    router = Router(backend, stats=Stats())
    router.start()
    yield Bells(router, HttpLimits(max_consumers=5))
    router.stop()
    backend.close()


def publish(bells: Bells, kind: int = Kind.JSON) -> None:
    bells.router.publisher.publish_now([Message("a", kind, b"1")])
    gevent.idle()


def test_one_consumer_is_called_for_a_message_and_the_next_for_the_next(
    bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raiden.sessions.bell.LOOK", 1000.0)
    consumers = [Consumer(bells) for _ in range(3)]
    waiting = [consumer.waits() for consumer in consumers]
    publish(bells)
    assert [consumer.calls for consumer in consumers] == [1, 0, 0]
    consumers[0].bell.ring()  # it has claimed all that it may have
    publish(bells)
    assert [consumer.calls for consumer in consumers] == [1, 1, 1]
    publish(bells)  # nobody waits: who comes next is called
    consumers[1].waits().join(10)
    assert [consumer.calls for consumer in consumers] == [1, 2, 1]
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert bells.router.table.row("a") == {"subscribers": 3, "messages": 3}
    for consumer in consumers:
        consumer.bell.leave(consumer)
    assert bells.count == 0 and len(bells.router.table) == 0


def test_durables_of_a_channel_have_bells_of_their_own(bells: Bells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raiden.sessions.bell.LOOK", 1000.0)
    consumers = [Consumer(bells, name) for name in "deff"]
    waiting = [consumer.waits() for consumer in consumers]
    publish(bells)
    assert [consumer.calls for consumer in consumers] == [1, 1, 1, 0]
    for consumer in consumers:
        consumer.wake.set()
        consumer.bell.leave(consumer)
    gevent.joinall(waiting, timeout=10, raise_error=True)


def test_the_bell_rings_by_itself_now_and_then(bells: Bells) -> None:
    first, second = Consumer(bells), Consumer(bells)
    waiting = [first.waits(), second.waits()]
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert (first.calls, second.calls) == (1, 1)


def test_the_end_of_the_channel_is_that_of_its_bells(bells: Bells) -> None:
    consumers = [Consumer(bells, name) for name in "dde"]
    waiting = [consumer.waits() for consumer in consumers]
    publish(bells, Kind.DELETION)
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert all(consumer.over for consumer in consumers) and bells.count == 0
    again = Consumer(bells)
    again.bell.leave(again)


def test_claims_are_given_back_one_after_the_other(bells: Bells) -> None:
    """However many leave at once; and where the store fails, the rest is left to the time."""
    begun: list[int] = []
    goes_on = Event()

    def give_back(number: int) -> None:
        begun.append(number)
        goes_on.wait(10)
        if number == 3:
            raise StoreFailed("it is away")

    for number in range(6):
        bells.give_back(partial(give_back, number))
    gevent.idle()
    assert begun == [0]
    goes_on.set()
    gevent.idle()
    bells.give_back(partial(give_back, 6))
    gevent.idle()
    assert begun == [0, 1, 2, 3, 6]


def test_the_consumers_of_a_worker_are_bounded(bells: Bells) -> None:
    consumers = [Consumer(bells, name) for name in "ddefg"]
    for name in "dx":
        with pytest.raises(TooManyConsumers, match="max_consumers"):
            Consumer(bells, name)
    consumers[0].bell.leave(consumers[0])
    Consumer(bells, "x")
