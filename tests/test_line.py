"""A worker's line to the backbone, with a socket of the test's own at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
import zmq

from raiden.backbone.addresses import Addresses
from raiden.backbone.line import PACE, Line
from tests.daemons import wait_for


class Ends:
    """Both ends: a line, and what the uplink hears of its subscriptions."""

    def __init__(self, folder: Path) -> None:
        addresses = Addresses.within(str(folder), "node")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._uplink = self._context.socket(zmq.XPUB)
        self._uplink.rcvhwm = 0
        self._uplink.bind(addresses.uplink)
        self.line = Line(addresses, high_water=1000)
        self.heard: list[bytes] = []

    def hear(self, patience: float = 0.0) -> int:
        """Take what has come, until nothing comes for so many seconds; how many bytes of topics there were so far."""
        while self._uplink.poll(int(1000 * patience)):
            self.heard.append(self._uplink.recv())
        return sum(len(each) - 1 for each in self.heard)

    def close(self) -> None:
        self.line.close()
        self._context.destroy(linger=0)


@pytest.fixture
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    found = Ends(tmp_path_factory.mktemp("ends"))
    yield found
    found.close()


def test_few_topics_are_subscribed_to_at_once(ends: Ends) -> None:
    ends.line.subscribe(b"a\0")
    ends.line.unsubscribe(b"a\0")
    wait_for(lambda: ends.hear() == 4, "both have come, and no event loop has run")
    assert ends.heard == [b"\1a\0", b"\0a\0"]


def test_many_topics_are_spread_over_time_and_keep_their_order(ends: Ends) -> None:
    """Nothing is heard of what is not begun yet; a subscription that was taken back is, as all others, in its order."""
    names = [b"%0250d\0" % number for number in range(400)]
    for name in names:
        ends.line.subscribe(name)
    ends.line.unsubscribe(names[-1])
    ends.line.subscribe(b"last\0")
    assert 0 < ends.hear(patience=0.5) < PACE + len(names[0]), "no event loop has run since"
    with gevent.Timeout(20):
        while ends.heard[-1:] != [b"\1last\0"]:
            gevent.sleep(0.001)
            ends.hear()
    assert ends.heard == [b"\1" + name for name in names] + [b"\0" + names[-1], b"\1last\0"]
