"""``raiden check``: the settings are checked without starting anything."""

from __future__ import annotations

from raiden.cli.source import Source
from raiden.node import config
from raiden.node.settings import ServiceBuilder, Settings

HELP = "judge the settings without starting anything"


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    for warning in config.warnings(settings):
        print(f"warning: {warning}")
    print("the settings are good")
    return 0
