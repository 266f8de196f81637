"""What a command of ``/-/websocket`` says: its parts, or the `Refusal` that answers it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from raiden.http.parameters import MAX_LAST, MAX_WINDOW, parse_since
from raiden.model import strict_json
from raiden.model.filters import Filters, as_text
from raiden.model.message import Cursor
from raiden.model.names import check_durable
from raiden.model.near import did_you_mean
from raiden.model.page import Start
from raiden.model.refusals import Invalid
from raiden.model.strict_json import Digits, is_unicode

# Bytes of a command's id, as it is written.
MAX_ID = 255

Number = TypeVar("Number", int, float)


_ANY = frozenset({"id", "cmd"})
# What each command may say.
MEMBERS = {
    "subscribe": _ANY | {"channel", "filters", "since", "last", "durable", "ack", "window", "ack_wait"},
    "unsubscribe": _ANY | {"channel", "durable", "forget"},
    "publish": _ANY | {"channel", "data", "key"},
    "history": _ANY | {"channel", "since", "before", "limit"},
    "ack": _ANY | {"channel", "durable", "cursor", "cursors"},
    "nack": _ANY | {"channel", "durable", "cursor", "cursors", "delay"},
    "session": _ANY,
    "resume": _ANY | {"session", "since"},
    "ping": _ANY,
}


def parse(data: str | bytes) -> dict[str, Any]:
    """The command in a frame. ``data`` in it is bytes, as they were written, and ``id`` a string, `Digits` or None."""
    if isinstance(data, bytes):
        raise Invalid("commands are JSON text frames; this frame was binary")
    members = strict_json.members(data.encode())
    if members is None:
        raise Invalid('a command is an object, like {"id": 1, "cmd": "ping"}')
    command = {
        name: raw if name == "data" else strict_json.value(raw, most=strict_json.MAX_SLOW)
        for name, raw in members.items()
    }
    if not isinstance(command.get("cmd"), str):
        raise Invalid("cmd must be a string")
    command["id"] = _id(command.get("id"), members.get("id", b""))
    return command


def _id(value: Any, raw: bytes) -> str | Digits | None:
    """What comes back with the reply."""
    if value is None:
        return None
    if len(raw) > MAX_ID or isinstance(value, bool) or not isinstance(value, str | int | float | Digits):
        raise Invalid(f"id is a string or a number of at most {MAX_ID} bytes")
    if not isinstance(value, str):
        return Digits(raw.decode())
    if not is_unicode(value):
        raise Invalid("id must be valid Unicode, without lone surrogates")
    return value


def check_members(command: dict[str, Any]) -> None:
    """Raise Invalid for a member that its command doesn't have."""
    known = MEMBERS[command["cmd"]]
    if not command.keys() <= known:
        name = min(command.keys() - known)
        raise Invalid(f"{command['cmd']} has no {name[:100]!r}{did_you_mean(name, known)}")


def channel_of(command: dict[str, Any]) -> str:
    """The name in it, which is not checked yet."""
    name = command.get("channel")
    if not isinstance(name, str):
        raise Invalid("channel must be a string")
    return name


def durable_of(command: dict[str, Any]) -> str:
    """The name of a durable subscription."""
    return check_durable(command.get("durable"))


def parse_cursor(text: Any) -> Cursor:
    if not isinstance(text, str):
        raise Invalid("a cursor is a string: pass one as it was received, like 'k3x9:41'")
    return Cursor.parse(text)


def cursor_of(command: dict[str, Any], name: str) -> Cursor | None:
    """The cursor that is called so; None where there is none."""
    return None if command.get(name) is None else parse_cursor(command[name])


def flag_of(command: dict[str, Any], name: str) -> bool:
    value = command.get(name, False)
    if not isinstance(value, bool):
        raise Invalid(f"{name} is true or false")
    return value


def cursors_of(command: dict[str, Any]) -> list[Cursor]:
    """The messages that an ``ack`` or ``nack`` names."""
    if "cursor" in command and "cursors" in command:
        raise Invalid(f"{command['cmd']} needs cursor or cursors, not both")
    texts = command.get("cursors", [command.get("cursor")])
    if not isinstance(texts, list) or not 0 < len(texts) <= MAX_WINDOW:
        raise Invalid(f"{command['cmd']} needs the cursor of a message, or a list of cursors")
    return [parse_cursor(text) for text in texts]


def number_of(command: dict[str, Any], name: str, default: Number, least: Number, most: Number) -> Number:
    """A number from ``least`` to ``most``; a whole one, if ``least`` is an int."""
    value = command.get(name, default)
    kind = int if isinstance(least, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        raise Invalid(f"{name} is a number from {least:g} to {most:g}")
    return cast(Number, value)


def starts_of(command: dict[str, Any], name: str) -> dict[str, Start]:
    """Where a subscription begins, if the command says so."""
    if command.get("last") is not None:
        return {name: Start(last=number_of(command, "last", 0, 1, MAX_LAST))}
    since = command.get("since")
    if since is None:
        return {}
    if since == "earliest":
        return {name: Start()}
    return {name: Start(parse_since(since) if isinstance(since, str) else parse_cursor(since))}


def filters_of(filters: Any) -> Filters:
    """The conditions in an object of alternatives by key; raises Invalid."""
    if not isinstance(filters, dict):
        raise Invalid('filters is an object, like {"team": ["a", "b"]}')
    return Filters(_pairs(filters))


def _pairs(filters: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, values in filters.items():
        for value in values if isinstance(values, list) else [values]:
            text = as_text(value)
            if text is None:
                raise Invalid("filter values are strings, numbers, booleans or null")
            yield key, text
