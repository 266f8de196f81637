"""Permissions of clients: patterns of channels, by action. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from raiden.model.names import InvalidChannel, check_subscription
from raiden.model.refusals import Forbidden


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

    def allows(self, channel: str) -> bool:
        return channel.startswith(self.prefixes) or channel in self.names

    def within(self, prefix: str) -> list[str]:
        """The names and patterns that stand for all channels in here that begin with the prefix."""
        if prefix.startswith(self.prefixes):
            return [prefix + "*"]
        narrower = [each + "*" for each in self.prefixes if each.startswith(prefix)]
        return narrower + [name for name in self.names if name.startswith(prefix)]


ALL, NONE = Patterns.of(["*"]), Patterns.of([])


@dataclass(frozen=True, slots=True)
class Client:
    """A client by its name, with its permissions."""

    name: str
    subscribe: Patterns = field(default=NONE)
    publish: Patterns = field(default=NONE)
    history: Patterns = field(default=NONE)

    def check(self, action: str, channel: str) -> None:
        """Raise Forbidden unless the client may do the action to the channel."""
        if not getattr(self, action).allows(channel):
            raise Forbidden(f"{self.name} may not {_VERBS[action]} {channel!r}: list it in the {action} of its key")


_VERBS = {"subscribe": "subscribe to", "publish": "publish to", "history": "read the history of"}

# The client where nobody has keys.
ANYONE = Client("anyone", ALL, ALL, ALL)
_OPTIONS = tuple(option.name for option in fields(Client))


def clients(keys: Mapping[str, Any]) -> dict[bytes, Client]:
    """The clients in a setting like ``{key: {"name": ..., "subscribe": [...]}}``, by key. Raises ValueError, which says
    what is wrong."""
    return {key.encode(): _client(key, options) for key, options in keys.items()}


def _client(key: str, options: Any) -> Client:
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise ValueError(
            f"what {key!r} stands for must be a dict with a name, like {{'name': 'feeder', 'publish': ['*']}}"
        )
    allowed = {}
    for option, patterns in options.items():
        if option not in _OPTIONS:
            raise ValueError(f"{key!r} has an unknown option {option!r}; there are {', '.join(_OPTIONS)}")
        if option != "name":
            allowed[option] = Patterns.of(_checked(key, option, patterns))
    return Client(options["name"], **allowed)


def _checked(key: str, option: str, patterns: Any) -> list[str]:
    try:
        if isinstance(patterns, str):
            raise TypeError
        return [check_subscription(pattern) for pattern in patterns]
    except (InvalidChannel, TypeError, AttributeError):
        raise ValueError(f"{option} of {key!r} must be a list of channels and patterns, not {patterns!r}") from None
