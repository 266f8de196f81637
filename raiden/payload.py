"""What the body of a publish holds, by its content type, and whether it may be published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from raiden import charsets, fields
from raiden.encoding import dumps
from raiden.history import MAX_KEY
from raiden.http import HttpError, Request
from raiden.limits import HttpLimits
from raiden.message import Kind, is_unicode
from raiden.strict_json import InvalidPayload, json_payload

# Bytes that stand around a message at most where it goes out as JSON: `max_message` has room for them.
WRAPPING = 1024

# Fields of a form.
MAX_FIELDS = 10_000

FORM, BATCH = "application/x-www-form-urlencoded", "application/x-ndjson"
_TYPE = re.compile(rf"{fields.TOKEN}/{fields.TOKEN}")
# How JSON objects, arrays and strings begin. In a form these characters are percent-encoded.
_BEGINNING = re.compile(rb'[ \t\r\n]*+[{\["]')
_USE_JSON = "send JSON with 'Content-Type: application/json' (curl --json)"


class TooLarge(InvalidPayload):
    """The batch, or the message, is larger than a limit; the text says which."""


def check_coding(request: Request) -> None:
    """Raise HttpError 415 for a body with a content coding (RFC 9110 sections 8.4 and 15.5.16)."""
    coding = request.environ.get("HTTP_CONTENT_ENCODING")
    if coding is not None and any(name.strip().lower() not in ("", "identity") for name in coding.split(",")):
        raise HttpError(
            415, "send the body as it is, without Content-Encoding", headers={"Accept-Encoding": "identity"}
        )


def payloads(request: Request, limits: HttpLimits) -> list[tuple[int, bytes]]:
    """The messages of a publish, by its content type; raises InvalidPayload, and then nothing is published."""
    body, content_type = request.raw_body, request.fields.get("content-type", "")
    if sum([name.lower() == "content-type" for name, _ in request.raw_headers]) > 1:
        raise InvalidPayload("more than one Content-Type: send one")
    if is_batch(content_type):
        return [(Kind.JSON, line) for line in _batch(body, limits)]
    return [of_type(content_type, body, limits.max_message)]


def is_batch(content_type: str) -> bool:
    """A body of this type has a message a line."""
    return _parts(content_type)[0] == BATCH


def is_json(content_type: str) -> bool:
    """A body of this type is one JSON value."""
    kind = _parts(content_type)[0]
    return kind == "application/json" or kind.endswith("+json")


def of_type(content_type: str, body: bytes, max_message: int) -> tuple[int, bytes]:
    """The one message of a body of this type; raises InvalidPayload."""
    kind, data = _of_type(content_type, body)
    check_size(kind, data, max_message)
    return kind, data


def _of_type(content_type: str, body: bytes) -> tuple[int, bytes]:
    if is_json(content_type):
        return Kind.JSON, json_payload(body)
    content_type, parameters = _parts(content_type)
    if content_type == FORM:
        if _BEGINNING.match(body):
            raise InvalidPayload(f"this is no form: {_USE_JSON}")
        return Kind.JSON, dumps(_form(body))
    if content_type == BATCH:
        raise InvalidPayload("publish the messages of a batch one by one here")
    if content_type.startswith("text/"):
        return Kind.TEXT, _text(body, parameters.get("charset", "utf-8"))
    if not content_type and _BEGINNING.match(body) and _is_json(body):
        raise InvalidPayload(f"the body has no Content-Type: {_USE_JSON}, and bytes as application/octet-stream")
    return Kind.BYTES, body


def check_size(kind: int, data: bytes, max_message: int) -> None:
    """Raise TooLarge unless a message, as JSON and with what stands around it, has at most ``max_message`` bytes."""
    size, most = len(data), max_message - WRAPPING
    if kind == Kind.BYTES:
        size = (size + 2) // 3 * 4
    elif kind == Kind.TEXT and size * 6 + 2 > most:  # in JSON, a control character has six bytes
        size = len(dumps(data.decode()))
    if size > most:
        raise TooLarge(
            f"the message has {size} bytes where it goes out as JSON, and may have {most}: send less, or raise"
            " max_message, and what its subscribers' libraries take"
        )


def _parts(content_type: str) -> tuple[str, Mapping[str, str]]:
    """The type, in small letters, and its parameters; raises InvalidPayload."""
    try:
        found = fields.parse(content_type)
    except ValueError as error:
        raise InvalidPayload(f"the content type is malformed: {error}") from None
    if not _TYPE.fullmatch(found[0]) and content_type:
        raise InvalidPayload("the content type is malformed: it must be like 'text/plain; charset=utf-8'")
    return found


def _batch(body: bytes, limits: HttpLimits) -> list[bytes]:
    lines = [line for line in body.split(b"\n") if line.strip()]
    if not lines:
        raise InvalidPayload("the batch is empty: send one JSON value a line")
    if len(lines) > limits.max_batch:
        raise TooLarge(f"the batch has {len(lines)} messages: send at most {limits.max_batch} at once (max_batch)")
    return [_batch_line(number, line, limits.max_message) for number, line in enumerate(lines, 1)]


def _batch_line(number: int, line: bytes, max_message: int) -> bytes:
    try:
        data = json_payload(line)
        check_size(Kind.JSON, data, max_message)
        return data
    except InvalidPayload as error:
        raise type(error)(f"line {number}: {error}; nothing of the batch was published") from None


def _is_json(body: bytes) -> bool:
    try:
        json_payload(body)
        return True
    except InvalidPayload:
        return False


def _form(body: bytes) -> dict[str, str | list[str]]:
    if body.count(b"&") >= MAX_FIELDS:
        raise TooLarge(f"the form has more than {MAX_FIELDS} fields: send JSON")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise InvalidPayload("the form is not UTF-8") from None
    fields: dict[str, list[str]] = {}
    for key, value in pairs:
        fields.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in fields.items()}


def _text(body: bytes, charset: str) -> bytes:
    try:
        return charsets.to_utf8(body, charset)
    except LookupError:
        raise InvalidPayload(f"the charset is not known here: send the text in one of {charsets.NAMES}") from None
    except UnicodeError:
        raise InvalidPayload(f"the text is not {charset}: send UTF-8, or name its charset") from None


def check_key(key: Any, keeps: bool) -> None:
    """Raise InvalidPayload unless this may be the key of a publish, to channels that keep history or not."""
    if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "replace")) <= MAX_KEY or not is_unicode(key):
        raise InvalidPayload(f"a key has 1 to {MAX_KEY} bytes of UTF-8: make one for each message, a UUID for example")
    if not keeps:
        raise InvalidPayload("a key needs a channel with history, which remembers it; this one keeps none")
