"""Labels: what publishers say of their messages besides the payload, by whichever door. Pure.

A label gives messages their attributes, and says how they are delivered. By HTTP it is written in fields of the head,
elsewhere in members of a JSON object; ZeroMQ has that object in a frame of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from raiden.model import strict_json
from raiden.model.attributes import RESERVED, Attributes
from raiden.model.encoding import shown
from raiden.model.message import Message
from raiden.model.names import has_controls
from raiden.model.near import did_you_mean
from raiden.model.refusals import Invalid
from raiden.model.strict_json import InvalidPayload, is_unicode

# Bytes of an event's name; tags of a message, bytes of the name of one, and of its value.
MAX_EVENT, MAX_TAGS, MAX_TAG_NAME, MAX_TAG = 200, 16, 64, 256
_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_TAGS = '{"color": "red"}'


class Label(NamedTuple):
    """What is said of messages that are published together. ``attributes`` are those of each (None: it has none).
    ``transient``: they are delivered, and not stored."""

    attributes: Attributes | None = None
    transient: bool = False

    def put_on(self, message: Message) -> None:
        message.attributes, message.transient = self

    @property
    def size(self) -> int:
        """The bytes that it adds to a message that goes out as JSON."""
        return len(shown(self.attributes))


NOTHING: Final = Label()


def of_members(members: Mapping[str, Any]) -> Label:
    """Read the label in the members of an object, which may have others; null says nothing. Raises Invalid."""
    if MEMBERS.isdisjoint(members):
        return NOTHING
    return _read({name: (name, members[name]) for name in _READERS if members.get(name) is not None})


def of_object(text: bytes) -> Label:
    """Read a label that is a JSON object (b"": nothing is said); raises Invalid."""
    return of_only(members(text))


def members(text: bytes) -> dict[str, Any]:
    """The members of a JSON object (b"": none); raises Invalid."""
    found = strict_json.value(text, most=strict_json.MAX_SLOW) if text else {}
    if not isinstance(found, dict):
        raise Invalid(f'attributes are a JSON object, like {{"event": "created", "tags": {_TAGS}}}')
    return found


def of_only(members: Mapping[str, Any]) -> Label:
    """Read the label in the members of an object that has no others; raises Invalid."""
    if not members.keys() <= MEMBERS:
        unknown = min(members.keys() - MEMBERS)
        raise Invalid(f"attributes have an unknown member {unknown[:100]!r}{did_you_mean(unknown, MEMBERS)}")
    return of_members(members)


def of_fields(headers: Iterable[tuple[str, str]]) -> Label:
    """Read the label in the header fields of a request, each with its value as Latin-1 reads it. Raises Invalid, also
    for a field that comes twice."""
    said: dict[str, tuple[str, Any]] = {}
    for header, value in headers:
        name = FIELDS.get(header.lower())
        if name is None:
            continue
        header = "-".join([word.capitalize() for word in header.split("-")])
        if name in said:
            raise Invalid(f"more than one {header}: send one")
        try:
            text = value.encode("latin-1").decode()
        except UnicodeDecodeError:
            raise Invalid(f"{header} is not UTF-8") from None
        said[name] = header, _FROM_TEXT.get(name, str)(text)
    return _read(said)


def _read(said: Mapping[str, tuple[str, Any]]) -> Label:
    """Check what is said, by the names of members: how the door calls each, and its value."""
    values = {name: _READERS[name](*told) for name, told in said.items()}
    transient = values.pop("transient", False)
    known = Attributes(
        event=values.get("event", ""), tags=values.get("tags", {}), excluded=values.get("except", "")
    )  # fmt: skip
    return Label(None if known == _NO_ATTRIBUTES else known, transient)


_NO_ATTRIBUTES: Final = Attributes()


def _event(what: str, value: Any) -> str:
    if not _is_text(value, MAX_EVENT) or has_controls(value):
        raise Invalid(f"{what} is a name of 1 to {MAX_EVENT} bytes, without control characters")
    if value in RESERVED:
        raise Invalid(f"{what} can't be {value!r}: event streams have events of this name already")
    return str(value)


def _tags(what: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_TAGS:
        raise Invalid(f"{what}: a JSON object of at most {MAX_TAGS} strings, like {_TAGS}")
    for name, tag in value.items():
        if not _is_text(name, MAX_TAG_NAME) or has_controls(name):
            raise Invalid(f"{what}: the name of a tag has 1 to {MAX_TAG_NAME} bytes, without control characters")
        if tag != "" and not _is_text(tag, MAX_TAG):
            raise Invalid(f"{what}: {name!r} must be a string of at most {MAX_TAG} bytes")
    return value


def _transient(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"{what} is true or false")
    return value


def _excluded(what: str, value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Invalid(f"{what} is the id of a connection, as Raiden-Connection or the reply to hello has it")
    return value


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and is_unicode(value) and 0 < len(value.encode()) <= most


def _json_field(text: str) -> Any:
    try:
        return strict_json.value(text.encode(), most=strict_json.MAX_SLOW)
    except InvalidPayload:
        return None  # which is no object either


# The readers of members, which are told how the door calls each.
_READERS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "event": _event, "tags": _tags, "transient": _transient, "except": _excluded,
}  # fmt: skip
# The members of a label; and the fields, in lower case, that say the same.
MEMBERS: Final = frozenset(_READERS)
FIELDS: Final = {f"raiden-{name}": name for name in _READERS}
# What the texts of fields stand for, where that is no string.
_FROM_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "tags": _json_field, "transient": lambda text: {"true": True, "false": False}.get(text),
}  # fmt: skip
