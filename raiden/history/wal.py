"""The write-ahead log (WAL) of the embedded store's file, which a thread brings into the file while commits go on.

A commit is written to the end of the WAL. SQLite begins it anew with the first commit after a checkpoint has brought
all of it into the file and flushed that to the disk; else it grows. A checkpoint of some MB takes 10 to 100 ms, in
which nothing else is done by whoever does it. So from `ENOUGH` bytes on a thread does one, with a connection of its
own. What commits have added meanwhile is not in the file then; when that is `LITTLE`, the one who commits brings it
there, which takes some ms; when it is more, the thread goes on. Where the thread can't keep up, as on a very slow disk,
commits wait for it from `MOST` bytes on, and the transaction that goes over.
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
# Frames by which its end is found.
_STEP: Final = 16
# Sizes and places in the file (sqlite.org/fileformat2.html#walformat): its head, a frame's, and the salt in both: that
# of frames which were written before it began anew is another one.
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
        self._other.execute("PRAGMA schema_version").fetchone()  # opens the files at their places
        self._file = os.open(path, os.O_RDONLY)
        self._wal = os.open(f"{os.fspath(path)}-wal", os.O_RDONLY)
        self._frame = _FRAME_HEAD + page_size
        # How many frames it has at least, and which of them a checkpoint has brought into the file.
        self._frames = self._done = 0
        self._salt = b""
        self._checkpoints: threading.Thread | None = None
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closed = False

    def committed(self) -> None:
        """Call it after each commit: have the WAL brought into the file, if it is time."""
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
        """Bring all of it into the file, as far as that is possible now, and wait for it."""
        self._idle.wait()
        self._run(self._db)

    def close(self) -> None:
        """Close ``db``, too; once or again."""
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
        """How many frames it has, or some less."""
        salt = os.pread(self._wal, _SALT, _SALT_OF_HEAD)
        if salt != self._salt:
            self._salt = salt
            self._frames = self._done = 0
        while salt and os.pread(self._wal, _SALT, self._place(self._frames + _STEP)) == salt:
            self._frames += _STEP
        return self._frames

    def _place(self, frame: int) -> int:
        """Where the salt of a frame is; they count from 1."""
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
            # SQLite does that only where nothing was committed meanwhile.
            with contextlib.suppress(OSError):
                os.fdatasync(self._file)
            self._idle.set()

    def _run(self, db: sqlite3.Connection) -> None:
        """A checkpoint; where it fails, because the disk is full, or someone reads an older state, the WAL grows on."""
        with contextlib.suppress(sqlite3.Error):
            _, _, self._done = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
