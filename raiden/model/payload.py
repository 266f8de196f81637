"""Payloads: the reading of a publish's body by its content type, and the checks before it is published."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any, Final, NamedTuple

import msgspec

from raiden.model import charsets, fields, forms
from raiden.model.attributes import Attributes
from raiden.model.encoding import dumps, shown
from raiden.model.message import Cursor, Kind, Message
from raiden.model.refusals import TooLarge
from raiden.model.strict_json import InvalidPayload, is_unicode, json_payload

# Bytes of a publisher's key.
MAX_KEY = 256
# Most bytes around a message that goes out as JSON, as in a reply to the command `history`: names of a channel and a
# durable, cursors, the command's id, a gap. `max_message` has room for them.
WRAPPING: Final = 2048

_FORMS = {
    "application/json": "json", "application/x-ndjson": "batch", "application/x-www-form-urlencoded": "form",
}  # fmt: skip
# A line that is not blank, from its first character that JSON takes for no space.
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_TYPE = re.compile(rf"{fields.TOKEN}/{fields.TOKEN}")
# The beginning of JSON objects, arrays and strings. In a form these characters are percent-encoded.
_BEGINNING = re.compile(rb'[ \t\r\n]*+[{\["]')
_USE_JSON = "send JSON with 'Content-Type: application/json' (curl --json)"


def is_batch(content_type: str) -> bool:
    """Whether a body of this type has a message a line."""
    return _type(content_type).form == "batch"


def is_json(content_type: str) -> bool:
    """Whether a body of this type is one JSON value."""
    return _type(content_type).form == "json"


def form_of(content_type: str) -> tuple[str, str]:
    """The form of bodies of this type (json, text, form, batch, bytes, or none), and their charset; raises
    InvalidPayload."""
    found = _type(content_type)
    return found.form, found.charset


def of_type(content_type: str, body: bytes, max_message: int) -> tuple[int, bytes]:
    """The kind and payload of the one message in a body of this type; raises InvalidPayload and TooLarge."""
    kind, data = _of_type(_type(content_type), body)
    check_size(kind, data, max_message)
    return kind, data


def _of_type(content_type: _Type, body: bytes) -> tuple[int, bytes]:
    form = content_type.form
    if form == "json":
        return Kind.JSON, json_payload(body)
    if form == "text":
        return Kind.TEXT, text(body, content_type.charset)
    if form == "form":
        if _BEGINNING.match(body):
            raise InvalidPayload(f"this is no form: {_USE_JSON}")
        return Kind.JSON, dumps(_fields(body))
    if form == "batch":
        raise InvalidPayload("publish the messages of a batch one by one here")
    if form == "none" and _BEGINNING.match(body) and _is_json(body):
        raise InvalidPayload(f"the body has no Content-Type: {_USE_JSON}, and bytes as application/octet-stream")
    return Kind.BYTES, body


def batch(body: bytes, max_batch: int, max_message: int) -> list[bytes]:
    """The messages of a batch, a line each; raises InvalidPayload and TooLarge, and then none may be published."""
    # One line more than allowed is enough to see that they are too many.
    lines = [found.group() for found in itertools.islice(_LINE.finditer(body), max_batch + 1)]
    if not lines:
        raise InvalidPayload("the batch is empty: send one JSON value a line")
    if len(lines) > max_batch:
        raise TooLarge(f"the batch has more than {max_batch} messages: send fewer at once (max_batch)")
    found = [_batch_line(number, line) for number, line in enumerate(lines, 1)]
    if len(body) > max_message - WRAPPING:
        for data in found:
            check_size(Kind.JSON, data, max_message)
    return found


def check_size(kind: int, data: bytes, max_message: int) -> None:
    """Raise TooLarge unless a message, as JSON and with `WRAPPING` around it, has at most ``max_message`` bytes."""
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


def check_message(message: Message, max_message: int) -> None:
    """`check_size`, for a message with what its attributes add to it."""
    check_size(message.kind, message.payload, max_message - len(shown(message.attributes)))


def check_batch(count: int, most: int) -> None:
    """Raise TooLarge where a channel may not take so many messages together (``most`` 0: it takes any number)."""
    if most and count > most:
        raise TooLarge(
            f"the batch has {count} messages, and the channel keeps {most} (history_size) and drops none (discard = "
            f"'new'): send at most {most} at once"
        )


class _Type(NamedTuple):
    """A content type as it was read: ``form`` is json, text, form, batch, bytes, or none where there is no type."""

    form: str
    charset: str


def _type(content_type: str) -> _Type:
    """Read a content type; raise InvalidPayload if it is malformed."""
    if len(content_type) > fields.MAX_LENGTH:
        raise InvalidPayload(f"the content type is longer than {fields.MAX_LENGTH} characters")
    return _read_type(content_type)


@functools.lru_cache(128)
def _read_type(content_type: str) -> _Type:
    try:
        name, parameters = fields.parse(content_type)
    except ValueError as error:
        raise InvalidPayload(f"the content type is malformed: {error}") from None
    charset = parameters.get("charset", "utf-8")
    if not content_type:
        return _Type("none", charset)
    if not _TYPE.fullmatch(name):
        raise InvalidPayload("the content type is malformed: it must be like 'text/plain; charset=utf-8'")
    if name.startswith("text/"):
        return _Type("text", charset)
    return _Type("json" if name.endswith("+json") else _FORMS.get(name, "bytes"), charset)


def _batch_line(number: int, line: bytes) -> bytes:
    try:
        return json_payload(line)
    except InvalidPayload as error:
        raise InvalidPayload(f"line {number}: {error}; nothing of the batch was published") from None


def _is_json(body: bytes) -> bool:
    try:
        json_payload(body)
        return True
    except InvalidPayload:
        return False


def _fields(body: bytes) -> dict[str, str | list[str]]:
    """The fields of a form."""
    try:
        return forms.fields(body)
    except forms.TooManyFields:
        raise TooLarge(f"the form has more than {forms.MAX_FIELDS} fields: send JSON") from None
    except UnicodeDecodeError:
        raise InvalidPayload("the form is not UTF-8") from None


def text(body: bytes, charset: str) -> bytes:
    """A text in UTF-8; raises InvalidPayload."""
    try:
        return charsets.to_utf8(body, charset)
    except LookupError:
        raise InvalidPayload(f"the charset is not known here: send the text in one of {charsets.NAMES}") from None
    except UnicodeError:
        raise InvalidPayload(f"the text is not {charset}: send UTF-8, or name its charset") from None


def end_of(channel: str) -> Message:
    """The end of a channel, without a payload."""
    return with_end(Message(channel, Kind.JSON, b""))


def with_end(message: Message) -> Message:
    """The message as the last one of its channel."""
    message.attributes = msgspec.structs.replace(message.attributes or Attributes(), end=True)
    return message


def check_terms(message: Message, key: Any, at: Cursor | None, *, keeps: bool) -> None:
    """Raise InvalidPayload where a message can't be published on these terms to a channel that ``keeps`` history or
    not."""
    if message.transient and (key is not None or at is not None or message.ends):
        raise InvalidPayload(
            "a transient message is not stored: it has no key and no condition, and is no channel's end"
        )
    if key is not None:
        check_key(key, keeps)
    if at is not None and not keeps:
        raise InvalidPayload(
            "a channel without history stands nowhere: set its history_size, and a store, or publish unconditionally"
        )
    if message.ends and not keeps:
        raise InvalidPayload(
            "a channel without history can't end, for nobody would remember it: set its history_size, and a store"
        )


def check_key(key: Any, keeps: bool) -> None:
    """Raise InvalidPayload unless this may be the key of a publish. ``keeps``: the channels keep history."""
    if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "replace")) <= MAX_KEY or not is_unicode(key):
        raise InvalidPayload(f"a key has 1 to {MAX_KEY} bytes of UTF-8: make one for each message, a UUID for example")
    if not keeps:
        raise InvalidPayload("a key needs a channel with history, which remembers it; this one keeps none")
