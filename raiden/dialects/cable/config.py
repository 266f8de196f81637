"""The settings of the dialect: its secrets, and their checks. It is read also where the dialect is not open."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any, Final

# The path by which the application broadcasts.
BROADCAST: Final = "/_broadcast"
# The message whose HMAC is the broadcast key that AnyCable makes of its secret.
_BROADCAST: Final = b"broadcast-cable"
_PATH = re.compile(r"/[^\s?#%]*[^\s?#%/]")
# The query parameter of a token: a name that needs no escapes.
_PARAMETER = re.compile(r"[A-Za-z0-9_.~-]+")


def secrets(settings: Any, name: str, *others: str) -> tuple[bytes, ...]:
    """The secrets of a setting, the newest first; where it has none, those of the first of ``others`` that has any."""
    for each in (name, *others):
        value = getattr(settings, each)
        found = (value,) if isinstance(value, str) else tuple(value)
        if any(found):
            return tuple(secret.encode() for secret in found if secret)
    return ()


def streams_secrets(settings: Any) -> tuple[bytes, ...]:
    """The secrets that sign the names of streams."""
    return secrets(settings, "cable_streams_secret", "cable_secret")


def jwt_secrets(settings: Any) -> tuple[bytes, ...]:
    """The secrets that sign tokens."""
    return secrets(settings, "cable_jwt_secret", "cable_secret")


def broadcast_keys(settings: Any) -> tuple[bytes, ...]:
    """The keys that an application may publish by; (): it needs none that the settings name."""
    own = secrets(settings, "cable_broadcast_key")
    return own or tuple(
        hmac.new(secret, _BROADCAST, hashlib.sha256).hexdigest().encode()
        for secret in secrets(settings, "cable_secret")
    )


def is_guarded(settings: Any) -> bool:
    """Whether the dialect is open, and knows its clients by a secret."""
    return "cable" in settings.dialects and bool(streams_secrets(settings) or jwt_secrets(settings))


def check(settings: Any) -> None:
    """Raise ValueError, which names the setting, for one that can't be used."""
    if "cable" not in settings.dialects:
        return
    if not _PATH.fullmatch(settings.cable_path) or settings.cable_path.startswith("/-/"):
        raise ValueError(f"cable_path = {settings.cable_path!r} is no path: write it like '/cable'")
    if settings.cable_path == BROADCAST:
        raise ValueError(f"cable_path = {BROADCAST!r} is where the application broadcasts: take another")
    if not _PARAMETER.fullmatch(settings.cable_token_param):
        raise ValueError(f"cable_token_param = {settings.cable_token_param!r} is no name of a query parameter")
    if settings.cable_token_required and not jwt_secrets(settings):
        raise ValueError("cable_token_required without cable_jwt_secret or cable_secret would let nobody in: set one")


def warnings(settings: Any) -> list[str]:
    """What an operator should know of them at each start."""
    if "cable" not in settings.dialects:
        return []
    found: list[str] = []
    names = ("secret", "streams_secret", "turbo_secret", "cableready_secret", "jwt_secret")
    if not settings.cable_public and not any(secrets(settings, f"cable_{name}") for name in names):
        found.append(
            "cable without a secret rejects signed streams: set cable_secret, or cable_public for unsigned ones"
        )
    if not broadcast_keys(settings):
        found.append("cable without cable_secret or cable_broadcast_key: whoever may publish may broadcast")
    return found
