"""The limit of descriptors: a node takes what it may have, and says when that is too little."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

from tests.daemons import Daemon

SOFT, HARD = 256, 2048


class Limited(Daemon):
    def command_line(self, argv: list[str]) -> list[str]:
        return ["prlimit", f"--nofile={SOFT}:{HARD}", *argv]


@pytest.mark.parametrize(("connections", "warned"), [(1000, False), (2000, True)])
def test_the_limit_is_raised_to_the_hard_one(tmp_path: Path, connections: int, warned: bool) -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    node = Limited(tmp_path / "node", workers=1, max_connections=connections)
    try:
        assert {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in node.workers().values()} == {(HARD, HARD)}
        assert ("too few descriptors for max_connections" in node.log()) is warned
    finally:
        assert node.stop() == 0
