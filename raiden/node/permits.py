"""The permits of a node's doors, made from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from raiden.access.api_keys import by_hash
from raiden.access.jwks import KeySet, known
from raiden.access.permit import Permits
from raiden.access.policy import Policy
from raiden.access.tokens import HMAC, Key, Tokens
from raiden.dialects.cable import config as cable
from raiden.hooks.delegate import Delegate
from raiden.node.settings import Settings
from raiden.protocols.hosts import is_loopback


def policy(settings: Settings, *, keyed: bool = False) -> Policy:
    """The policy of a door; ``keyed``: its clients have keys of their own. Raises ValueError."""
    return Policy(settings.channels, guarded=keyed or _has_keys(settings))


def of(settings: Settings, *, keyed: bool = False) -> Permits:
    """The permits of a door's clients, as in `policy`. Raises ValueError."""
    listed = keys(settings)
    sets = [KeySet(options["jwks"]) for options in settings.jwt_keys if "jwks" in options]
    tokens = Tokens(
        listed, (lambda kid: known(sets, kid)) if sets else None,
        audience=settings.jwt_audience, issuer=settings.jwt_issuer, leeway=settings.jwt_leeway,
    )  # fmt: skip
    return Permits(
        policy(settings, keyed=keyed), tokens if settings.jwt_keys else None, by_hash(settings.api_keys)
    )  # fmt: skip


def _has_keys(settings: Settings) -> bool:
    """Whether clients are known by something, so that what no word is said of is not for anyone."""
    return bool(settings.jwt_keys or settings.api_keys) or settings.delegate is not None or cable.is_guarded(settings)


def delegate(settings: Settings, present: Delegate | None = None) -> Delegate | None:
    """The delegate that is asked what tokens don't settle: the present one, if there is any, which is asked in another
    way from now on. Raises ValueError."""
    if settings.delegate is None:
        return None
    from raiden.hooks.ways import of as way_of  # only a node with a delegate needs them

    way = way_of(settings.delegate)
    if present is None:
        return Delegate(way)
    present.become(way)
    return present


def warnings(settings: Settings) -> list[str]:
    """What an operator should know of the keys."""
    return [
        f"a key of {key.algorithm} is too short for it: whoever has a token may find the key out by trying; replace it "
        f"by one of {HMAC[key.algorithm]} bytes"
        for key in keys(settings)
        if key.weak
    ]


def keys(settings: Settings) -> list[Key]:
    """The keys of tokens that are in the settings themselves."""
    return [Key.of(options) for options in settings.jwt_keys if "jwks" not in options]


def _check_url(url: Any) -> None:
    """Raise ValueError unless keys may be fetched from this URL."""
    parts = urlsplit(url) if isinstance(url, str) else None
    try:
        good = parts is not None and parts.hostname is not None and parts.port != 0
    except ValueError:
        good = False
    if parts is None or not good or not (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    ):  # fmt: skip
        raise ValueError("jwks is an https URL, or one of http on this machine")


def check(settings: Settings) -> None:
    """Raise ValueError, which names the setting and says what is wrong, where keys can't be used."""
    for number, options in enumerate(settings.jwt_keys, 1):
        try:
            if isinstance(options, Mapping) and options.keys() == {"jwks"}:
                _check_url(options["jwks"])
            else:
                Key.of(options)
        except ValueError as error:
            raise ValueError(f"jwt_keys: key {number}: {error}") from None
    try:
        by_hash(settings.api_keys)
    except ValueError as error:
        raise ValueError(f"api_keys: {error}") from None
    delegate(settings)
