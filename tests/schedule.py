"""Who runs what of `make test`. The tests of a file go to one process, for they share its daemon; those of some files
go out one by one, for each has nodes of its own and takes long. What takes longest is begun first, so that nothing long
is left when all else has ended."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# Each test goes out by itself.
SINGLY = ("tests/cluster/", "tests/test_compiled.py")
# Begun in this order, which is that of the time that they take; then all else, and what is alone last. What is compiled
# takes minutes to be made, by the first test that asks for it: the others that need it are begun when it is there.
FIRST = (
    "tests/test_compiled.py::test_it_is_what_runs", "tests/test_gateway.py", "tests/test_exactly_once.py",
    "tests/test_recovery.py", "tests/test_zmq_doors.py", "tests/test_durable.py", "tests/test_zmq_limits.py",
    "tests/test_control_history.py", "tests/test_zmq_examples.py", "tests/test_multiplex.py", "tests/test_zmq_keys.py",
    "tests/test_history.py", "tests/test_zmtp.py", "tests/test_dead_letter.py", "tests/test_survival.py",
    "tests/test_store_bounds.py", "tests/cluster/", "tests/test_compiled.py",
)  # fmt: skip


class Schedule(LoadScopeScheduling):
    """Units of work, in the order in which the tests were collected."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False  # what has many tests need not take long
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(SINGLY) else nodeid.partition("::")[0]


def rank(item: pytest.Item) -> tuple[bool, int]:
    """What tests are sorted by: none is to wait for one that is alone."""
    place = next((place for place, begin in enumerate(FIRST) if item.nodeid.startswith(begin)), len(FIRST))
    return item.get_closest_marker("alone") is not None, place
