"""Who runs what of `make test`. The tests of a file go to one process, for they share its daemon; those of some files
go out one by one, for each has nodes of its own and takes long. What takes longest is begun first, so that nothing long
is left when all else has ended."""

from __future__ import annotations

import functools

import pytest
from xdist.scheduler import LoadScopeScheduling

# Each test goes out by itself.
SINGLY = (
    "tests/cluster/test_cluster.py", "tests/cluster/test_membership.py", "tests/cluster/test_zeromq.py",
    "tests/cluster/test_webhooks.py", "tests/test_compiled.py", "tests/test_daemon.py",
)  # fmt: skip
# Begun in this order, which is that of the time that they take. What is compiled takes a minute or two to be made, by
# the first test that asks for it: the others that need it are begun when it is there.
FIRST = (
    "tests/test_compiled.py::test_it_is_what_runs", "tests/cluster/test_history.py", "tests/independent/test_trial.py",
    "tests/dialects/test_streams_nodes.py", "tests/dialects/test_streams_conformance.py", "tests/test_reconnect.py",
    "tests/dialects/test_streams_exactly_once.py",
    "tests/test_recovery.py", "tests/test_multiplex.py", "tests/test_zmq_examples.py",
    "tests/test_exactly_once.py", "tests/test_survival.py", "tests/test_leaving.py", "tests/test_gateway.py",
    "tests/test_zmq_doors.py", "tests/test_zmq_limits.py", "tests/test_daemon.py", "tests/test_compiled.py",
    "tests/test_chat.py", "tests/test_token_examples.py", "tests/test_page.py", "tests/test_store_away.py",
    "tests/test_zmq_keys.py", "tests/test_durable.py",
    "tests/independent/test_returns.py", "tests/test_pages.py", "tests/cluster/test_webhooks.py",
    "tests/cluster/test_presence.py", "tests/test_webhooks.py", "tests/test_tls.py",
    "tests/dialects/test_cable_clients.py", "tests/dialects/test_cable.py",
    "tests/dialects/test_streams_nodes.py", "tests/dialects/test_streams_conformance.py",
)  # fmt: skip
# Begun after those, in turns with all others: these keep the processors busy, and the others mostly wait.
BUSY = "tests/cluster/"


class Schedule(LoadScopeScheduling):
    """Units of work, in the order in which the tests were collected."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False  # what has many tests need not take long
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


def unit(nodeid: str) -> str:
    """The unit of work that a test belongs to."""
    return nodeid if nodeid.startswith(SINGLY) else nodeid.partition("::")[0]


def order(items: list[pytest.Item]) -> None:
    """Sort tests into the order in which they are begun. None is to wait for one that is alone, so these are last."""
    rest = [item for item in items if _place(item) == len(FIRST)]
    # Where each unit stands among the busy ones, or among the others: from 0 to 1.
    stands: dict[str, float] = {}
    for busy in (True, False):
        units = list(dict.fromkeys(unit(item.nodeid) for item in rest if item.nodeid.startswith(BUSY) is busy))
        stands |= {each: at / len(units) for at, each in enumerate(units)}

    def rank(item: pytest.Item) -> tuple[bool, int, float]:
        return item.get_closest_marker("alone") is not None, _place(item), stands.get(unit(item.nodeid), 0.0)

    items.sort(key=rank)


def _place(item: pytest.Item) -> int:
    # What begins with a file's name is found by that name; each process looks for thousands of tests.
    return _places(item.nodeid.partition("[")[0])


@functools.cache
def _places(name: str) -> int:
    return next((place for place, begin in enumerate(FIRST) if name.startswith(begin)), len(FIRST))
