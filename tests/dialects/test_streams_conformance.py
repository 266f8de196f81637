"""A node with the embedded store passes the protocol's own suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.daemons import Daemon
from tests.dialects import conformance


def test_all_of_the_suite_passes(start: Callable[..., Daemon], tmp_path: Path) -> None:
    node = start(dialects=["streams"], streams_poll=2.0, workers=2)
    (folder := tmp_path / "suite").mkdir()
    passed, failed = conformance.failures(f"http://127.0.0.1:{node.port}", folder)
    assert not failed, "\n".join(failed)
    assert passed == conformance.ALL
