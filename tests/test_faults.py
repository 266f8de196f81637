"""Exceptions that nobody expected: what goes on all the same, and what is said of them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from raiden.runtime import faults
from tests.daemons import Daemon, Stream, wait_for


@pytest.fixture
def installed() -> Iterator[None]:
    """The event loop of this process, with what a worker has installed there."""
    hub = gevent.get_hub()
    faults.install()
    yield
    del hub.handle_error
    assert hub.handle_error.__func__ is type(hub).handle_error


def fail(*_: object) -> None:
    raise KeyError("on purpose")


def test_of_many_callbacks_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    called: list[int] = []
    before = faults.count()
    results = [faults.call(f"one of {__name__}", function, 1) for function in (called.append, fail, called.append)]
    assert called == [1, 1] and results == [True, False, True] and faults.count() == before + 1
    assert f"one of {__name__} failed" in caplog.text and "KeyError: 'on purpose'" in caplog.text


def test_it_is_said_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    before = faults.count()
    for _ in range(1000):
        faults.call("what fails often", fail)
    assert faults.count() == before + 1000
    assert len([record for record in caplog.records if "what fails often" in record.getMessage()]) <= 3


def test_an_io_watcher_goes_on(installed: None, caplog: pytest.LogCaptureFixture) -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    watcher = gevent.get_hub().loop.io(one.fileno(), 1)
    came: list[bytes] = []

    def readable() -> None:
        came.append(one.recv(1))
        if len(came) == 1:
            fail()

    watcher.start(readable)
    other.send(b"1")
    with gevent.Timeout(20):
        while not came:
            gevent.sleep(0.001)
        other.send(b"2")
        while len(came) < 2:
            gevent.sleep(0.001)
    assert came == [b"1", b"2"] and "readable failed" in caplog.text
    watcher.stop()
    watcher.close()
    one.close()
    other.close()


def test_a_watcher_that_was_closed_meanwhile_stays_closed(installed: None) -> None:
    one, other = socket.socketpair()
    watcher = gevent.get_hub().loop.io(one.fileno(), 1)
    called: list[int] = []

    def readable() -> None:
        called.append(1)
        watcher.stop()
        watcher.close()
        fail()

    watcher.start(readable)
    other.send(b"1")
    with gevent.Timeout(20):
        while not called:
            gevent.sleep(0.001)
        gevent.sleep(faults.AGAIN * 2)
    assert called == [1]
    one.close()
    other.close()


def test_timers_and_callbacks_are_said(installed: None, caplog: pytest.LogCaptureFixture) -> None:
    loop = gevent.get_hub().loop
    loop.run_callback(fail)
    timer = loop.timer(0.001, repeat=0.001)
    calls: list[int] = []

    def tick() -> None:
        calls.append(1)
        fail()

    timer.start(tick)
    with gevent.Timeout(20):
        while len(calls) < 3:
            gevent.sleep(0.001)
    timer.stop()
    timer.close()
    assert "callback failed" in caplog.text and "tick failed" in caplog.text


def test_a_greenlet_is_said(installed: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        gevent.spawn(fail).join()
        gevent.sleep(0)
    assert "KeyError" in caplog.text


CONFIG = """
import os

import gevent
from raiden.model.encoding import Encoding
from raiden.service import Service


def fail(*_):
    raise RuntimeError("on purpose")


class Faulty(Service):
    "A service with a greenlet that dies when it is told to; subscribed to two channels, of which it can take none."

    lasts, clients = True, 1

    def __init__(self, router):
        super().__init__()
        self.router = router
        self.pending = []

    def do_start(self):
        self.spawn(self.watch)
        for name, encode in (("flush", lambda message: b"x"), ("encode", fail)):
            self.router.attach(self.router.subscribe(name, self, self, Encoding(name, encode)))

    def watch(self):
        while not os.path.exists({path!r}):
            gevent.sleep(0.01)
        fail()

    flush = missed = ended = fail


def service(worker):
    return Faulty(worker.router)
"""


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Daemon]:
    """A node with an application's service that has faults; it dies when there is a file `die` in the node's folder."""
    config = tmp_path / "raiden.conf.py"
    folder = tmp_path / "node"
    config.write_text(CONFIG.format(path=str(folder / "die")))
    node = Daemon(folder, config=config)
    yield node
    node.stop()


def test_a_worker_whose_service_died_is_replaced(faulty: Daemon) -> None:
    """It would look alive, and not do what it is there for."""
    (faulty.folder / "die").touch()
    wait_for(lambda: "worker 0 died" in faulty.log(), "it ends")
    (faulty.folder / "die").unlink()
    assert "a greenlet of Faulty failed: this process ends" in faulty.log()
    wait_for(lambda: faulty.request("GET", "/-/ready")[0] == 200, "another one serves")


def test_a_subscriber_that_fails_is_alone_with_it(faulty: Daemon) -> None:
    with Stream(faulty, "/flush") as stream:
        for number in range(3):
            faulty.publish("flush", number)
            assert stream.value() == number
    assert "a delivery to a client failed" in faulty.log()
    assert faulty.metric("raiden_faults") >= 1


def test_who_may_have_missed_something_for_a_fault_is_told(faulty: Daemon) -> None:
    with Stream(faulty, "/encode", {"Accept": "text/event-stream"}) as stream:
        faulty.publish("encode", 1)
        while (line := stream.line()) != b"event: gap":
            assert line, "the stream ended without a word"
    assert faulty.json("/-/health") == {"status": "ok"}
