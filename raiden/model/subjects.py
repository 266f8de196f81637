"""Subjects: the parts of a message that filters look at, and that rates tell messages apart by. Pure.

| subject | part of the message |
|---|---|
| ``team`` | a field of a JSON object |
| ``order.status`` | the field of that whole name, if there is one, else a field of a field |
| ``_event``, ``_tag.color`` | an attribute: the message's name, and the value of one of its tags |
| ``_filter._event`` | a field, whatever its name is |
"""

from __future__ import annotations

from typing import Any, Final

from raiden.model.message import Message
from raiden.model.refusals import Invalid

# Fields within each other that a path may name.
MAX_PARTS = 16
# The value of a subject that a message does not have.
MISSING: Final = object()
# The prefix of the name of any field.
FIELD: Final = "_filter."
_EVENT: Final = "_event"
_TAG: Final = "_tag."


class Subject:
    """A part of a message, by its ``text``; equal texts are equal subjects. Raises Invalid for a path with an empty
    part, or of more than `MAX_PARTS`."""

    __slots__ = ("_tag", "is_attribute", "is_plain", "name", "parts", "text")

    is_plain: bool
    """Whether it is a field of the message itself, and no other than that of its name."""

    def __init__(self, text: str) -> None:
        self.is_attribute = is_attribute(text)
        self.name = text.removeprefix(FIELD)
        self.text = text if is_attribute(self.name) or self.name.startswith(FIELD) else self.name
        self.parts = tuple(self.name.split("."))
        self.is_plain = not self.is_attribute and len(self.parts) == 1
        self._tag = text.removeprefix(_TAG) if self.is_attribute and text != _EVENT else ""
        if not self.is_attribute and (not all(self.parts) or len(self.parts) > MAX_PARTS):
            raise Invalid(
                f"{text[:60]!r} names no field: write one like team, or order.status for a field of a field, with at "
                f"most {MAX_PARTS} parts"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subject) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def of(self, message: Message) -> Any:
        """Its value in a message, or `MISSING`."""
        if self.is_attribute:
            return self._attribute(message)
        fields = message.fields()
        if fields is None:
            return MISSING
        if self.name in fields:
            return fields[self.name]
        if self.is_plain:
            return MISSING
        value: Any = fields
        for part in self.parts:
            if not isinstance(value, dict) or part not in value:
                return MISSING
            value = value[part]
        return value

    def _attribute(self, message: Message) -> Any:
        attributes = message.attributes
        if attributes is None:
            return MISSING
        if self._tag:
            return attributes.tags.get(self._tag, MISSING)
        return attributes.event or MISSING


def is_attribute(text: str) -> bool:
    """Whether a subject is an attribute of the message, rather than a field."""
    return text == _EVENT or (text.startswith(_TAG) and len(text) > len(_TAG))
