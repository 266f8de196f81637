"""Logging: one line an event, for people or as JSON, with the fields given as ``extra``. It goes to standard error,
which may be a file that is opened anew after its rotation.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from pathlib import Path

import ujson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class TextFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {name}={value!r}" for name, value in _fields(record).items())
        line = f"{when} {record.levelname:7} {self._process}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(TextFormatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": record.created,
            "level": record.levelname,
            "process": self._process,
            "event": record.getMessage(),
        }
        entry.update({name: _json(value) for name, value in _fields(record).items()})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return ujson.dumps(entry, escape_forward_slashes=False)


def _json(value: object) -> object:
    """The value with its type where JSON has it, else its text."""
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def setup(process: str, *, form: str = "text", level: str = "INFO") -> None:
    """Log to standard error as ``process``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonFormatter if form == "json" else TextFormatter)(process))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # A client's mistakes are no events of the server's.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)


_file: Path | None = None


def to_file(path: Path) -> None:
    """Redirect standard output and standard error to this file from now on; raises OSError. Processes that are forked
    later write to it, too."""
    global _file
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for target in (1, 2):
        os.dup2(log, target)
    os.close(log)
    _file = path


def reopen(*_: object) -> None:
    """Open the log file again, under its name. This is a signal's handler, for programs that rotate the file. Without a
    file it does nothing."""
    if _file is None:
        return
    try:
        to_file(_file)
    except OSError as error:
        logging.getLogger(__name__).error("the log file can't be opened again", extra={"reason": str(error)})
