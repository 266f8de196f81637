"""Exceptions that nobody expected: they are logged, and the process goes on working or ends.

An event loop prints such an exception and goes on. But an io watcher whose callback raised is stopped for good, and the
rest of a list of callbacks is never called: a worker may then look alive and do nothing. So there are three ways to
handle one. Each logs what failed, with its traceback, at most once a second for each place:

- `call`: for one of many callbacks. The others are called all the same.
- `install`: for exceptions that reach the event loop. An io watcher that was stopped by one is started again.
- `fatal`: for work that must go on for as long as the process lives. The process ends too, so that its supervisor
  replaces it: otherwise it would only look alive.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import gevent

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two lines of one kind
AGAIN = 0.1  # seconds until a watcher that failed is started again

_said: dict[str, float] = {}
_count = 0


def count() -> int:
    """The number of unexpected exceptions in this process."""
    return _count


def call(what: str, function: Callable[..., Any], *args: Any) -> bool:
    """Call a function, and return whether it returned; where it raises, say that ``what`` failed."""
    try:
        function(*args)
    except Exception:  # one callback's fault must not stop the others
        report(what)
        return False
    return True


def report(what: str) -> None:
    """Say that ``what`` failed with the exception that is handled now. ``what`` is one of a few texts."""
    _report(what, sys.exc_info())


def fatal(what: str) -> None:
    """End the process, because ``what`` has failed with the exception that is handled now."""
    log.critical("%s failed: this process ends", what, exc_info=True)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(1)


def spawn(what: str, function: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., Any]:
    """Run a function in a greenlet; if it raises, `fatal`."""

    def run() -> Any:
        try:
            return function(*args)
        except Exception:  # any exception: nothing will do its work any more
            fatal(what)

    return gevent.spawn(run)


def install() -> None:
    """Handle the exceptions that reach this thread's event loop."""
    hub = gevent.get_hub()
    system_error = (*hub.SYSTEM_ERROR, gevent.hub.HubDestroyed)
    default = hub.handle_error

    def handle_error(
        context: Any, type: type[BaseException], value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if context is None or issubclass(type, system_error) or issubclass(type, hub.NOT_ERROR):
            default(context, type, value, traceback)
            return
        callback = getattr(context, "callback", None)
        _report(_name(callback or context), (type, value, traceback))
        if callback is not None and hasattr(context, "fd"):
            # The loop stops the watcher as soon as this returns.
            gevent.spawn_later(AGAIN, _start_again, context, callback, context.args)

    hub.handle_error = handle_error


def _start_again(watcher: Any, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        if not watcher.active:
            watcher.start(callback, *args)
    except (ValueError, TypeError, AttributeError):
        pass  # it was closed meanwhile


def _name(what: Any) -> str:
    return str(getattr(what, "__qualname__", None) or type(what).__qualname__)


def _report(what: str, error: Any) -> None:
    global _count
    _count += 1
    now = time.monotonic()
    if now - _said.get(what, -EVERY) >= EVERY:
        if len(_said) > 1000:
            _said.clear()
        _said[what] = now
        log.error("%s failed", what, exc_info=error)
