"""Which tests run beside which: what is told of the machine that they share."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import machine
from tests.daemons import wait_for


class User:
    """One who wants to use the machine, and does so until told to leave."""

    def __init__(self, alone: bool) -> None:
        self.entered = threading.Event()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._stay, args=(alone,))
        self._thread.start()

    def _stay(self, alone: bool) -> None:
        with machine.used(alone):
            self.entered.set()
            self._leave.wait(20)

    def leave(self) -> None:
        self._leave.set()
        self._thread.join()

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of this test's own."""
    monkeypatch.setenv(machine.FOLDER, str(tmp_path))


def waiting() -> int:
    """How many of this process's threads wait for a lock, by the kernel's list."""
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and f" {os.getpid()} " in line for line in lines)


def test_some_use_it_at_once_and_one_that_is_alone_waits_for_them() -> None:
    with ExitStack() as users:
        first, second = (users.enter_context(User(alone=False)) for _ in range(2))
        assert first.entered.wait(20) and second.entered.wait(20)
        alone = users.enter_context(User(alone=True))
        wait_for(lambda: waiting() == 1, "it waits")
        first.leave()
        assert not alone.entered.is_set()
        second.leave()
        assert alone.entered.wait(20)


def test_none_begins_before_one_that_waits_to_be_alone() -> None:
    with ExitStack() as users:
        first = users.enter_context(User(alone=False))
        assert first.entered.wait(20)
        alone = users.enter_context(User(alone=True))
        wait_for(lambda: waiting() == 1, "it waits")
        late = users.enter_context(User(alone=False))
        wait_for(lambda: waiting() == 2, "so does who comes after it")
        first.leave()
        assert alone.entered.wait(20) and not late.entered.is_set()
        alone.leave()
        assert late.entered.wait(20)


def test_a_run_within_a_run_has_its_locks() -> None:
    assert machine.make() is None
