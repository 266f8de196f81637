"""Raiden as `make wheel` makes it: what a message passes through is compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.daemons import ROOT


def install_compiled(folder: Path, optimize: int = 3) -> None:
    """Compile the checkout, and install that into ``folder``, for a daemon or a Python that has it as its root. The C
    compiler optimizes as for a wheel, which takes it two minutes, or less. Raises CalledProcessError where there is
    none."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-deps", "--upgrade", "--target", str(folder), str(ROOT)],
        env={**os.environ, "RAIDEN_COMPILE": "1", "RAIDEN_OPTIMIZE": str(optimize)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
