"""The audit log: a line of JSON for each request that was refused, and for each thing that managers did.

A thread writes the lines, so that a slow disk holds up no client. A file is opened anew when there is another one of
its name, or none, as after its rotation. Under attack only `LINES` refusals a second are written by each process; one
line tells how many were left out. What managers did is always written, unless `MOST` lines wait for the disk.

Values come from clients. JSON escapes what could end a line or hide a part of it, and long values are cut. Nobody
passes tokens, keys, cookies or queries to this.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from raiden.runtime.log import JsonFormatter
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# The statuses of refusals that are written.
STATUSES: Final = frozenset({401, 403, 429})
LINES: Final = 100
MOST: Final = 10_000
# Characters of a value that are written.
LONGEST: Final = 300
# Seconds for the last lines to be written when a process ends.
PATIENCE: Final = 2.0


class Target(Protocol):
    """A thing that takes lines; raises OSError."""

    def write(self, record: logging.LogRecord) -> None: ...

    def close(self) -> None: ...


class _File:
    """The file at ``path``; raises OSError where it can't be opened, or written. Lines of several processes do not
    mix, because each is written at once, at the end."""

    def __init__(self, path: Path, process: str) -> None:
        self._path = path
        self._formatter = JsonFormatter(process)
        self._file = -1
        self._is: tuple[int, int] | None = None
        self._open()

    def write(self, record: logging.LogRecord) -> None:
        line = self._formatter.format(record).encode() + b"\n"
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            self._open()
        else:
            if self._is != (found.st_dev, found.st_ino):
                self._open()
        if os.write(self._file, line) < len(line):
            raise OSError("the disk is full")

    def close(self) -> None:
        os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        # A pipe that nobody reads is an error at once.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        opened = os.open(self._path, flags, 0o640)
        if self._file >= 0:
            self.close()
        self._file = opened
        found = os.fstat(opened)
        self._is = found.st_dev, found.st_ino


class _Log:
    """The ordinary log, whatever its level is."""

    def write(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)

    def close(self) -> None:
        """Do nothing: the log is others', too."""


class Audit:
    """The audit log of a process of the node ``node``. ``waits``: the caller writes, and no thread."""

    def __init__(self, target: Target, node: str, *, waits: bool = False) -> None:
        self._target = target
        self._node = node
        self._waits = waits
        self._said = Seldom()
        self._queue: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        # Refusals that may be written until this monotonic time, and those that were left out.
        self._until, self._room, self._left_out = 0.0, LINES, 0
        self._lock = threading.Lock()

    def refused(self, fields: dict[str, object]) -> None:
        now = time.monotonic()
        if now >= self._until:
            self._until, self._room = now + 1.0, LINES
        if self._room and self._queue.qsize() < MOST:
            self._room -= 1
            self._put("refused", fields)
        else:
            self._leave_out()

    def done(self, fields: dict[str, object]) -> None:
        if self._queue.qsize() < MOST:
            self._put("done", fields)
        else:
            self._leave_out()

    def close(self, patience: float) -> None:
        """Write what waits, and nothing more. Waits for that for at most ``patience`` seconds."""
        self._closed = True
        if self._thread is None:
            self._target.close()
        else:
            self._queue.put(None)
            self._thread.join(patience)

    def _put(self, event: str, fields: dict[str, object]) -> None:
        record = logging.LogRecord("raiden.audit", logging.INFO, "", 0, event, None, None)
        vars(record).update({"node": self._node, **{name: _plain(value) for name, value in fields.items()}})
        if self._waits:
            self._write(record)
            return
        self._queue.put(record)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
            self._thread.start()

    def _leave_out(self) -> None:
        with self._lock:
            self._left_out += 1
            first = self._left_out == 1
        if first:
            self._queue.put(None)  # the thread is to tell it

    def _run(self) -> None:
        """Write lines; tell a second after the first one that was left out how many were."""
        due: float | None = None
        while not (self._closed and self._queue.empty()):
            try:
                record = self._queue.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except queue.Empty:
                record = None
            if record is not None:
                self._write(record)
            elif due is None:
                due = time.monotonic() + 1.0
            if due is not None and time.monotonic() >= due:
                due = None
                self._tell_left_out()
        if self._left_out:
            self._tell_left_out()
        self._target.close()

    def _tell_left_out(self) -> None:
        with self._lock:
            count, self._left_out = self._left_out, 0
        record = logging.LogRecord("raiden.audit", logging.INFO, "", 0, "left out", None, None)
        vars(record).update({"node": self._node, "count": count})
        self._write(record)

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._target.write(record)
        except OSError as error:
            if self._said.may_say("failed"):
                log.error("the audit log can't be written", extra={"reason": str(error)})


_audit: Audit | None = None
_process, _node, _waits = "", "", False


def setup(target: str | None, process: str, node: str, *, waits: bool = False) -> None:
    """Write the audit log of this process of a node `to` somewhere. ``waits``: write it at once, for a process that
    serves nobody and may have no thread. Raises OSError."""
    global _process, _node, _waits
    close(0.0)  # that of the process which this was forked from
    _process, _node, _waits = process, node, waits
    to(target)


def to(target: str | None) -> None:
    """Write to a file from now on, or to the ordinary log (``"log"``), or not at all (None). Raises OSError; then all
    stays as it was."""
    global _audit
    made = None
    if target is not None:
        made = Audit(_Log() if target == "log" else _File(Path(target), _process), _node, waits=_waits)
    close(0.0)
    _audit = made


def close(patience: float = PATIENCE) -> None:
    """Write what waits, and nothing more; wait for that for so many seconds."""
    global _audit
    if _audit is not None:
        _audit.close(patience)
    _audit = None


def refused(
    status: int, reason: str, *, action: str, channel: str = "", who: str = "", address: str = "", door: str = ""
) -> None:  # fmt: skip
    """Note a refusal, if it is one of `STATUSES`. ``who``: a subject, or the name of a key; ``door``: the transport."""
    if _audit is not None and status in STATUSES:
        fields = {"who": who, "address": address, "door": door, "action": action, "channel": channel}
        _audit.refused({**fields, "outcome": status, "reason": reason})


def done(
    action: str, *, channel: str = "", who: str = "", address: str = "", door: str = "", **more: object
) -> None:  # fmt: skip
    """Note a thing that a manager did; ``more`` are fields of it."""
    if _audit is not None:
        fields = {"who": who, "address": address, "door": door, "action": action, "channel": channel}
        _audit.done({**fields, "outcome": "done", **more})


def _plain(value: object) -> object:
    """The value as it is written: a text of a bounded length, which any reader of JSON can read."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, str):
        return value
    cut = value if len(value) <= LONGEST else value[:LONGEST] + "..."
    return cut.encode("utf-8", "replace").decode()
