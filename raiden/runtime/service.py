"""A service starts, runs and stops, perhaps with children.

     stopped --start--> starting --children, do_start--> running
     running --stop--> stopping --do_stop, greenlets, children in reverse--> stopped

Children start first and stop last, so a service may rely on them for as long as it runs. A service owns its greenlets:
they end with it. A service whose greenlet died of an exception would look alive and not do its work. So the process
ends, loudly, and its supervisor replaces it. A `task` is a greenlet whose failure concerns nothing but its own work:
its failure is only logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.pool import Group

from raiden.runtime import faults

# The bytes by which a process tells its starter that its services run; any others say why they don't.
READY = b"ready\n"


class Service:
    """Override `do_start` and `do_stop`; add children with `add`; start greenlets with `spawn` and `task`."""

    def __init__(self) -> None:
        self.state = "stopped"
        self.children: list[Service] = []
        self._greenlets = Group()

    def add(self, child: Service) -> Service:
        """Add a child; it starts with, and before, this service."""
        self.children.append(child)
        return child

    def start(self) -> None:
        """Start the children, then this service. If one fails, those that started are stopped again."""
        self.state = "starting"
        started: list[Service] = []
        try:
            for child in self.children:
                child.start()
                started.append(child)
            self.do_start()
        except BaseException:  # this is raised again: even a kill must not leave half a tree running
            self._greenlets.kill()
            for child in reversed(started):
                child.stop()
            self.state = "stopped"
            raise
        self.state = "running"

    def stop(self) -> None:
        """Stop this service, then its children in reverse; a service that doesn't run is left alone."""
        if self.state != "running":
            return
        self.state = "stopping"
        try:
            self.do_stop()
        finally:
            self._greenlets.kill()
            for child in reversed(self.children):
                child.stop()
            self.state = "stopped"

    def spawn(self, function: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., Any]:
        """Run a function in a greenlet that ends with the service; if it raises, the process ends (exit code 1)."""

        def run() -> Any:
            try:
                return function(*args)
            except Exception:  # any exception: nothing will do its work any more
                faults.fatal(f"a greenlet of {type(self).__name__}")

        return self._start(gevent.Greenlet(run))

    def task(self, function: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., Any]:
        """Run a function that comes to an end in a greenlet, which ends with the service; an exception is logged."""
        return self._start(gevent.Greenlet(faults.call, f"a task of {type(self).__name__}", function, *args))

    def _start(self, greenlet: gevent.Greenlet[..., Any]) -> gevent.Greenlet[..., Any]:
        self._greenlets.start(greenlet)
        return greenlet

    def do_start(self) -> None:
        """Start this service; called when all children run."""

    def do_stop(self) -> None:
        """Stop this service; called while all children still run."""
