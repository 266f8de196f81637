"""Settings of the dialect, checked. Pure."""

from __future__ import annotations

from typing import Any

from raiden.model.names import InvalidChannel, check_channel


def check(settings: Any) -> None:
    """Raise ValueError for settings with which streams can't be served, which says what to do."""
    if "streams" not in settings.dialects:
        return
    if not settings.keeps_history:
        raise ValueError(
            "dialects: streams are kept in the history: set store, and in channels a history_size for their names"
        )
    try:
        check_channel(settings.streams_prefix + "x")
    except InvalidChannel as error:
        raise ValueError(f"streams_prefix: {error}") from None
