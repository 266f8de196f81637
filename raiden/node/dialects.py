"""The dialects that a node speaks, made from the settings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from raiden.gateway import Gateway
from raiden.http.reserved import Reserved
from raiden.http.routes import Routes
from raiden.node.dialect_names import KNOWN
from raiden.node.errors import StartError
from raiden.node.settings import Settings


def opened(settings: Settings, gateway: Gateway) -> list[Any]:
    """The dialects that the settings name, which serve their paths at the gateway from now on. Raises StartError where
    two serve the same path."""
    if not settings.dialects:
        return []
    made = []
    routes = gateway.routes = Routes()
    for name in settings.dialects:
        module, _, kind = KNOWN[name].partition(":")
        dialect = getattr(import_module(module), kind)(gateway, settings)
        for path in dialect.paths:
            try:
                routes.add(path, dialect)
            except ValueError:
                raise StartError(
                    f"dialects: {name!r} and one before it have the path {path}: give it another"
                ) from None
        made.append(dialect)
    gateway.reader.reserved = reserved(settings, gateway)
    return made


def reserved(settings: Settings, gateway: Gateway) -> Reserved:
    """The paths that are no channels."""
    return Reserved([*settings.reserved_paths, *(() if gateway.routes is None else gateway.routes.names())])
