"""Permissions of clients: patterns of channels, by action. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raiden.model.filters import Filters
from raiden.model.names import InvalidChannel, check_subscription
from raiden.model.options import ACTIONS


@dataclass(frozen=True, slots=True)
class Patterns:
    """Channels by name, or by their beginning."""

    names: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Sequence[str]) -> Patterns:
        """Make this of names, and of patterns with a ``*`` at their end."""
        prefixes = {pattern[:-1] for pattern in patterns if pattern.endswith("*")}
        return cls(frozenset(name for name in patterns if not name.endswith("*")), tuple(sorted(prefixes)))

    def allows(self, name: str) -> bool:
        """Whether a channel is in here, or all that a pattern stands for."""
        return name.rstrip("*").startswith(self.prefixes) or name in self.names

    def within(self, prefix: str) -> list[str]:
        """The names and patterns that stand for all channels in here that begin with the prefix."""
        if prefix.startswith(self.prefixes):
            return [prefix + "*"]
        narrower = [each + "*" for each in self.prefixes if each.startswith(prefix)]
        return narrower + [name for name in self.names if name.startswith(prefix)]


ALL, NONE = Patterns.of(["*"]), Patterns.of([])


@dataclass(frozen=True, slots=True)
class Client:
    """A client by its ``name``, with its permissions: the channels of each action. ``credential`` is the thing that
    shows who it is, as refusals call it: "key", "token", or "" where it has shown nothing.
    ``filtered`` are further permissions, for the messages that filters let through: by action, names and patterns with
    their filters, the longest first.

    A token's client has a ``subject``, and may have an ``id`` of the token, the Unix times at which it was
    ``issued`` and from which it is refused (``expires``), and any JSON value as ``info``."""

    name: str
    permissions: Mapping[str, Patterns] = field(default_factory=dict)
    filtered: Mapping[str, Sequence[tuple[str, Filters]]] = field(default_factory=dict)
    credential: str = "key"
    subject: str | None = None
    id: str | None = None
    issued: float | None = None
    expires: float | None = None
    info: Any = field(default=None, compare=False)

    def may(self, action: str) -> Patterns:
        """The channels to which the client may do the action."""
        return self.permissions.get(action, NONE)

    def filters(self, action: str, name: str) -> Filters | None:
        """The filters with which the client may do the action to a channel, or to all that a pattern stands for; None:
        it may not. Of several, those of the longest pattern count. So a pattern has none where some of its channels
        have others."""
        entries = self.filtered.get(action, ())
        for pattern, filters in entries:
            if name == pattern or (pattern.endswith("*") and name.rstrip("*").startswith(pattern[:-1])):
                return filters if all(found == filters for found in self._within(action, name)) else None
        return None

    def _within(self, action: str, name: str) -> list[Filters]:
        """The filters of the channels and patterns in a pattern that have filters of their own."""
        if not name.endswith("*"):
            return []
        unfiltered = self.may(action)
        return [
            filters for pattern, filters in self.filtered.get(action, ())
            if pattern.startswith(name[:-1]) and not unfiltered.allows(pattern)
        ]  # fmt: skip


# The client that has shown nothing.
NOBODY_KNOWN = Client("a client without a token", credential="")


def clients(keys: Mapping[str, Any]) -> dict[bytes, Client]:
    """The clients in a setting like ``{key: {"name": ..., "subscribe": [...]}}``, by key. Raises ValueError, which says
    what is wrong."""
    return {key.encode(): client(repr(key), options) for key, options in keys.items()}


def client(what: str, options: Any, others: Sequence[str] = ()) -> Client:
    """The client of a key with these options: its name, and the channels of actions. ``others`` are further options,
    which are ignored. Raises ValueError, which calls the key ``what``."""
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise ValueError(f"{what} must be a dict with a name, like {{'name': 'feeder', 'publish': ['*']}}")
    allowed = {}
    for option, patterns in options.items():
        if option in ACTIONS:
            allowed[option] = Patterns.of(checked(f"{option} of {what}", patterns))
        elif option != "name" and option not in others:
            known = ", ".join(("name", *others, *ACTIONS))
            raise ValueError(f"{what} has an unknown option {option!r}; there are {known}")
    return Client(options["name"], allowed)


def checked(what: str, patterns: Any) -> list[str]:
    """A list of channels and patterns; raises ValueError, which calls it ``what``."""
    try:
        if isinstance(patterns, str):
            raise TypeError
        return [check_subscription(pattern) for pattern in patterns]
    except (InvalidChannel, TypeError, AttributeError):
        raise ValueError(f"{what} must be a list of channels and patterns, not {patterns!r}") from None
