"""``raiden reload``: the settings of the running node, read again."""

from __future__ import annotations

import os
import signal

from raiden.cli.source import Source
from raiden.cli.stop import running
from raiden.node.settings import ServiceBuilder, Settings

HELP = "let it read its settings again"


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    pid = running(settings)
    os.kill(pid, signal.SIGHUP)
    log = settings.file("log")
    # A node in the foreground writes its log to standard error.
    print(f"told pid {pid} to reload; {log if os.path.exists(log) else 'its log'} says what changed")
    return 0
