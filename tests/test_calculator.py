"""The calculation service of examples/calculator, asked by curl as its README has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemons import ROOT, Daemon

SCRIPT = ROOT / "examples" / "calculator" / "calculator.py"


def service(node: Daemon, log: Path) -> subprocess.Popen[str]:
    """A service that serves."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, node.url], stdout=subprocess.PIPE, stderr=open(log, "w"), text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "serving calculator\n"
    return process


def curl(node: Daemon, calculation: object) -> tuple[int, object]:
    told = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "--json", json.dumps(calculation),
         f"{node.url}/calculator?_request=20&_again=1"], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    body, _, status = told.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_calculator(start: Callable[..., Daemon], tmp_path: Path) -> None:
    node = start(workers=2)
    with ExitStack() as stack:
        services = [service(node, tmp_path / f"log{number}") for number in range(2)]
        for process in services:
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(process.stdout.close)  # type: ignore[union-attr]
        for calculation, value in (("2 * (3 + 4)", 14), ("-1.5 / 2", -0.75), ("7", 7)):
            assert curl(node, calculation) == (200, value)
        wrong = {"1 / 0": 422, "2 +": 400, "exit()": 400, "9e99 * 9e99": 422, "a" * 201: 400, "2 ** 9": 400}
        for calculation, code in wrong.items():
            status, told = curl(node, calculation)
            assert status == 502 and isinstance(told, dict) and told["error"]["code"] == code
        services[0].kill()
        assert curl(node, "1 + 1") == (200, 2)
        services[1].kill()
