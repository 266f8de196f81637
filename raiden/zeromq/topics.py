"""The topics of a ZeroMQ SUB client, and the subscriptions that they come to. Pure.

Here a topic is what the client's socket subscribes to: a prefix of channels. A client gets a message once, however many
of its topics match it, and only if it may. So its topics come to the fewest names and patterns that stand for the same
channels, none of which is within another.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple


class Change(NamedTuple):
    """Names and patterns to subscribe to, and then those to give up."""

    added: list[str]
    dropped: list[str]


class Topics:
    """The topics of one client. ``within`` gives the names and patterns that stand for the channels below a prefix that
    the client may subscribe to."""

    __slots__ = ("_names", "_topics", "_within")

    def __init__(self, within: Callable[[str], list[str]]) -> None:
        self._within = within
        # In order, so that topics with the same beginning stand together.
        self._topics: list[str] = []
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, topic: str) -> Change:
        """Add a topic; one that is there already changes nothing."""
        if _has(self._topics, topic):
            return Change([], [])
        insort(self._topics, topic)
        added = [name for name in _fewest(self._within(topic)) if not self._is_within(name)]
        dropped = [each for name in added if name.endswith("*") for each in _beginning(self._names, name[:-1])]
        self._replace(dropped, added)
        return Change(added, dropped)

    def remove(self, topic: str) -> Change:
        """Remove a topic; one that is not there is ignored."""
        if not _has(self._topics, topic):
            return Change([], [])
        del self._topics[bisect_left(self._topics, topic)]
        if any(_has(self._topics, other) for other in _prefixes(topic)):
            return Change([], [])  # a shorter topic stands for the same channels and more
        dropped = _beginning(self._names, topic)
        within = [name for other in _beginning(self._topics, topic) for name in self._within(other)]
        kept = set(_fewest(within))
        added = [name for name in kept if name not in dropped]
        dropped = [name for name in dropped if name not in kept]
        self._replace(dropped, added)
        return Change(added, dropped)

    def _replace(self, dropped: list[str], added: list[str]) -> None:
        for name in dropped:
            del self._names[bisect_left(self._names, name)]
        for name in added:
            insort(self._names, name)

    def _is_within(self, name: str) -> bool:
        prefixes = _prefixes(name.removesuffix("*"))
        return _has(self._names, name) or any(_has(self._names, prefix + "*") for prefix in prefixes)


def _has(ordered: list[str], text: str) -> bool:
    at = bisect_left(ordered, text)
    return at < len(ordered) and ordered[at] == text


def _beginning(ordered: list[str], prefix: str) -> list[str]:
    """The texts that begin with the prefix."""
    start = end = bisect_left(ordered, prefix)
    while end < len(ordered) and ordered[end].startswith(prefix):
        end += 1
    return ordered[start:end]


def _prefixes(text: str) -> list[str]:
    """All beginnings of a text, itself included."""
    return [text[:size] for size in range(len(text) + 1)]


def _fewest(names: list[str]) -> list[str]:
    """The names and patterns that are not within others."""
    patterns = {name for name in names if name.endswith("*")}
    found = dict.fromkeys(names)
    return [
        name
        for name in found
        if not any(prefix + "*" in patterns and prefix + "*" != name for prefix in _prefixes(name.removesuffix("*")))
    ]
