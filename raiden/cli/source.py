"""The source of a command's settings."""

from __future__ import annotations

from collections.abc import Callable

from raiden.node.settings import ServiceBuilder, Settings

Source = tuple[str | None, list[str]]
"""The config file and the overrides, to read the settings again."""
Command = Callable[[Settings, ServiceBuilder | None, Source], int]
"""A command: it returns the exit code."""
