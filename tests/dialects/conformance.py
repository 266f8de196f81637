"""The suite of the Durable Streams protocol, run against a node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import ROOT, environment

NODE_MODULES = ROOT / "build/node/node_modules"
TESTS = ROOT / "tests/clients/streams/conformance.test.mjs"
# Its tests that are not of subscriptions, which are off by default.
ALL = 332


def needs(*packages: str) -> None:
    """Skip the test where Node or one of these packages is not there."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    for package in packages:
        if not (NODE_MODULES / package).is_dir():
            pytest.skip(f"needs {package}: npm install --prefix build/node {package}")


def failures(url: str, folder: Path, *, only: str = "") -> tuple[int, list[str]]:
    """Run the suite against the node at ``url``, in an empty ``folder``; ``only`` the tests whose names have this
    pattern. Returns how many tests passed, and what the others say. The node's long-polls wait for 2 seconds."""
    needs("vitest", "@durable-streams/server-conformance-tests")
    (folder / "node_modules").symlink_to(NODE_MODULES)
    shutil.copy(TESTS, folder)
    results = folder / "results.json"
    command = ["node", str(NODE_MODULES / "vitest/vitest.mjs"), "run", TESTS.name, "--testTimeout=60000"]
    command += ["--reporter=json", f"--outputFile={results}", f"--root={folder}"]
    command += ["-t", only] if only else []
    environ = {**os.environ, **environment(), "CONFORMANCE_TEST_URL": url}
    subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=False, timeout=300)
    told: dict[str, Any] = json.loads(results.read_text())
    tests = [test for file in told["testResults"] for test in file["assertionResults"]]
    failed = [f"{test['fullName']}: {test['failureMessages'][:1]}" for test in tests if test["status"] == "failed"]
    return told["numPassedTests"], failed
