"""Filters of a subscription: conditions on the fields of JSON objects, and on the attributes of messages; and its
thinning, where it does not want all that match. Pure.

A condition is a subject, an operator and a value. The operator is the end of the key: ``team`` (equal), ``team!=``,
``price<``, ``price<=``, ``price>=``, ``price>``; without a value, ``team`` is there. Values of one key are
alternatives, different keys must all match, and a message without the subject matches none of its conditions.
"""

from __future__ import annotations

import math
import operator as operators
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from raiden.model.message import Message
from raiden.model.refusals import Invalid
from raiden.model.strict_json import Digits
from raiden.model.subjects import MISSING, Subject
from raiden.model.thinning import Thinning

# Values of one subscription's filters, and bytes of these and of the subjects' names.
MAX_VALUES, MAX_BYTES = 100, 4096

EQUAL: Final = ""
UNEQUAL: Final = "!="
# Where several comparisons of one kind hold, this one of their numbers decides.
_STRICTEST: Final = {"<": min, "<=": min, ">=": max, ">": max}
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": operators.lt, "<=": operators.le, ">=": operators.ge, ">": operators.gt,
}  # fmt: skip
_KEY = re.compile(r"(.*?)(!=|<=|>=|<|>)?", re.DOTALL)
# A number of JSON (RFC 8259 section 6).
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:(\.[0-9]+)?([eE][+-]?[0-9]+)?)")

# A subject's name and an operator.
_Place = tuple[str, str]


class InvalidFilters(Invalid):
    """More conditions than a subscription may have; the text says what to do."""


class Filters:
    """An immutable, hashable set of conditions; equal filters of different subscribers are judged once. ``pairs`` are
    keys and values; None: the subject is there. Raises InvalidFilters for more than `MAX_VALUES` or `MAX_BYTES`, and
    Invalid for a comparison with what is no number, or a subject that can't be."""

    __slots__ = ("_conditions", "_equal", "_hash", "_others", "bound", "is_simple", "rarest", "thinning")

    rarest: tuple[Subject, frozenset[str]] | None
    """The equality with the fewest values, if there is any: a subject, and the values that it may have."""
    bound: tuple[Subject, str, Any] | None
    """A comparison, if there is one, and no equality: a subject, an operator, and the number to compare with."""
    is_simple: bool
    """Whether `rarest` or `bound` is the only condition."""
    thinning: Thinning | None
    """How many of the messages that match are wanted; None: all."""

    def __init__(self, pairs: Iterable[tuple[str, str | None]]) -> None:
        sets: dict[_Place, set[str]] = {}
        numbers: dict[_Place, float] = {}
        subjects: dict[str, Subject] = {}
        size = 0
        for count, (key, value) in enumerate(pairs, 1):
            written, operator = split(key)
            size += 0 if value is None else len(value.encode("utf-8", "surrogatepass"))
            size += 0 if written in subjects else len(written.encode("utf-8", "surrogatepass"))
            if count > MAX_VALUES or size > MAX_BYTES:
                raise InvalidFilters(
                    f"a subscription has at most {MAX_VALUES} values to filter by, of {MAX_BYTES} bytes in all with "
                    "their fields' names: make several subscriptions, or publish to more channels"
                )
            subject = subjects.setdefault(written, Subject(written))
            if operator in _STRICTEST:
                if (subject.text, operator) in numbers or subject.is_attribute:
                    raise Invalid(f"{key[:60]} compares a field of the message with one number, like {key[:60]}10")
                numbers[subject.text, operator] = _number(key, value)
            elif value is None:
                sets.setdefault((subject.text, UNEQUAL), set())
            else:
                sets.setdefault((subject.text, operator), set()).add(value)
        self._set({**{place: frozenset(values) for place, values in sets.items()}, **numbers})

    def _set(self, conditions: dict[_Place, Any], thinning: Thinning | None = None) -> None:
        self._conditions = conditions
        self.thinning = thinning
        self._hash = hash((frozenset(conditions.items()), thinning))
        compiled = [(Subject(text), operator, value) for (text, operator), value in conditions.items()]
        equal = [(subject, values) for subject, operator, values in compiled if operator == EQUAL]
        self.rarest = min(equal, key=lambda each: len(each[1]), default=None)
        # Most conditions are these: values of fields of the message itself. And all others.
        self._equal = [(subject.name, values) for subject, values in equal if subject.is_plain]
        self._others = [each for each in compiled if each[1] != EQUAL or not each[0].is_plain]
        compared = [each for each in compiled if each[1] in _STRICTEST and self.rarest is None]
        self.bound = compared[0] if compared else None
        self.is_simple = len(conditions) == 1 and bool(equal or compared)

    def __bool__(self) -> bool:
        return bool(self._conditions) or self.thinning is not None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Filters):
            return False
        return self._conditions == other._conditions and self.thinning == other.thinning

    @classmethod
    def of(cls, filters: Any) -> Filters:
        """The conditions in an object of alternatives by key, like ``{"team": ["a", "b"], "price>=": 10}``. Without
        alternatives ``"team!=": []`` says that it is there. Raises Invalid."""
        if not isinstance(filters, dict):
            raise Invalid('filters is an object, like {"team": ["a", "b"]}')
        return cls(_pairs(filters))

    def both(self, other: Filters) -> Filters:
        """The conditions of these and of others. Where they leave no value for a subject, no message matches."""
        conditions = dict(self._conditions)
        for place, value in other._conditions.items():
            if place not in conditions:
                conditions[place] = value
            elif place[1] in _STRICTEST:
                conditions[place] = _STRICTEST[place[1]](conditions[place], value)
            else:
                conditions[place] = conditions[place] & value if place[1] == EQUAL else conditions[place] | value
        found = Filters(())
        found._set(conditions, self.thinning or other.thinning)
        return found

    def thinned(self, thinning: Thinning | None) -> Filters:
        """These conditions, with this thinning."""
        if thinning is None:
            return self
        found = Filters(())
        found._set(self._conditions, thinning)
        return found

    def pairs(self) -> list[tuple[str, str | None]]:
        """The conditions, as they were given."""
        found: list[tuple[str, str | None]] = []
        for (text, operator), value in self._conditions.items():
            if operator in _STRICTEST:
                found.append((text + operator, as_text(value)))
            elif operator == UNEQUAL and not value:
                found.append((text, None))
            else:
                found += [(text + operator, each) for each in value]
        return found

    def values(self) -> dict[str, list[str]]:
        """The alternatives by key, in order, as `of` reads them."""
        return {
            text + operator: sorted(value) if isinstance(value, frozenset) else [str(as_text(value))]
            for (text, operator), value in sorted(self._conditions.items(), key=lambda each: each[0])
        }

    def match(self, message: Message) -> bool:
        if self._equal:
            fields = message.fields()
            if fields is None:
                return False
            for name, values in self._equal:
                if name not in fields or as_text(fields[name]) not in values:
                    return False
        for subject, operator, wanted in self._others:
            value = subject.of(message)
            if value is MISSING or not _holds(value, operator, wanted):
                return False
        return True


def split(key: str) -> tuple[str, str]:
    """The subject and the operator of a key."""
    found = _KEY.fullmatch(key)
    assert found is not None
    return found[1], found[2] or EQUAL


def _holds(value: Any, operator: str, wanted: Any) -> bool:
    if operator == EQUAL:
        return as_text(value) in wanted
    if operator == UNEQUAL:
        return as_text(value) not in wanted
    number = as_number(value)
    return number is not None and bool(_COMPARE[operator](number, wanted))


def as_number(value: Any) -> Any:
    """A JSON number, to compare it; None for any other value."""
    if isinstance(value, Digits):
        return float(value.text)  # far beyond the numbers that filters have
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _number(key: str, text: str | None) -> float:
    """The number that a field is compared with."""
    found = _NUMBER.fullmatch(text or "")
    if found is not None and len(found[0]) <= 300:
        number = float(found[0]) if found[1] or found[2] else int(found[0])
        if math.isfinite(number):
            return number
    raise Invalid(f"{key[:60]} compares with a number, like {key[:60]}10: {(text or '')[:60]!r} is none")


def _pairs(filters: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for key, values in filters.items():
        if values == []:
            subject, operator = split(key)
            if operator != UNEQUAL:
                raise Invalid(f"filters has no value for {key[:60]!r}: to filter by it takes one at least")
            yield subject, None
        for value in values if isinstance(values, list) else [values]:
            text = as_text(value)
            if text is None:
                raise Invalid("filter values are strings, numbers, booleans or null")
            yield key, text


NO_FILTERS = Filters(())


def as_text(value: Any) -> str | None:
    """A JSON scalar as a query string writes it; None for an array or an object, which equal nothing."""
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
