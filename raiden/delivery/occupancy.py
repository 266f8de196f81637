"""The channels that have subscribers on this worker, as a list of changes that another worker follows. Pure."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import Any

# Channels without subscribers that are remembered: a follower that missed more of them begins anew.
MAX_LEFT = 10_000


class Occupancy:
    """The channels among ``names`` and those noted later. Each change has a number, which is the `version` then."""

    def __init__(self, names: Iterable[str]) -> None:
        self._life = os.urandom(8).hex()
        self._version = 0
        # Versions by channel, in their order: of channels with subscribers, and of those that have none any more.
        self._here: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._forgotten = 0  # the version of the newest change that is not remembered
        for name in names:
            self.note(name, occupied=True)

    def note(self, name: str, *, occupied: bool) -> None:
        """Note that a channel has got its first subscriber, or lost its last. Patterns are no channels."""
        if name.endswith("*"):
            return
        self._version += 1
        self._here.pop(name, None)
        self._left.pop(name, None)
        (self._here if occupied else self._left)[name] = self._version
        if len(self._left) > MAX_LEFT:
            self._forgotten = self._left.pop(next(iter(self._left)))

    def since(self, life: str, version: int) -> dict[str, Any]:
        """The changes since a version of this life: channels that have subscribers (``on``), and that have none
        (``off``). ``full``: the follower is to forget what it knew."""
        full = life != self._life or version < self._forgotten
        on = list(self._here) if full else _newer(self._here, version)
        off = [] if full else _newer(self._left, version)
        return {"life": self._life, "version": self._version, "full": full, "on": on, "off": off}


def _newer(versions: dict[str, int], version: int) -> list[str]:
    return [name for name, _ in itertools.takewhile(lambda row: row[1] > version, reversed(versions.items()))]
