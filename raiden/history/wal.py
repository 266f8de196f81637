"""The write-ahead log (WAL) of the embedded store's file, which a thread brings into the file while commits go on.

A commit is written to the end of the WAL. SQLite begins the WAL anew with the first commit after a checkpoint has
brought all of it into the file and flushed that to the disk; otherwise the WAL grows. A checkpoint of some MB takes 10
to 100 ms, in which its thread does nothing else. So from `ENOUGH` bytes on a thread of its own does one, with a
connection of its own. Commits that came meanwhile are not in the file then. When these are `LITTLE`, the committing
thread brings them there, which takes some ms; when they are more, the other thread goes on. Where that thread can't
keep up, as on a very slow disk, commits wait for it once the WAL has `MOST` bytes and the transaction that goes over.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import Final

ENOUGH: Final = 4 << 20
LITTLE: Final = 256 << 10
MOST: Final = 16 << 20
# The step, in frames, by which the end of the WAL is found.
_STEP: Final = 16
# Sizes and places in the WAL (sqlite.org/fileformat2.html#walformat): its head, a frame's head, and the salt in both.
# Frames from before the WAL began anew have another salt.
_HEAD: Final = 32
_FRAME_HEAD: Final = 24
_SALT_OF_HEAD: Final = 16
_SALT_OF_FRAME: Final = 8
_SALT: Final = 8


class Wal:
    """The WAL of the database at ``path``, which ``db`` writes alone, with pages of ``page_size`` bytes. `committed`,
    `checkpoint` and `close` are for the thread that commits."""

    def __init__(self, path: Path, db: sqlite3.Connection, page_size: int) -> None:
        self._db = db
        self._other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._other.execute("PRAGMA synchronous = NORMAL")
        self._other.execute("PRAGMA schema_version").fetchone()  # opens the files at their paths
        self._file = os.open(path, os.O_RDONLY)
        self._wal = os.open(f"{os.fspath(path)}-wal", os.O_RDONLY)
        self._frame = _FRAME_HEAD + page_size
        # The least number of frames in the WAL, and the number that a checkpoint has brought into the file.
        self._frames = self._done = 0
        self._salt = b""
        self._checkpoints: threading.Thread | None = None
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closed = False

    def committed(self) -> None:
        """Have the WAL brought into the file, if it is time; to be called after each commit."""
        frames = self._count()
        if frames * self._frame < ENOUGH:
            return
        if self._idle.is_set():
            if self._done and (frames - self._done) * self._frame <= LITTLE:
                self.checkpoint()
            else:
                self._begin()
        if frames * self._frame >= MOST:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Bring the whole WAL into the file, as far as that is possible now, and wait for it."""
        self._idle.wait()
        self._run(self._db)

    def close(self) -> None:
        """Close the WAL and ``db``; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._checkpoints is not None:
            self._wanted.set()
            self._checkpoints.join()
        self._other.close()
        self._db.close()
        # Behind them: to close a file lets go of all locks that the process has on it (fcntl_locking(2)).
        os.close(self._file)
        os.close(self._wal)

    def _count(self) -> int:
        """The number of frames in the WAL, or up to `_STEP` less."""
        salt = os.pread(self._wal, _SALT, _SALT_OF_HEAD)
        if salt != self._salt:
            self._salt = salt
            self._frames = self._done = 0
        while salt and os.pread(self._wal, _SALT, self._place(self._frames + _STEP)) == salt:
            self._frames += _STEP
        return self._frames

    def _place(self, frame: int) -> int:
        """The place of a frame's salt in the WAL; frames count from 1."""
        return _HEAD + (frame - 1) * self._frame + _SALT_OF_FRAME

    def _begin(self) -> None:
        self._idle.clear()
        if self._checkpoints is None:
            self._checkpoints = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._checkpoints.start()
        self._wanted.set()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closed:
                return
            self._run(self._other)
            # SQLite flushes the file only where nothing was committed meanwhile.
            with contextlib.suppress(OSError):
                os.fdatasync(self._file)
            self._idle.set()

    def _run(self, db: sqlite3.Connection) -> None:
        """Do a checkpoint; where it fails, because the disk is full, or someone reads an older state, the WAL grows
        on."""
        with contextlib.suppress(sqlite3.Error):
            _, _, self._done = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
