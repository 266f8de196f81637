"""Fixtures: a network for each test, and a cluster on it; and nodes on this host. They keep no history unless a test
gives them a store that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.network import Impairment, Network
from tests.cluster.nodes import Nodes
from tests.daemons import Daemon


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Nodes]]:
    """Makes a network of so many hosts, and a cluster for it whose nodes the test starts."""
    with ExitStack() as stack:

        def make(hosts: int, impair: dict[int, Impairment] | None = None, **settings: Any) -> Nodes:
            network = stack.enter_context(Network(hosts, impair))
            nodes = Nodes(network.hosts, tmp_path, **settings)
            stack.callback(nodes.close)
            return nodes

        yield make


@pytest.fixture
def start(start: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Starts nodes that may be of a cluster."""
    return lambda **settings: start(**{"store": "none", **settings})
