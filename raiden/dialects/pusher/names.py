"""Names of the protocol's channels, and what each kind of channel is. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from raiden.model.names import InvalidChannel, check_channel
from raiden.model.refusals import Invalid

# Characters of a channel's name.
MAX_NAME: Final = 200
# The channel on which a user's connections hear what is sent to that user.
TO_USER: Final = "#server-to-user-"
_NAME = re.compile(r"[-a-zA-Z0-9_=@,.;]+")


class Kind(NamedTuple):
    """A kind of channel. ``signed``: the application signs each subscription to it. ``presence``: its members are
    known. ``cached``: who subscribes gets its last event. ``encrypted``: only the clients can read its events."""

    signed: bool = False
    presence: bool = False
    cached: bool = False
    encrypted: bool = False


# By the beginning of the name, the longest first.
_KINDS: Final = (
    ("private-encrypted-cache-", Kind(signed=True, cached=True, encrypted=True)),
    ("private-encrypted-", Kind(signed=True, encrypted=True)),
    ("private-cache-", Kind(signed=True, cached=True)),
    ("private-", Kind(signed=True)),
    ("presence-cache-", Kind(signed=True, presence=True, cached=True)),
    ("presence-", Kind(signed=True, presence=True)),
    ("cache-", Kind(cached=True)),
)
_PUBLIC: Final = Kind()
CACHED: Final = tuple(begin for begin, kind in _KINDS if kind.cached)
"""The beginnings of the names of cached channels."""
SIGNED: Final = ("private-", "presence-")
"""Those of all channels to which the application signs subscriptions."""


def kind_of(name: str) -> Kind:
    """The kind of a channel, by its name."""
    for begin, kind in _KINDS:
        if name.startswith(begin):
            return kind
    return _PUBLIC


def user_of(name: str) -> str | None:
    """The user whose own channel this is; None: it is another channel."""
    return name[len(TO_USER) :] if name.startswith(TO_USER) else None


def is_listed(name: str) -> bool:
    """Whether a channel of this name is one that servers are told of: neither a pattern, nor a user's own."""
    return _NAME.fullmatch(name) is not None


def check(name: object, prefix: str) -> str:
    """Return the name of a channel if it may be one, whose name here begins with ``prefix``. Raises Invalid."""
    if not isinstance(name, str):
        raise Invalid("a channel's name is a string")
    if len(name) > MAX_NAME:
        raise Invalid(f"a channel's name has at most {MAX_NAME} characters; this one has {len(name)}")
    user = user_of(name)
    if not (user if user is not None else _NAME.fullmatch(name)):
        raise Invalid(f"{name[:100]!r} is no channel: a name has letters, digits, and any of _ - = @ , . ;")
    try:
        check_channel(prefix + name)
    except InvalidChannel as error:
        raise Invalid(error.detail) from None
    return name
