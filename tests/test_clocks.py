"""Nodes whose clocks differ: a pattern begins with what was published after it was there, by nobody's clock but the
store's."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Daemon, Stream, post, wait_for
from tests.multiplex import has_a_peer
from tests.stores import RedisServer

# What Debian's package faketime has.
LIBRARY = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime")


class Shifted(Daemon):
    """A node whose clock is so many seconds ahead."""

    def __init__(self, folder: Path, seconds: int, **settings: Any) -> None:
        self._seconds = seconds
        super().__init__(folder, **settings)

    def command_line(self, argv: list[str]) -> list[str]:
        shifted = [f"LD_PRELOAD={LIBRARY}", f"FAKETIME={self._seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        return ["env", *shifted, *argv]


@pytest.mark.parametrize("seconds", [60, -60])
def test_a_pattern_of_a_channel_that_a_node_with_another_clock_publishes_to(
    redis_server: RedisServer, start: Callable[..., Daemon], tmp_path: Path, seconds: int
) -> None:
    node = start(store=redis_server.url)
    address = node.json("/-/nodes")["nodes"][0]["address"]
    other = Shifted(tmp_path / "shifted", seconds, store=redis_server.url, peers=[address], drain_window=0)
    try:
        began = other.json("/-/nodes")["nodes"][0]["since"]
        assert abs(began - node.json("/-/nodes")["nodes"][0]["since"]) > 30, "its clock is another one"
        wait_for(lambda: has_a_peer(node) and has_a_peer(other), "the nodes are connected")
        post(other, "w.1", *range(1, 6))
        with Stream(node, "/w.*") as stream:
            post(other, "w.1", 6)
            post(other, "w.1", 7)
            assert [stream.value()["data"], stream.value()["data"]] == [6, 7]
    finally:
        assert other.stop() == 0
