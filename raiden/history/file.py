"""The file of the embedded store: opening it, setting a damaged one aside, its largest size, and its transactions.

A commit is written to the WAL: with ``synchronous = NORMAL`` that survives the end of every process, with ``FULL`` it
is flushed to the disk first and survives the end of the machine (sqlite.org/pragma.html#pragma_synchronous). The file
does not become smaller: removed rows make room for others. `Wal` takes care of the WAL's size, and brings it into the
file.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from raiden.history import wal
from raiden.history.store import StoreFailed
from raiden.history.wal import Wal

log = logging.getLogger(__name__)

SCHEMA_VERSION = 5
APPLICATION_ID = 0x52616964  # "Raid", so that `file` knows it
BUSY_TIMEOUT = 5.0  # seconds that a commit waits for other processes' commits
# The part of the largest size that growing work leaves to work that must go on: durables, claims, and removing.
RESERVE = 1 / 16
SCARCE = 1 << 20  # free bytes of a disk that may be too full to open a file

T = TypeVar("T")


class File:
    """A database at ``path`` with a schema, made if it is not there; raises StoreFailed where it can't be opened or
    made. A damaged file is set aside, which is logged; a file of a later schema is left alone. ``migrations`` are the
    scripts that bring each earlier schema to the next. The file may take ``max_size`` bytes; 0: the disk is the
    limit."""

    def __init__(self, path: Path, schema: str, migrations: Mapping[int, str], max_size: int) -> None:
        self.path = path
        self._schema = schema
        self._migrations = migrations
        self._max_size = max_size
        self._max_pages = 0
        self._synchronous = -1
        self.db = self.read(self._open)
        # The file and its log (where its disk can have one), as they are at their paths: no other files may take these
        # while this one is open.
        names = (os.fspath(path), f"{os.fspath(path)}-wal")
        self._parts = [(name, os.stat(name)) for name in names if os.path.exists(name)]
        self._page_size = self._pragma("page_size")
        self._wal = self.read(lambda: Wal(path, self.db, self._page_size)) if len(names) == len(self._parts) else None

    def read(self, work: Callable[[], T]) -> T:
        """Do work, and raise its errors as StoreFailed."""
        try:
            return work()
        except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
            # The last two come from a value that SQLite can't take. It must not end the process that serves all others.
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and self._disk_is_full():
                # SQLite has many names for it, like "disk I/O error".
                raise self._failed(f"{error}: its disk is full; make room on it, or set another data_dir") from error
            full = self._max_size and code == sqlite3.SQLITE_FULL
            raise self._failed(self._full() if full else error) from error

    def write(self, work: Callable[[], T], *, synced: bool = False, grows: bool = False) -> T:
        """Do work in a transaction, all or nothing. ``synced``: the commit is flushed to the disk. ``grows``: the work
        may use the file's largest size only up to the `RESERVE`."""

        def write() -> T:
            self._check_place()
            self._prepare(2 if synced else 1, self._pages(grows=grows))  # FULL, NORMAL
            self.db.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                self.db.execute("COMMIT")
            except BaseException:  # this is raised again: the transaction must not stay open
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
            if self._wal is not None:
                self._wal.committed()
            return result

        return self.read(write)

    def check(self) -> None:
        """Raise StoreFailed if nothing can be written now, if the file is full, or if it is not at its path."""
        # Nothing but a commit reaches the disk.
        self.write(lambda: self.db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}"))
        if not self.has_room():
            raise self._failed(self._full())

    def has_room(self) -> bool:
        """Whether work with ``grows`` may be done."""
        if not self._max_size:
            return True
        return self._pragma("page_count") - self._pragma("freelist_count") < self._pages(grows=True)

    def size(self) -> int:
        """The bytes of the file, with its log, on the disk."""
        parts = (self.path.with_name(self.path.name + suffix) for suffix in ("", "-wal", "-shm"))
        return self.read(lambda: sum(part.stat().st_size for part in parts if part.exists()))

    def close(self) -> None:
        if self._wal is not None:
            self._wal.close()
        else:
            self.db.close()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite's other files get the mode of this one.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # a file that can't be opened or written is not damaged for that
            self._set_aside(error)
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA journal_size_limit = {wal.ENOUGH}")
            db.execute("PRAGMA wal_autocheckpoint = 0")  # `Wal` does it
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StoreFailed(
                    f"{self.path} was written by a later release (schema {version}, this one knows {SCHEMA_VERSION}): "
                    "run that release, or give this one another data_dir"
                )
            if version < SCHEMA_VERSION:
                self._create(db)
        except BaseException:  # this is raised again: nobody else will close it
            db.close()
            raise
        return db

    def _create(self, db: sqlite3.Connection) -> None:
        """Bring the file to this schema, from nothing or from an earlier schema."""
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been faster
        scripts = [self._migrations[each] for each in range(version, SCHEMA_VERSION)] if version else [self._schema]
        for script in scripts:
            for statement in script.split(";\n"):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")

    def _set_aside(self, error: Exception) -> None:
        """Keep a damaged file for inspection, and begin anew: with other epochs, so that nobody takes the new offsets
        for the old ones."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                os.replace(part, aside.with_name(aside.name + suffix))
        log.error(
            "the history was damaged and set aside; a new one begins", extra={"file": str(aside), "why": str(error)}
        )

    def _check_place(self) -> None:
        """Raise StoreFailed where the file or its log is not at its path any more: further commits would be lost with
        the process. Two looks cost far less than a commit."""
        try:
            there = all([os.path.samestat(os.stat(name), known) for name, known in self._parts])
        except FileNotFoundError:
            there = False
        if not there:
            # Acknowledged messages in a log that nobody would find go into the file.
            if self._wal is not None:
                self._wal.checkpoint()
            raise self._failed(
                "it, or its -wal, was moved or replaced while it was in use: put it back, or restart the node"
            )

    def _disk_is_full(self) -> bool:
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < SCARCE

    def _prepare(self, synchronous: int, max_pages: int) -> None:
        if synchronous != self._synchronous:
            self.db.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        if max_pages != self._max_pages:
            self.db.execute(f"PRAGMA max_page_count = {max_pages}")
            self._max_pages = max_pages

    def _pages(self, *, grows: bool) -> int:
        """The number of pages that the file may have; 0: any number."""
        size = self._max_size * (1 - RESERVE) if grows else self._max_size
        return max(1, int(size // self._page_size)) if size else 0

    def _pragma(self, name: str) -> int:
        return self.read(lambda: self.db.execute(f"PRAGMA {name}").fetchone()[0])

    def _failed(self, why: str | Exception) -> StoreFailed:
        known = why.strerror if isinstance(why, OSError) else why  # its text has the file's name
        return StoreFailed(f"the history at {self.path} fails: {why}", f"the history fails: {known}")

    def _full(self) -> str:
        return (
            f"it is full: raise max_data (it may take {self._max_size} bytes), keep less history (history_size,"
            " history_ttl), or make room on its disk"
        )
