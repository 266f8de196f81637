"""What is seen from outside is the same where what a message passes through is compiled: the doors' tests, on that."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.compiled import install_compiled
from tests.daemons import ROOT

pytestmark = pytest.mark.outside

MADE = "made"
# How much the C compiler optimizes: what it compiles is the same. A wheel's level takes it minutes more; `make test
# OPTIMIZE=3` has that.
OPTIMIZE = int(os.environ.get("TESTS_OPTIMIZE", "0"))
# The tests of one process, which takes a second or two to start. Programs of others (`tests/test_clients.py`) are not
# among them: what they send is what the tests of the doors send.
DOORS = (
    "recovery", "multiplex", "gateway", "zmq_doors zmq_sessions", "durable", "control_history permits",
    "http malformed pipe websocket",
    "control_port forwarded proxy_header",
    "dialects/cable dialects/pusher", "dialects/centrifuge dialects/streams",
)  # fmt: skip


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A checkout whose inner modules are compiled: one for all processes of a run, made by the first that asks."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which("gcc") is None or not header.exists():
        pytest.skip(f"needs gcc and {header}")
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "compiled"
    folder.mkdir(exist_ok=True)
    with open(folder / "outcome", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        outcome = file.read()
        if not outcome:
            outcome = make(folder)
            file.write(outcome)
    assert outcome == MADE, outcome
    return folder


def make(folder: Path) -> str:
    """`MADE`, or what the compiler said."""
    try:
        install_compiled(folder, OPTIMIZE)
    except subprocess.CalledProcessError as error:
        return f"{error}\n{error.stderr}"
    shutil.copytree(ROOT / "tests", folder / "tests")  # with its bytecode
    for name in ("pyproject.toml", "build", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    return MADE


def run(root: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_what_runs(compiled: Path) -> None:
    where = run(compiled, "-c", "import raiden.router; print(raiden.router.__file__)")
    assert where.startswith(f"{compiled}/raiden/router.") and where.endswith(".so\n")


def path(door: str) -> str:
    """The file with the tests of a door."""
    folder, _, name = f"tests/{door}".rpartition("/")
    return f"{folder}/test_{name}.py"


@pytest.mark.parametrize("doors", DOORS)
def test_doors_of_what_is_compiled(compiled: Path, doors: str) -> None:
    said = run(compiled, "-m", "pytest", *[path(door) for door in doors.split()])
    assert " passed" in said.splitlines()[-1], said
