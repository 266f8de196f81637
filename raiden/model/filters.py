"""Filters of a subscription: ``?key=value`` on the top-level fields of JSON objects.

Values of one key are alternatives, different keys must all match, and a message without the key does not match.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raiden.model.message import Message
from raiden.model.refusals import Invalid
from raiden.model.strict_json import Digits

# Values of one subscription's filters, and bytes of these and of the fields' names.
MAX_VALUES, MAX_BYTES = 100, 4096


class InvalidFilters(Invalid):
    """More conditions than a subscription may have; the text says what to do."""


class Filters:
    """An immutable, hashable set of conditions; equal filters of different subscribers are judged once. Raises
    InvalidFilters for more than `MAX_VALUES` or `MAX_BYTES`."""

    __slots__ = ("_hash", "_wanted", "is_simple", "rarest")

    rarest: tuple[str, frozenset[str]]
    """The condition with the fewest values, if there are any: a field, and its allowed values."""
    is_simple: bool
    """Whether `rarest` is the only condition."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        wanted: dict[str, set[str]] = {}
        size = 0
        for count, (key, value) in enumerate(pairs, 1):
            size += len(value.encode("utf-8", "surrogatepass"))
            size += 0 if key in wanted else len(key.encode("utf-8", "surrogatepass"))
            if count > MAX_VALUES or size > MAX_BYTES:
                raise InvalidFilters(
                    f"a subscription has at most {MAX_VALUES} values to filter by, of {MAX_BYTES} bytes in all with "
                    "their fields' names: make several subscriptions, or publish to more channels"
                )
            wanted.setdefault(key, set()).add(value)
        self._set({key: frozenset(values) for key, values in wanted.items()})

    def _set(self, wanted: dict[str, frozenset[str]]) -> None:
        self._wanted = wanted
        self._hash = hash(frozenset(self._wanted.items()))
        self.rarest = min(self._wanted.items(), key=lambda each: len(each[1]), default=("", frozenset()))
        self.is_simple = len(self._wanted) == 1

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filters) and self._wanted == other._wanted

    @classmethod
    def of(cls, filters: Any) -> Filters:
        """The conditions in an object of alternatives by key; raises Invalid."""
        if not isinstance(filters, dict):
            raise Invalid('filters is an object, like {"team": ["a", "b"]}')
        return cls(_pairs(filters))

    def both(self, other: Filters) -> Filters:
        """The conditions of these and of others. Where they leave no value for a key, no message matches."""
        wanted = dict(self._wanted)
        for key, values in other._wanted.items():
            wanted[key] = wanted[key] & values if key in wanted else values
        found = Filters(())
        found._set(wanted)
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """The conditions, as they were given."""
        return [(key, value) for key, values in self._wanted.items() for value in values]

    def values(self) -> dict[str, list[str]]:
        """The alternatives by key, in order."""
        return {key: sorted(values) for key, values in sorted(self._wanted.items())}

    def match(self, message: Message) -> bool:
        fields = message.fields()
        if fields is None:
            return False
        for key, values in self._wanted.items():
            if key not in fields or as_text(fields[key]) not in values:
                return False
        return True


def _pairs(filters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, values in filters.items():
        if values == []:
            raise Invalid(f"filters has no value for {key[:60]!r}: to filter by it takes one at least")
        for value in values if isinstance(values, list) else [values]:
            text = as_text(value)
            if text is None:
                raise Invalid("filter values are strings, numbers, booleans or null")
            yield key, text


NO_FILTERS = Filters(())


def as_text(value: Any) -> str | None:
    """A JSON scalar as a query string writes it; None for an array or an object, which match nothing."""
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
