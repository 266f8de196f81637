"""The programs in C beside this file: compiled into build/, run, and what they say kept; for all benchmarks."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


PARTS = {
    "load": ("load", "options", "wire", "meter", "sign")
}  # what a program is made of, if not of its own file alone


class Failed(Exception):
    """A measurement can't be made, or messages were lost."""


def compile_tools(*names: str, libraries: Sequence[str] = ()) -> None:
    BUILD.mkdir(exist_ok=True)
    folder = ROOT / "benchmarks"
    for name in names:
        target, sources = BUILD / name, [folder / f"{part}.c" for part in PARTS.get(name, (name,))]
        newest = max(file.stat().st_mtime for file in (*sources, *folder.glob("*.h")))
        if not target.exists() or target.stat().st_mtime < newest:
            command = ["cc", "-O2", "-std=c11", "-pthread", "-o", str(target), *map(str, sources), "-ldl"]
            command += [f"-l{library}" for library in libraries]
            subprocess.run(command, check=True, timeout=120)


def run_tool(command: list[str], timeout: float) -> Any:
    """The JSON that a tool prints; it is ended when it takes too long."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise Failed(f"{Path(command[0]).name}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def run_load(*options: str, timeout: float = 60, **numbers: float) -> dict[str, Any]:
    """What load, once it is compiled, says of a run with these options: ``seconds=5`` is ``--seconds 5``."""
    command = [str(BUILD / "load"), *options, "--timeout", str(timeout)]
    for name, number in numbers.items():
        command += [f"--{name.replace('_', '-')}", str(number)]
    result: dict[str, Any] = run_tool(command, timeout + 10)
    if result["timed_out"]:
        raise Failed(f"load was not done within {timeout} seconds: {result}")
    return result


def check_delivered(result: dict[str, Any], *, in_order: bool = True) -> None:
    """Every publish was accepted, and every message came once to each subscriber, and from one publisher in order."""
    wrong = ["lost", "duplicates", "misrouted", "stale", "pub_errors", "disconnects"] + ["out_of_order"] * in_order
    if any(result[name] for name in wrong) or not result["published"]:
        raise Failed(f"not every message came once and in order: {result}")


def write_json(file: Path, **result: object) -> None:
    """What a benchmark has measured, and on what machine."""
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    file.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
