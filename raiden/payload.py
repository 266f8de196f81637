"""What the body of a publish holds, by its content type."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import parse_qsl

from raiden.encoding import dumps
from raiden.history import MAX_KEY
from raiden.http import Request
from raiden.message import InvalidPayload, Kind, is_unicode, json_payload


@functools.lru_cache(100)
def _parts(content_type: str) -> tuple[str, str]:
    """The type, in small letters, and its parameters."""
    kind, _, parameters = content_type.partition(";")
    return kind.strip().lower(), parameters


def is_batch(content_type: str) -> bool:
    """A body of this type has a message a line."""
    return _parts(content_type)[0] == "application/x-ndjson"


def payloads(request: Request) -> list[tuple[int, bytes]]:
    """The messages of a publish, by its content type; raises InvalidPayload, and then nothing is published."""
    body, content_type = request.raw_body, request.fields.get("content-type", "")
    if is_batch(content_type):
        lines = [line for line in body.split(b"\n") if line.strip()]
        if not lines:
            raise InvalidPayload("the batch is empty: send one JSON value a line")
        return [(Kind.JSON, _batch_line(number, line)) for number, line in enumerate(lines, 1)]
    return [of_type(content_type, body)]


def is_json(content_type: str) -> bool:
    """A body of this type is one JSON value."""
    kind = _parts(content_type)[0]
    return kind == "application/json" or kind.endswith("+json")


def of_type(content_type: str, body: bytes) -> tuple[int, bytes]:
    """The one message of a body of this type; raises InvalidPayload."""
    if is_json(content_type):
        return Kind.JSON, json_payload(body)
    content_type, parameters = _parts(content_type)
    if content_type == "application/x-www-form-urlencoded":
        return Kind.JSON, dumps(_form(body))
    if content_type == "application/x-ndjson":
        raise InvalidPayload("publish the messages of a batch one by one here")
    if content_type.startswith("text/"):
        return Kind.TEXT, _text(body, parameters)
    return Kind.BYTES, body


def _batch_line(number: int, line: bytes) -> bytes:
    try:
        return json_payload(line)
    except InvalidPayload as error:
        raise InvalidPayload(f"line {number}: {error}; nothing of the batch was published") from None


def _form(body: bytes) -> dict[str, str | list[str]]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise InvalidPayload("the form is not UTF-8") from None
    fields: dict[str, list[str]] = {}
    for key, value in pairs:
        fields.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in fields.items()}


def _text(body: bytes, parameters: str) -> bytes:
    name, _, charset = parameters.strip().partition("=")
    charset = charset.strip('" ') if name.lower() == "charset" else "utf-8"
    try:
        return body.decode(charset).encode()
    except (LookupError, UnicodeError):
        raise InvalidPayload(f"the text is not {charset[:40]}: send UTF-8, or name its charset") from None


def check_key(key: Any, keeps: bool) -> None:
    """Raise InvalidPayload unless this may be the key of a publish, to channels that keep history or not."""
    if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "replace")) <= MAX_KEY or not is_unicode(key):
        raise InvalidPayload(f"a key has 1 to {MAX_KEY} bytes of UTF-8: make one for each message, a UUID for example")
    if not keeps:
        raise InvalidPayload("a key needs a channel with history, which remembers it; this one keeps none")
