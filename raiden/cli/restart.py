"""``raiden restart``: a stop, then a start."""

from __future__ import annotations

from raiden.cli import start, stop
from raiden.cli.source import Source
from raiden.node import pid_file
from raiden.node.settings import ServiceBuilder, Settings

HELP = "stop it if it runs, and start it"


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    if pid_file.read(settings.file("pid")) is not None:
        stop.command(settings, service, source)
    return start.command(settings, service, source)
