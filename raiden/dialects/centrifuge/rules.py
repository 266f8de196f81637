"""The settings of the dialect. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# What subscribers of a channel may be allowed to do there.
SUBSCRIBERS: Final = ("publish", "history", "presence")
# Seconds for a subscription to begin: after five, clients believe that the server is gone.
PATIENCE: Final = 4.0
# Characters of an API key, at least.
LEAST_KEY: Final = 16


class Rules(NamedTuple):
    """What clients may do: connect without a token (``anonymous``), do these actions where they are subscribed
    (``subscribers``), ask who is at a channel (``presence``), ask for deltas (``delta``); and what they are told
    without asking: of joins and leaves (``join_leave``), and what comes on the channel of their user (``personal``)."""

    anonymous: bool
    subscribers: frozenset[str]
    presence: bool
    join_leave: bool
    personal: bool
    delta: bool
    patience: float = PATIENCE

    @classmethod
    def of(cls, settings: Any) -> Rules:
        """The rules that the settings say."""
        return cls(
            settings.centrifuge_anonymous, frozenset(settings.centrifuge_subscribers), settings.centrifuge_presence,
            settings.centrifuge_join_leave, settings.centrifuge_personal, settings.centrifuge_delta,
        )  # fmt: skip


def check(settings: Any) -> None:
    """Raise ValueError, which names the setting and says what is wrong, for settings that can't be used."""
    for action in settings.centrifuge_subscribers:
        if action not in SUBSCRIBERS:
            raise ValueError(f"centrifuge_subscribers: {action!r} is none of {', '.join(SUBSCRIBERS)}")
    key = settings.centrifuge_api_key
    if key is not None and (len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        raise ValueError(
            f"centrifuge_api_key has at least {LEAST_KEY} characters of ASCII, without spaces: make one with 'openssl "
            "rand -hex 32'"
        )


def warnings(settings: Any) -> list[str]:
    """What an operator should know of them at each start."""
    if "centrifuge" not in settings.dialects or settings.centrifuge_anonymous or settings.jwt_keys:
        return []
    if _knows_connect(settings.delegate):
        return []
    return [
        "centrifuge lets no client connect: set jwt_keys for clients with tokens, centrifuge_anonymous = True, or a "
        "delegate that is asked about connect"
    ]


def _knows_connect(delegate: object) -> bool:
    """Whether a delegate is asked who may connect."""
    if isinstance(delegate, Mapping):
        return "connect" in delegate.get("events", ("connect",))
    return callable(getattr(delegate, "on_connect", None))
