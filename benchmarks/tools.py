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


PARTS = {"load": ("load.c", "wire.c", "meter.c", "wire.h", "meter.h")}  # what a program is made of, if not NAME.c alone


class Failed(Exception):
    """A measurement can't be made, or messages were lost."""


def compile_tools(*names: str, libraries: Sequence[str] = ()) -> None:
    BUILD.mkdir(exist_ok=True)
    for name in names:
        sources = [ROOT / "benchmarks" / part for part in PARTS.get(name, (f"{name}.c",))]
        target = BUILD / name
        if not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime for source in sources):
            command = ["cc", "-O2", "-std=c11", "-pthread", "-o", str(target)]
            command += [str(source) for source in sources if source.suffix == ".c"]
            command += [f"-l{library}" for library in libraries]
            subprocess.run(command, check=True, timeout=120)


def run_tool(command: list[str], timeout: float) -> Any:
    """The JSON that a tool prints; it is ended when it takes too long."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise Failed(f"{Path(command[0]).name}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def write_json(file: Path, **result: object) -> None:
    """What a benchmark has measured, and on what machine."""
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    file.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
