"""What the topics of a ZeroMQ SUB client come to. Pure.

A topic is a prefix of channels. A client has a message once, however many of its topics match it, and only if it may.
So its topics come to the fewest names and patterns that stand for the same channels, none of which is within another.
"""

from __future__ import annotations

from typing import NamedTuple

from raiden.auth import Patterns


class Change(NamedTuple):
    """Names and patterns to subscribe to, and then those to give up."""

    added: list[str]
    dropped: list[str]


class Topics:
    """The topics of one client, which may subscribe to what ``allowed`` says."""

    __slots__ = ("_allowed", "_names", "_topics")

    def __init__(self, allowed: Patterns) -> None:
        self._allowed = allowed
        self._topics: set[str] = set()
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, topic: str) -> Change:
        """One that is there already changes nothing."""
        if topic in self._topics:
            return Change([], [])
        self._topics.add(topic)
        added = [name for name in _fewest(self._allowed.within(topic)) if not self._is_within(name)]
        prefixes = tuple(name[:-1] for name in added if name.endswith("*"))
        dropped = [name for name in self._names if name.startswith(prefixes)] if prefixes else []
        self._names.difference_update(dropped)
        self._names.update(added)
        return Change(added, dropped)

    def remove(self, topic: str) -> Change:
        """One that is not there is ignored."""
        if topic not in self._topics:
            return Change([], [])
        self._topics.remove(topic)
        dropped = [name for name in self._names if name.startswith(topic)]
        if any(other in self._topics for other in _prefixes(topic)):
            return Change([], [])  # a shorter one stands for the same and more
        self._names.difference_update(dropped)
        within = [name for other in self._topics if other.startswith(topic) for name in self._allowed.within(other)]
        kept = set(_fewest(within))
        self._names |= kept
        return Change([name for name in kept if name not in dropped], [name for name in dropped if name not in kept])

    def _is_within(self, name: str) -> bool:
        return name in self._names or any(prefix + "*" in self._names for prefix in _prefixes(name.removesuffix("*")))


def _prefixes(text: str) -> list[str]:
    """All beginnings of a text, itself included."""
    return [text[:size] for size in range(len(text) + 1)]


def _fewest(names: list[str]) -> list[str]:
    """Those that are not within others."""
    patterns = {name for name in names if name.endswith("*")}
    found = dict.fromkeys(names)
    return [
        name
        for name in found
        if not any(prefix + "*" in patterns and prefix + "*" != name for prefix in _prefixes(name.removesuffix("*")))
    ]
