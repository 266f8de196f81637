"""What is seen from outside is the same where what a message passes through is compiled: the doors' tests, on that."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.compiled import install_compiled
from tests.daemons import ROOT

DOORS = (
    "clients", "control_history", "durable", "gateway", "http", "malformed", "multiplex", "pipe", "recovery",
    "websocket", "zmq_doors", "zmq_sessions",
)  # fmt: skip


def test_the_doors_of_what_is_compiled(tmp_path: Path) -> None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which("gcc") is None or not header.exists():
        pytest.skip(f"needs gcc and {header}")
    install_compiled(tmp_path)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "build"):
        (tmp_path / name).symlink_to(ROOT / name)
    where = run(tmp_path, "-c", "import raiden.router; print(raiden.router.__file__)")
    assert where.startswith(f"{tmp_path}/raiden/router.") and where.endswith(".so\n")
    said = run(tmp_path, "-m", "pytest", *[f"tests/test_{name}.py" for name in DOORS])
    assert " passed" in said.splitlines()[-1], said


def run(root: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
