"""The subscriptions with filters of one channel, found by a message's fields. Pure.

To try the filters of each subscriber would take a time in proportion to their number. So groups of subscriptions are
kept by one of the fields that their filters name, and by the values that they want there: a message takes one look for
each such field, and a group that wants another value is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeAlias, TypeVar

from raiden.model.encoding import Encoding
from raiden.model.filters import Filters, as_text
from raiden.model.message import Message

Group = TypeVar("Group")
Key: TypeAlias = tuple[Encoding, Filters]


class Selection(Generic[Group]):
    """Groups of subscriptions by their encoding and filters, which may not be empty."""

    __slots__ = ("_by_field", "groups")

    def __init__(self) -> None:
        self.groups: dict[Key, Group] = {}
        # By a field's name and value: the groups that may want a message with these.
        self._by_field: dict[str, dict[str, dict[Key, Group]]] = {}

    def add(self, key: Key, group: Group) -> None:
        """Add a group, whose key must not be there yet."""
        self.groups[key] = group
        field, values = key[1].rarest
        by_value = self._by_field.setdefault(field, {})
        for value in values:
            by_value.setdefault(value, {})[key] = group

    def remove(self, key: Key) -> None:
        """Remove a group, whose key must be there."""
        del self.groups[key]
        field, values = key[1].rarest
        by_value = self._by_field.get(field, {})
        for value in values:
            del by_value[value][key]
            if not by_value[value]:
                del by_value[value]
        if not by_value:
            self._by_field.pop(field, None)  # of groups that want no value there may be several

    def matching(self, run: Sequence[Message]) -> dict[Key, list[Message]]:
        """The messages of a run that each group gets; groups that get none are left out."""
        passed: dict[Key, list[Message]] = {}
        for message in run:
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
