"""The machine, which the tests of one run share, whichever of its processes runs them: most use it beside others, a few
must have it for themselves. There are two locked files: a test takes the gate, then the machine (shared, or alone), and
leaves the gate. So one that waits to be alone lets none begin after it, and waits only for those that have begun."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

FOLDER = "TESTS_MACHINE"  # the environment variable that tells the processes of a run where its files are


def make() -> str | None:
    """Make the files of this run, for this process and those that it starts; their folder, to be removed at the end.
    None where a run that started this process has made them."""
    if FOLDER in os.environ:
        return None
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="tests-machine-")
    return os.environ[FOLDER]


def remove(folder: str) -> None:
    del os.environ[FOLDER]
    shutil.rmtree(folder)


@contextmanager
def used(alone: bool) -> Iterator[None]:
    """Use the machine within, beside others or alone."""
    with ExitStack() as stay:
        with _locked("gate", fcntl.LOCK_EX):
            stay.enter_context(_locked("machine", fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield


@contextmanager
def _locked(name: str, how: int) -> Iterator[None]:
    with open(Path(os.environ[FOLDER], name), "ab") as file:
        fcntl.flock(file, how)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # also for a child that has inherited it
