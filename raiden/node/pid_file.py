"""The pid file of a node, which is locked for as long as the node runs: so a stale file is recognised."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

from raiden.node.errors import StartError
from raiden.runtime.private import open_private

_pid_file: Any = None


def claim(path: Path) -> None:
    """Write this process's pid and hold the lock until the process ends; raises StartError if another process holds
    it."""
    global _pid_file
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open_private(path)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except BlockingIOError:
        raise StartError(f"already running, pid {read(path)}; see 'raiden status'") from None
    except OSError as error:
        why = "it is a symbolic link; remove it" if error.errno == errno.ELOOP else error.strerror
        raise StartError(f"cannot write the pid file {path}: {why}; or set another pid_file, or data_dir") from None
    _pid_file = file


def remove() -> None:
    """Remove the file that this process holds, if it holds one: its node has ended."""
    if _pid_file is not None:
        Path(_pid_file.name).unlink(missing_ok=True)


def release() -> None:
    """Let go of the inherited lock, in a child: the lock is the supervisor's alone."""
    if _pid_file is not None:
        os.close(_pid_file.fileno())


def read(path: Path) -> int | None:
    """The pid of the running node, or None if it doesn't run, whatever a stale file says."""
    try:
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        pass
    return None
