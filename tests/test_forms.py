"""Forms: read as the standard library reads them, and bounded."""

from __future__ import annotations

import random
from urllib.parse import parse_qsl

import pytest

from raiden.model import forms
from raiden.model.forms import MAX_FIELDS, TooManyFields


def by_the_library(body: bytes) -> dict[str, str | list[str]] | None:
    found: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(body.decode(), keep_blank_values=True, errors="strict"):
            found.setdefault(name, []).append(value)
    except UnicodeDecodeError:
        return None
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def test_a_form_is_read_as_the_library_reads_it() -> None:
    pieces = [
        b"a", b"b=", b"=", b"&", b"&a=1", b"%", b"%2", b"%25", b"%26", b"%3d", b"%3D41", b"%zz", b"%41", b"%0a",
        b"%0D%0a",
        b"+", b" ", b"\n", b"\r\n", b" \n", b"=\r\n", b"==", b"%C3%A9", "é".encode(), b"%C3", b"%A9", b"\xc3",
        b"\xa9", b"\0", b"_", b"%20", b"%2B", b"?=", b"=?utf-8?q?=41?=",
    ]  # fmt: skip
    chance = random.Random(3)
    kinds = set()
    for _ in range(20_000):
        body = b"".join(chance.choices(pieces, k=chance.randrange(8)))
        expected = by_the_library(body)
        kinds.add(expected is None)
        if expected is None:
            with pytest.raises(UnicodeDecodeError):
                forms.fields(body)
        else:
            assert forms.fields(body) == expected, body
    assert kinds == {True, False}


def test_the_fields_have_a_bound() -> None:
    most = b"&".join([b"a=%62"] * MAX_FIELDS)
    assert forms.fields(most) == {"a": ["b"] * MAX_FIELDS}
    with pytest.raises(TooManyFields):
        forms.fields(most + b"&")
