"""``raiden stop``: the end of the node in the background."""

from __future__ import annotations

import fcntl
import os
import signal
import time

from raiden.cli.source import Source
from raiden.node import pid_file
from raiden.node.errors import StartError
from raiden.node.settings import ServiceBuilder, Settings

HELP = "stop it: clients are told to come back, and what is under way is finished"


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    pid = running(settings)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + settings.drain_delay + settings.drain_timeout + 10.0
    with open(settings.file("pid")) as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            settings.file("pid").unlink(missing_ok=True)
            print(f"stopped, pid {pid}")
            return 0
    raise StartError(f"pid {pid} did not stop; its log says why")


def running(settings: Settings) -> int:
    """The pid of the running node; raises StartError where none runs."""
    path = settings.file("pid")
    pid = pid_file.read(path)
    if pid is None:
        hint = f"; its pid file {path} is stale" if path.exists() else ""
        raise StartError(f"not running{hint}")
    return pid
