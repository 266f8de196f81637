"""JSON from outside: one reader, with one set of bounds, for all doors. Pure.

A published payload stays as it was written: its digits, however many, its spaces, members that come twice, escapes that
are lone surrogates. Code that needs a value reads it from there, by the same rules on each version of Python:

- Strict JSON in UTF-8 (RFC 8259), without a byte order mark.
- Arrays and objects are nested at most `MAX_DEPTH` deep. The readers below recurse, and what Python lets them do
  depends on its version.
- Numbers that Python would not make, or not without losses, are `Digits`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

import msgspec

from raiden.model.refusals import Invalid

# Arrays and objects within each other.
MAX_DEPTH: Final = 512
TOO_DEEP = f"JSON nested too deeply: at most {MAX_DEPTH} arrays and objects in each other"
# Members of an object that is taken apart: a command, or a publish to several channels.
MAX_MEMBERS: Final = 1000
# Bytes of a value in such an object, where only Python's own reader can read the value.
MAX_SLOW: Final = 65_536
_NOT_UTF8 = "not UTF-8, which JSON must be"

# Bytes up to which JSON can't be nested too deeply: each bracket must be closed.
_SHALLOW: Final = 2 * MAX_DEPTH
_NO_OPENINGS: Final = bytes(set(range(256)) - set(b"[{"))
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_OTHERS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_OPENING: Final = ord("[")
# Brackets that are looked at together; one by one only where they may be nested too deeply.
_PIECE: Final = 64
_CLOSING, _COMMA = ord("}"), ord(",")
_SPACE = b" \t\r\n"
_FOLLOWS = re.compile(r"trailing characters \(byte (\d+)\)")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
# Characters of an integer that becomes a Python number. Python makes no more than 4,300 of them, in a time that is
# quadratic.
_MAX_DIGITS = 300


class InvalidPayload(Invalid):
    """The payload is not what its content type says; the text says why."""


class Digits:
    """A number, as it was written."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __json__(self) -> str:
        """The text that ujson writes for this number."""
        return self.text


def has_digits(value: Any) -> bool:
    """Whether a value has `Digits` in it, which other readers take for infinite."""
    if isinstance(value, Digits):
        return True
    if isinstance(value, dict):
        return any([has_digits(each) for each in value.values()])
    return isinstance(value, list) and any([has_digits(each) for each in value])


def json_payload(body: bytes) -> bytes:
    """Check one JSON value and return it on one line, otherwise unchanged; raise InvalidPayload."""
    if len(body) > _SHALLOW:
        _check_depth(body, MAX_DEPTH)
    try:
        body.decode()  # `_pass_over` does not check that values are UTF-8
        _pass_over(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        _pass_over_surrogates(body)
    if 10 in body or 13 in body:  # as numbers: to look for bytes raises an exception inside, and catches it
        # Outside of strings, where JSON allows no raw newline, they are only white space.
        body = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return body.strip()


def members(body: bytes) -> dict[str, bytes] | None:
    """The members of a JSON object, each value as it was written; where a name comes twice, the last one. None for a
    value that is no object. Each value may be nested `MAX_DEPTH` deep. Raises InvalidPayload, also for more than
    `MAX_MEMBERS`."""
    if len(body) > _SHALLOW:
        _check_depth(body, MAX_DEPTH + 1)
    try:
        body.decode()
        found = _read_members(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        _pass_over_surrogates(body)
        return _members(body) if body.lstrip()[:1] == b"{" else None
    _check_count(len(found))
    return {name: bytes(value) for name, value in found.items()}


def elements(body: bytes) -> list[bytes]:
    """The elements of a JSON array that `json_payload` has checked, each as it was written."""
    try:
        return [bytes(value) for value in _read_elements(body)]
    except (msgspec.DecodeError, ValueError, RecursionError):  # one has a lone surrogate, perhaps
        return _elements(body.decode())


def _elements(text: str) -> list[bytes]:
    found: list[bytes] = []
    at = text.index("[") + 1
    while True:
        at = _behind_space(text, at)
        if text[at] == "]":
            return found
        end = _VALUES.raw_decode(text, at)[1]
        found.append(text[at:end].encode())
        at = _behind_space(text, end)
        if text[at] == ",":
            at += 1


def _behind_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def value(body: bytes, *, most: int | None = None) -> Any:
    """A JSON value in Python's types, and `Digits`. Raises InvalidPayload; also for a value of more than ``most`` bytes
    with lone surrogates or numbers like 1e999, which takes ten times as long to read."""
    if len(body) > _SHALLOW:
        _check_depth(body, MAX_DEPTH)
    try:
        return _read(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        if most is not None and len(body) > most:
            _pass_over_surrogates(body)
            raise InvalidPayload(f"more than {most} bytes with a lone surrogate, or a number like 1e999") from None
        return _read_slowly(body, _VALUES)


# This reader takes a tenth of the time of Python's, and accepts only JSON. It refuses some valid JSON, like 1e999 and
# lone surrogates.
_read = msgspec.json.Decoder().decode
# This reader makes no Python objects, which takes a tenth of that where there are many arrays. The only valid JSON that
# it refuses is lone surrogates.
_pass_over = msgspec.json.Decoder(msgspec.Raw).decode
_read_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _pass_over_surrogates(body: bytes) -> None:
    """Raise InvalidPayload for a body that is no JSON, apart from escapes of surrogates."""
    try:
        body.decode()
        _pass_over(_without_surrogates(body))
    except UnicodeDecodeError:
        raise InvalidPayload(_NOT_UTF8) from None
    except RecursionError:
        raise InvalidPayload(TOO_DEEP) from None
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"not valid JSON: {str(error).removeprefix('JSON is malformed: ')}") from None


def _without_surrogates(body: bytes) -> bytes:
    """Replace the escapes of surrogates, at the same length, so that an error's place is right. "xx" for an escaped
    backslash is no JSON outside of strings either."""
    return _SURROGATE.sub(rb"\\u0020", body.replace(b"\\\\", b"xx"))


def _check_count(count: int) -> None:
    if count > MAX_MEMBERS:
        raise InvalidPayload(f"an object of more than {MAX_MEMBERS} members: none is needed here")


def _check_depth(body: bytes, depth: int) -> None:
    if len(body.translate(None, _NO_OPENINGS)) <= depth:
        return
    # Once escapes are left out, and all but quotes and brackets, every second part between quotes is a string. Two
    # adjacent quotes can be left out: no part changes its side by that.
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2]).translate(_ALIKE)
    level = 0
    for begin in range(0, len(brackets), _PIECE):
        piece = brackets[begin : begin + _PIECE]
        opened = piece.count(b"[")
        if level + opened > depth:
            _check_each(piece, depth - level)
        level += 2 * opened - len(piece)


def _check_each(brackets: bytes, depth: int) -> None:
    """Raise InvalidPayload where these brackets are nested deeper than the depth that is left."""
    for bracket in brackets:
        depth += -1 if bracket == _OPENING else 1
        if depth < 0:
            raise InvalidPayload(TOO_DEEP)


def _read_slowly(body: bytes, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(body.decode())
    except UnicodeDecodeError:
        raise InvalidPayload(_NOT_UTF8) from None
    except RecursionError:
        raise InvalidPayload(TOO_DEEP) from None
    except ValueError as error:
        raise InvalidPayload(f"not valid JSON: {error}") from None


def _members(body: bytes) -> dict[str, bytes]:
    """The same as `members`, for an object that is valid JSON and may have lone surrogates in its strings."""
    found: dict[str, bytes] = {}
    plain = _without_surrogates(body)
    rest = memoryview(plain)
    count = 0
    at = _after_space(plain, plain.index(b"{") + 1)
    while plain[at] != _CLOSING:
        if plain[at] == _COMMA:
            at = _after_space(plain, at + 1)
        colon = at + _next(rest[at:])
        name: str = _VALUES.decode(body[at:colon].decode())
        at = _after_space(plain, colon + 1)
        end = at + _next(rest[at:])
        found[name] = body[at:end].rstrip(_SPACE)
        count += 1
        _check_count(count)
        at = end
    return found


def _next(rest: memoryview) -> int:
    """The index of the first byte after the JSON value at the beginning of ``rest`` and the spaces behind it. Only the
    reader knows where a value ends; its error tells the place of what follows, counted from 1. To make Python's objects
    of the value would take 20 times as long."""
    try:
        _pass_over(rest)
    except msgspec.DecodeError as error:
        told = _FOLLOWS.search(str(error))
        if told is None:
            raise
        return int(told[1]) - 1
    raise ValueError("nothing follows")


def _after_space(text: bytes, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int | Digits:
    return int(text) if len(text) <= _MAX_DIGITS else Digits(text)


def _float(text: str) -> float | Digits:
    number = float(text)
    return number if math.isfinite(number) else Digits(text)


_VALUES = json.JSONDecoder(parse_constant=_reject_constant, parse_int=_integer, parse_float=_float)


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which JSON can write and UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
