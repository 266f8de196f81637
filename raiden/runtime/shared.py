"""Memory that the processes of a node share. It is made before they are forked, and has no name in any file system."""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from typing import Final

# Seconds for which a lock is tried for that another process has. It has it for microseconds, unless the kernel has
# others run meanwhile, or it was stopped.
_PATIENCE: Final = 0.02


class Shared:
    """``size`` bytes of zeros, whose pages take memory once they are used; and locks of its parts by number, which the
    kernel takes from a process that dies (fcntl(2), record locks)."""

    def __init__(self, size: int) -> None:
        self._file = os.memfd_create("raiden", os.MFD_CLOEXEC)
        os.ftruncate(self._file, size)
        self.memory = mmap.mmap(self._file, size)

    def acquire(self, part: int) -> None:
        """Lock a part. Where another process keeps it, go on without: a process that was stopped must not stop the
        others."""
        until = 0.0
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, part)
                return
            except OSError:
                now = time.monotonic()
                until = until or now + _PATIENCE
                if now > until:
                    return
                os.sched_yield()

    def release(self, part: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, part)
