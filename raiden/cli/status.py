"""``raiden status``: whether the node runs."""

from __future__ import annotations

import sys

from raiden.cli.source import Source
from raiden.node import pid_file
from raiden.node.settings import ServiceBuilder, Settings

NOT_RUNNING = 3  # the exit code

HELP = "say whether it runs; the exit code is 3 if it does not"


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    pid = pid_file.read(settings.file("pid"))
    if pid is None:
        stale = " (its pid file is stale)" if settings.file("pid").exists() else ""
        print(f"not running{stale}", file=sys.stderr)
        return NOT_RUNNING
    print(f"running, pid {pid}")
    return 0
