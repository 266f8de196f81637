"""What a subscription lets through: ``?key=value`` on the top-level fields of JSON objects.

Values of one key are alternatives, different keys must all match, and a message without the key does not match.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raiden.message import Message
from raiden.strict_json import Digits


class Filters:
    """An immutable, hashable set of conditions; equal filters of different subscribers are judged once."""

    __slots__ = ("_hash", "_wanted")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        wanted: dict[str, set[str]] = {}
        for key, value in pairs:
            wanted.setdefault(key, set()).add(value)
        self._wanted = {key: frozenset(values) for key, values in wanted.items()}
        self._hash = hash(frozenset(self._wanted.items()))

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filters) and self._wanted == other._wanted

    def pairs(self) -> list[tuple[str, str]]:
        """The conditions, as they were given."""
        return [(key, value) for key, values in self._wanted.items() for value in values]

    def match(self, message: Message) -> bool:
        fields = message.fields()
        if fields is None:
            return False
        for key, values in self._wanted.items():
            if key not in fields or as_text(fields[key]) not in values:
                return False
        return True


def as_text(value: Any) -> str | None:
    """A JSON scalar the way a query string writes it; None for an array or an object, which match nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, Digits):
        return value.text
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    return None
