"""Values by prefix, and the search for all prefixes that a name begins with. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Prefixes(Generic[Value]):
    """A value for each prefix: ``values`` has them all, ``sizes`` the lengths of prefixes, in order. A search takes a
    look for each length, however many prefixes there are."""

    __slots__ = ("_of_size", "sizes", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, Value] = {}
        self._of_size: Counter[int] = Counter()
        self.sizes: list[int] = []

    def add(self, prefix: bytes, value: Value) -> None:
        """Add a prefix, which must not be there yet."""
        self.values[prefix] = value
        size = len(prefix)
        self._of_size[size] += 1
        if self._of_size[size] == 1:
            self.sizes = sorted(self._of_size)

    def remove(self, prefix: bytes) -> Value:
        """Remove a prefix, which must be there, and return its value."""
        value = self.values.pop(prefix)
        size = len(prefix)
        self._of_size[size] -= 1
        if not self._of_size[size]:
            del self._of_size[size]
            self.sizes = sorted(self._of_size)
        return value

    def matching(self, name: bytes) -> list[Value]:
        """The values of all prefixes that the name begins with, the shortest first."""
        found = []
        for size in self.sizes:
            if size > len(name):
                break
            value = self.values.get(name[:size])
            if value is not None:
                found.append(value)
        return found
