"""Commands of a client, read. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from raiden.model import strict_json
from raiden.model.strict_json import InvalidPayload


class Command(NamedTuple):
    """A command by its name. The identifier is "" where there is none; other members are JSON as it was written, b""
    where they are missing."""

    name: str
    identifier: str
    data: bytes
    history: bytes
    presence: bytes


class Who(NamedTuple):
    """A client that says who it is: its id, and any JSON value."""

    id: str
    info: Any


def read(text: str) -> Command | None:
    """Read a message of the client; None where it is no command."""
    try:
        members = strict_json.members(text.encode())
        if members is None:
            return None
        name = strict_json.value(members.get("command", b"null"), most=strict_json.MAX_SLOW)
        identifier = strict_json.value(members.get("identifier", b'""'), most=strict_json.MAX_SLOW)
    except (InvalidPayload, UnicodeEncodeError):
        return None
    if not (isinstance(name, str) and isinstance(identifier, str)):
        return None
    return Command(
        name, identifier, members.get("data", b""), members.get("history", b""), members.get("presence", b"")
    )


def who(presence: bytes, *, most: int) -> Who | None:
    """Read who a client says that it is, ``{"id": ..., "info": ...}`` in at most so many bytes; None: it does not."""
    try:
        told = strict_json.value(presence, most=most) if 0 < len(presence) <= most else None
    except InvalidPayload:
        return None
    if not isinstance(told, dict):
        return None
    id = told.get("id")
    if type(id) is int:
        id = str(id)
    if not isinstance(id, str) or not 0 < len(id.encode("utf-8", "surrogatepass")) <= MAX_ID:
        return None
    info = told.get("info")
    return None if strict_json.has_digits(info) else Who(id, info)


# Bytes of an id.
MAX_ID = 255
