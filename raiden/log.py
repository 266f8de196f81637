"""Logging: one line an event, for people or as JSON, with the fields given as ``extra``."""

from __future__ import annotations

import logging
import sys
import time

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
        entry.update({name: str(value) for name, value in _fields(record).items()})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return ujson.dumps(entry, escape_forward_slashes=False)


def setup(process: str, *, form: str = "text", level: str = "INFO") -> None:
    """Log to standard error as ``process``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonFormatter if form == "json" else TextFormatter)(process))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # What a client does wrong is not an event of the server's.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
