"""The clients of the cluster's tests, with one node: what they tell the checker is what has happened."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException

import pytest

from tests.cluster.checker import Checker
from tests.cluster.load import Churn, Lines, Publisher, Refused, Subscribers
from tests.daemons import Daemon, wait_for

CHANNELS = [f"channel {n}/ä" for n in range(20)]


class Local:
    """A daemon on this machine."""

    def __init__(self, daemon: Daemon) -> None:
        self.name = "node"
        self.daemon = daemon

    def connect(self) -> socket.socket:
        return self.daemon.connect()


@pytest.fixture
def checker() -> Checker:
    return Checker()


@pytest.fixture
def subscribers(checker: Checker) -> Iterator[Subscribers]:
    descriptors = len(os.listdir("/proc/self/fd"))
    with Subscribers(checker) as subscribers:
        yield subscribers
    # Fewer, where something of an earlier test was collected meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


def test_a_load_with_churn(daemon: Daemon, checker: Checker, subscribers: Subscribers) -> None:
    node = Local(daemon)
    for channel in CHANNELS:
        for _ in range(2):
            subscribers.add(node, channel)
    churn = Churn(subscribers, [node], CHANNELS)
    publishers = [
        Publisher(checker, node, CHANNELS, total=5_000),
        Publisher(checker, node, CHANNELS, total=5_000, batch=7, seed=1),
    ]
    with churn, publishers[0], publishers[1]:
        for publisher in publishers:
            publisher.join(600)  # by then it is done, however busy the machine
            assert (publisher.error, publisher.acknowledged, publisher.unanswered) == (None, 5_000, 0)
    assert churn.added > 20 and not churn.failures
    wait_for(lambda: subscribers.owed() == 0, "everything has come")
    report = checker.report()
    assert report.clean, str(report)
    assert len(report.findings) == 40 + churn.added
    assert report.total("received") > 20_000


def test_a_pace(daemon: Daemon, checker: Checker, subscribers: Subscribers) -> None:
    subscription = subscribers.add(Local(daemon), "paced")
    publisher = Publisher(checker, Local(daemon), ["paced"], batch=1, total=50, rate=100)
    started = time.monotonic()
    with publisher:
        publisher.join(20)
    assert 0.49 < time.monotonic() - started < 5
    subscribers.remove(subscription)
    assert len(subscription.arrivals) == 50
    assert checker.report().clean


def test_stopped(daemon: Daemon, checker: Checker) -> None:
    with Publisher(checker, Local(daemon), ["stopped"], rate=1) as publisher:
        wait_for(lambda: publisher.acknowledged, "it publishes")
    assert publisher.error is None


def test_removing_waits_for_what_is_owed_and_no_longer(
    daemon: Daemon, checker: Checker, subscribers: Subscribers
) -> None:
    node = Local(daemon)
    subscription = subscribers.add(node, "owing")
    checker.publisher("nobody", node.name).send("owing", 3).acknowledged()  # but never sent
    assert subscribers.owed() == 3
    started = time.monotonic()
    subscribers.remove(subscription, timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    assert subscribers.owed() == 0
    assert checker.report().total("lost") == 3
    subscribers.remove(subscription)


def test_refused(daemon: Daemon, checker: Checker, subscribers: Subscribers) -> None:
    with pytest.raises(Refused, match="400"):
        subscribers.add(Local(daemon), "\n")
    with Publisher(checker, Local(daemon), ["\n"]) as publisher:
        publisher.join(20)
    assert isinstance(publisher.error, Refused) and publisher.error.status == 400
    assert (publisher.acknowledged, publisher.refused, publisher.unanswered) == (0, 10, 0)


def test_a_node_that_stops(start: Callable[..., Daemon], checker: Checker, subscribers: Subscribers) -> None:
    daemon = start()
    subscription = subscribers.add(Local(daemon), "a")
    assert daemon.stop() == 0
    wait_for(lambda: subscription.ended, "the stream has ended")
    assert subscription.ended == "the end of the stream" and subscription.left_at is not None
    assert checker.report().clean


def test_a_node_that_is_killed(start: Callable[..., Daemon], checker: Checker, subscribers: Subscribers) -> None:
    daemon = start()
    node = Local(daemon)
    others = [subscribers.add(node, channel) for channel in ("a", "b")]
    with (
        Publisher(checker, node, ["a"], rate=500) as mortal,
        Publisher(checker, node, ["b"], rate=500, persistent=True) as persistent,
        Churn(subscribers, [node], ["a", "b"], keep=5) as churn,
    ):
        wait_for(lambda: mortal.acknowledged and persistent.acknowledged and churn.added > 5, "they are at it")
        killed = time.monotonic()
        daemon.signal_all(signal.SIGKILL)
        mortal.join(20)
        assert isinstance(mortal.error, OSError | HTTPException)
        wait_for(lambda: all(other.ended for other in others), "it has been noticed")
        wait_for(lambda: churn.failures, "nobody can subscribe")
        assert persistent.is_alive()
    assert daemon.stop() == -signal.SIGKILL
    assert persistent.error is None
    checker.excuse("node", None, killed - 1, time.monotonic())
    report = checker.report()
    assert report.clean, str(report)


def test_a_persistent_publisher_comes_back(start: Callable[..., Daemon], checker: Checker) -> None:
    node = Local(start())
    with Publisher(checker, node, ["a"], rate=500, persistent=True) as publisher:
        wait_for(lambda: publisher.acknowledged, "it publishes")
        assert node.daemon.stop() == 0
        acknowledged = publisher.acknowledged
        node.daemon = start()
        wait_for(lambda: publisher.acknowledged > acknowledged, "it publishes again")
    assert publisher.error is None


def test_what_is_full_is_tried_again(checker: Checker, subscribers: Subscribers) -> None:
    """A node that refuses the first request, and takes the second."""
    listener = socket.create_server(("127.0.0.1", 0))

    class Full:
        name = "full"

        def connect(self) -> socket.socket:
            return socket.create_connection(listener.getsockname(), 20)

    with listener, Publisher(checker, Full(), ["a"], batch=2, total=2) as publisher:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as requests:
            for status, numbers in (("503 Service Unavailable", (0, 1)), ("202 Accepted", (2, 3))):
                while requests.readline() != b"\r\n":
                    pass
                body = "\n".join(f'["{publisher.name}","a",{number}]' for number in numbers).encode()
                assert requests.read(len(body)) == body
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            publisher.join(20)
    assert (publisher.acknowledged, publisher.refused, publisher.unanswered, publisher.error) == (2, 2, 0, None)


def test_lines() -> None:
    body = b"4\r\none\n\r\n1\r\n\n\r\nC\r\ntwo\nthree\nfo\r\n3\r\nur\n\r\n0\r\n\r\n"
    for size in range(1, len(body) + 1):
        lines = Lines()
        found = [line for at in range(0, len(body), size) for line in lines.feed(body[at : at + size])]
        assert found == [b"one", b"two", b"three", b"four"] and lines.ended


@pytest.mark.parametrize("body", [b"\r\n", b"x\r\n", b"1\r\nabc\r\n"])
def test_what_is_no_chunked_body(body: bytes) -> None:
    with pytest.raises(ValueError):
        Lines().feed(body)
