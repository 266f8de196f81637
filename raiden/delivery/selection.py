"""The subscriptions with filters of one channel, found by a message's fields. Pure.

To try the filters of each subscriber would take a time in proportion to their number. So groups of subscriptions are
kept by one of the fields that their filters name, and by the values that they want there: a message takes one look for
each such field, and a group that wants another value is not looked at. So are groups that compare a number, by one of
their comparisons. Filters that only want a field to be there, or not to have a value, are tried one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeAlias, TypeVar

from raiden.delivery.bounds import Bounds
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters, as_number, as_text
from raiden.model.message import Message
from raiden.model.subjects import MISSING, Subject

Group = TypeVar("Group")
Key: TypeAlias = tuple[Encoding, Filters]


class Selection(Generic[Group]):
    """Groups of subscriptions by their encoding and filters, which may not be empty."""

    __slots__ = ("_by_bound", "_by_field", "_by_subject", "_others", "groups")

    def __init__(self) -> None:
        self.groups: dict[Key, Group] = {}
        # By a field's name and value: the groups that may want a message with these. The same by other subjects, which
        # are paths into the message, or attributes; then the groups that want no certain value, by a comparison, and
        # those without one.
        self._by_field: dict[str, dict[str, dict[Key, Group]]] = {}
        self._by_subject: dict[Subject, dict[str, dict[Key, Group]]] = {}
        self._by_bound: dict[tuple[Subject, str], Bounds[Key]] = {}
        self._others: dict[Key, Group] = {}

    def add(self, key: Key, group: Group) -> None:
        """Add a group, whose key must not be there yet."""
        self.groups[key] = group
        rarest, bound = key[1].rarest, key[1].bound
        if bound is not None:
            self._by_bound.setdefault(bound[:2], Bounds(bound[1])).add(bound[2], key)
            return
        if rarest is None:
            self._others[key] = group
            return
        subject, values = rarest
        by_value = (
            self._by_field.setdefault(subject.name, {}) if subject.is_plain
            else self._by_subject.setdefault(subject, {})
        )  # fmt: skip
        for value in values:
            by_value.setdefault(value, {})[key] = group

    def remove(self, key: Key) -> None:
        """Remove a group, whose key must be there."""
        del self.groups[key]
        rarest, bound = key[1].rarest, key[1].bound
        if bound is not None:
            self._by_bound[bound[:2]].remove(bound[2], key)
            if not self._by_bound[bound[:2]]:
                del self._by_bound[bound[:2]]
            return
        if rarest is None:
            del self._others[key]
            return
        subject, values = rarest
        # There may be several groups that want no value, because their filters contradict each other.
        by_value = (self._by_field.get(subject.name) if subject.is_plain else self._by_subject.get(subject)) or {}
        for value in values:
            del by_value[value][key]
            if not by_value[value]:
                del by_value[value]
        if not by_value and subject.is_plain:
            self._by_field.pop(subject.name, None)
        elif not by_value:
            self._by_subject.pop(subject, None)

    def matching(self, run: Sequence[Message]) -> dict[Key, list[Message]]:
        """The messages of a run that each group gets; groups that get none are left out."""
        passed: dict[Key, list[Message]] = {}
        for message in run:
            if self._by_subject or self._by_bound or self._others:
                self._look_further(message, passed)
            if not self._by_field:
                continue
            fields = message.fields()
            if fields is None:
                continue
            # Whichever are fewer: fields that the message has, or that filters name.
            for field in fields if len(fields) < len(self._by_field) else self._by_field:
                by_value = self._by_field.get(field)
                if by_value is None or field not in fields:
                    continue
                text = as_text(fields[field])
                for key in by_value.get(text, ()) if text is not None else ():
                    if key[1].is_simple or key[1].match(message):
                        passed.setdefault(key, []).append(message)
        return passed

    def _look_further(self, message: Message, passed: dict[Key, list[Message]]) -> None:
        """Add a message to those of the groups that are not found by a field of the message itself."""
        for subject, by_value in self._by_subject.items():
            value = subject.of(message)
            text = None if value is MISSING else as_text(value)
            for key in by_value.get(text, ()) if text is not None else ():
                if key[1].is_simple or key[1].match(message):
                    passed.setdefault(key, []).append(message)
        for (subject, _), bounds in self._by_bound.items():
            number = as_number(subject.of(message))
            for key in bounds.met(number) if number is not None else ():
                if key[1].is_simple or key[1].match(message):
                    passed.setdefault(key, []).append(message)
        for key in self._others:
            if key[1].match(message):
                passed.setdefault(key, []).append(message)
