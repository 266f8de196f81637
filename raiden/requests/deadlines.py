"""Times at which things are due, many thousands of them, by one look at the clock for all. Pure."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

# Seconds between two looks: a thing is due at most so much too late.
TICK: Final = 0.05

Key = TypeVar("Key")


class Deadlines(Generic[Key]):
    """Keys with the times at which they are due, in seconds of one clock."""

    def __init__(self) -> None:
        self._slots: dict[int, dict[Key, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._slots)

    def add(self, key: Key, at: float) -> None:
        """Let a key be due at a time."""
        self._slots.setdefault(_slot(at), {})[key] = None

    def remove(self, key: Key, at: float) -> None:
        """Forget a key that was added with this time, if it was not due yet."""
        slot = _slot(at)
        found = self._slots.get(slot)
        if found is not None:
            found.pop(key, None)
            if not found:
                del self._slots[slot]

    def due(self, now: float) -> list[Key]:
        """Take the keys that are due by now."""
        last = int(now / TICK)
        found: list[Key] = []
        for slot in sorted([slot for slot in self._slots if slot <= last]):
            found += self._slots.pop(slot)
        return found


def _slot(at: float) -> int:
    return int(at / TICK) + 1
