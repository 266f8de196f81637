"""The settings of the dialect ``pusher``: checked, and what follows from them for channels."""

from __future__ import annotations

import re
from typing import Any, Final

from raiden.node.settings import Settings

NAME: Final = "pusher"


def check(settings: Settings) -> None:
    """Raise ValueError, which names the setting and says what is wrong, where the dialect can't be open so."""
    if NAME not in settings.dialects:
        return
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", settings.pusher_path):
        raise ValueError(f"pusher_path must be the beginning of paths, like '/ws', not {settings.pusher_path!r}")
    endpoints(settings)


def endpoints(settings: Settings) -> list[Any]:
    """The endpoints of the apps' webhooks. Raises ValueError."""
    if NAME not in settings.dialects:
        return []
    from raiden.dialects.pusher import webhooks

    return webhooks.endpoints(_apps(settings))


def channels(settings: Settings) -> dict[str, Any]:
    """The options of channels, with those of the channels of apps."""
    if NAME not in settings.dialects:
        return settings.channels
    from raiden.dialects.pusher.apps import with_own

    # The nodes of a cluster need a store that they share.
    is_alone = not (settings.peers or settings.discovery)
    caches = settings.store not in ("sqlite", "none") or (settings.store == "sqlite" and is_alone)
    return with_own(settings.channels, _apps(settings), caches=caches)


def _apps(settings: Settings) -> Any:
    from raiden.dialects.pusher.apps import apps  # only nodes with the dialect need it

    return apps(settings.pusher_apps)
