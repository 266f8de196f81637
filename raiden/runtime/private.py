"""Files of a node that no other user may open, because to open a file is enough to lock it: its pid file, and the lock
of its history."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO


def open_private(path: Path) -> TextIO:
    """Open a file for reading and appending, and make it if it is not there. Its mode becomes 0600: to lock a file
    takes no more than to open it (flock(2)). Raises OSError, ELOOP for a symbolic link: it could lead to any file."""
    file = open(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600))
    if os.fstat(file.fileno()).st_uid == os.geteuid():
        os.fchmod(file.fileno(), 0o600)
    return file
