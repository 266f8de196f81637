"""Values by comparison: those whose bound a number meets, found without looking at the others. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Bounds(Generic[Value]):
    """Values, each with a bound: the number to compare with by ``operator`` ("<", "<=", ">=" or ">")."""

    __slots__ = ("_bounds", "_operator", "_values")

    def __init__(self, operator: str) -> None:
        self._operator = operator
        self._bounds: list[Any] = []
        self._values: dict[Any, dict[Value, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._bounds)

    def add(self, bound: Any, value: Value) -> None:
        if bound not in self._values:
            insort(self._bounds, bound)
            self._values[bound] = {}
        self._values[bound][value] = None

    def remove(self, bound: Any, value: Value) -> None:
        """Remove a value that is there, with its bound."""
        del self._values[bound][value]
        if not self._values[bound]:
            del self._values[bound]
            del self._bounds[bisect_left(self._bounds, bound)]

    def met(self, number: Any) -> Iterator[Value]:
        """The values for which ``number`` <operator> their bound is true."""
        bounds = self._bounds
        # The index from which on the bounds are too high for it, or up to which they are too low.
        at = bisect_right(bounds, number) if self._operator in (">=", "<") else bisect_left(bounds, number)
        for bound in bounds[:at] if self._operator in (">=", ">") else bounds[at:]:
            yield from self._values[bound]
