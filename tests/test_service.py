"""Services: what starts and stops when, and what becomes of their greenlets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

from raiden.runtime import log
from raiden.runtime.service import Service


class Recorder(Service):
    """Writes down what happens to it, and fails where it is told to."""

    def __init__(self, name: str, events: list[str], fail: bool = False) -> None:
        super().__init__()
        self.name = name
        self.events = events
        self.fail = fail

    def do_start(self) -> None:
        if self.fail:
            raise OSError(self.name)
        self.events.append(f"+{self.name}")

    def do_stop(self) -> None:
        self.events.append(f"-{self.name}")


def family(events: list[str], failing: str = "") -> Recorder:
    """A parent with children a, and b with a child c."""
    parent, a, b, c = (Recorder(name, events, name == failing) for name in ("parent", "a", "b", "c"))
    parent.add(a)
    parent.add(b).add(c)
    return parent


def test_children_start_first_and_stop_last() -> None:
    events: list[str] = []
    parent = family(events)
    parent.start()
    assert events == ["+a", "+c", "+b", "+parent"]
    assert parent.state == parent.children[1].state == "running"
    events.clear()
    parent.stop()
    assert events == ["-parent", "-b", "-c", "-a"]
    assert parent.state == parent.children[1].state == "stopped"


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("a", []),
        ("c", ["+a", "-a"]),
        ("b", ["+a", "+c", "-c", "-a"]),
        ("parent", ["+a", "+c", "+b", "-b", "-c", "-a"]),
    ],
)
def test_a_failure_stops_what_started(failing: str, expected: list[str]) -> None:
    events: list[str] = []
    parent = family(events, failing)
    with pytest.raises(OSError, match=failing):
        parent.start()
    assert events == expected
    assert {service.state for service in (parent, *parent.children)} == {"stopped"}


def test_what_does_not_run_is_not_stopped() -> None:
    events: list[str] = []
    service = Recorder("a", events)
    service.stop()
    service.start()
    service.stop()
    service.stop()
    assert events == ["+a", "-a"]


def test_a_service_can_start_again() -> None:
    events: list[str] = []
    parent = family(events)
    parent.start()
    parent.stop()
    first = events.copy()
    parent.start()
    parent.stop()
    assert events == first * 2


def test_greenlets_end_with_their_service(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.start()
    ended: list[str] = []

    def run(name: str) -> None:
        try:
            Event().wait()
        finally:
            ended.append(name)

    greenlets = [service.spawn(run, name) for name in "ab"]
    gevent.idle()
    assert not any(greenlet.dead for greenlet in greenlets)
    service.stop()
    assert all(greenlet.dead for greenlet in greenlets)
    assert sorted(ended) == ["a", "b"]
    assert not caplog.records


def test_greenlets_end_before_the_children_do() -> None:
    order: list[str] = []
    parent = Service()
    parent.add(Recorder("child", order))
    parent.start()

    def run() -> None:
        try:
            Event().wait()
        finally:
            order.append("greenlet")

    parent.spawn(run)
    gevent.idle()
    parent.stop()
    assert order == ["+child", "greenlet", "-child"]


def test_greenlets_end_with_a_failed_start() -> None:
    greenlets: list[gevent.Greenlet[..., object]] = []

    class Failing(Service):
        def do_start(self) -> None:
            greenlets.append(self.spawn(Event().wait))
            raise OSError

    with pytest.raises(OSError):
        Failing().start()
    ended = greenlets[0].dead
    greenlets[0].kill()
    assert ended


def in_a_process(work: Callable[[], object]) -> tuple[int, str]:
    """Do some work in a process of its own; its exit code, which is 0 if the work returns, and what it logged."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        sys.stderr = os.fdopen(write, "w")
        log.setup("test")
        work()
        os._exit(0)
    os.close(write)
    with open(read) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def test_a_greenlet_that_dies_ends_the_process() -> None:
    def work() -> None:
        service = Recorder("a", [])
        service.start()
        service.spawn(lambda: [][0])
        gevent.sleep(20)

    code, text = in_a_process(work)
    assert code == 1
    assert "CRITICAL test: a greenlet of Recorder failed: this process ends" in text
    assert "IndexError" in text and "Traceback" in text


def test_a_task_that_dies_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = Recorder("a", [])
    service.start()
    service.task(lambda: [][0]).join()
    assert [(record.levelname, record.name) for record in caplog.records] == [("ERROR", "raiden.runtime.faults")]
    assert "a task of Recorder failed" in caplog.text and "IndexError" in caplog.text
    assert service.state == "running"
    service.stop()


def test_children_stop_even_if_a_stop_fails() -> None:
    class Failing(Service):
        def do_stop(self) -> None:
            raise OSError

    parent, child = Failing(), Service()
    parent.add(child)
    parent.start()
    with pytest.raises(OSError):
        parent.stop()
    assert (parent.state, child.state) == ("stopped", "stopped")
