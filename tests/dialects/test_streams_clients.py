"""Client libraries of Durable Streams, unchanged, against a node of two workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import ROOT, Daemon, running
from tests.dialects.conformance import NODE_MODULES, needs

CLIENTS = ROOT / "tests/clients/streams"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("streams"), workers=2, dialects=["streams"], streams_poll=5.0)


def said(*command: str) -> Any:
    """What a client says, as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_node(script: str, folder: Path, url: str) -> Any:
    (folder / "node_modules").symlink_to(NODE_MODULES)
    shutil.copy(CLIENTS / script, folder)
    return said("node", str(folder / script), url)


def test_the_client_for_javascript(node: Daemon, channel: str, tmp_path: Path) -> None:
    needs("@durable-streams/client")
    told = in_node("client.mjs", tmp_path, f"{node.url}/v1/stream/{channel}")
    numbers = list(range(200))
    assert told["failures"] == []
    assert told["readers"] == [numbers, numbers]
    assert (told["all"], told["closed"], told["rest"]) == (numbers, True, [])
    assert told["bytes"] == [True, True, True]


def test_the_transport_for_the_ai_sdk(node: Daemon, channel: str, tmp_path: Path) -> None:
    needs("@durable-streams/aisdk-transport", "ai")
    told = in_node("aisdk.mjs", tmp_path, f"{node.url}/v1/stream/{channel}")
    assert told == {"first": True, "second": True}


def test_the_client_for_python(node: Daemon, channel: str) -> None:
    pytest.importorskip("durable_streams")
    told = said(sys.executable, str(CLIENTS / "client.py"), f"{node.url}/v1/stream/{channel}")
    numbers = list(range(21))
    assert (told["page"], told["rest"], told["head"]) == (numbers[:20], numbers[20:], "application/json")
    assert told["readers"] == [numbers, numbers]
    assert told["async"] == "one two"
