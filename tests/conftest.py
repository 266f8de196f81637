"""Fixtures: a real daemon with two workers for each test module that asks for one; and the stores. And what pytest is
told of the tests' order (`tests.schedule`), and of those that must be alone (`tests.machine`)."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import machine, schedule, starter
from tests.daemons import ROOT, Daemon, running
from tests.stores import (  # noqa: F401
    clock,
    installed_redis,
    open_redis,
    open_sqlite,
    open_store,
    own_server,
    redis_server,
    redis_store,
    shared_server,
    soon,
    sqlite_store,
    store,
)

_addresses = itertools.count(2)


def pytest_configure(config: pytest.Config) -> None:
    Daemon.forks = True
    if (folder := machine.make()) is not None:
        config.add_cleanup(lambda: machine.remove(folder))


def pytest_sessionstart() -> None:
    starter.of(ROOT)  # before tests look at what they have opened


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests, of which there are thousands, and which stay: the garbage collector need not look at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    schedule.order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> schedule.Schedule:
    return schedule.Schedule(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("outside") is not None:
        return (yield)
    with machine.used(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node of two workers, shared by a module's tests; it must end in order and without a traceback."""
    yield from running(tmp_path_factory.mktemp("node"), workers=2)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts nodes with settings of the test's own; those that still run at its end are stopped."""
    nodes: list[Daemon] = []

    def start(**settings: Any) -> Daemon:
        nodes.append(Daemon(tmp_path / f"node{len(nodes)}", **settings))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def here() -> str:
    """An address of loopback from which nobody has come yet."""
    return f"127.0.3.{next(_addresses)}"


@pytest.fixture
def there() -> str:
    """Another one."""
    return f"127.0.4.{next(_addresses)}"


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    name = request.node.name.replace("[", ".").replace("]", "").replace("/", "-").replace(" ", "_")
    return name.removeprefix("test_")[:100]
