"""Raiden as `make wheel` makes it: what a message passes through is compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.daemons import ROOT


def install_compiled(folder: Path) -> None:
    """Compile the checkout, and install that into ``folder``, for a daemon or a Python that has it as its root. Takes a
    minute; raises CalledProcessError where there is no C compiler."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-deps", "--upgrade", "--target", str(folder), str(ROOT)],
        env={**os.environ, "RAIDEN_COMPILE": "1"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
