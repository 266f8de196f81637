"""Values of header fields, with parameters and in lists."""

from __future__ import annotations

import random

import pytest

from raiden.model import fields


@pytest.mark.parametrize(
    ("text", "value", "parameters"),
    [
        ("", "", {}),
        ("text/plain", "text/plain", {}),
        (" Text/PLAIN\t", "text/plain", {}),
        ("a;charset=utf-8", "a", {"charset": "utf-8"}),
        ("a ; CharSet=UTF-8", "a", {"charset": "UTF-8"}),
        ("a; format=flowed; charset=iso-8859-1", "a", {"format": "flowed", "charset": "iso-8859-1"}),
        ('a; format="x;charset=latin1"', "a", {"format": "x;charset=latin1"}),
        ('a;q="a\\"b\\\\c";z=1', "a", {"q": 'a"b\\c', "z": "1"}),
        ('a;q=""', "a", {"q": ""}),
        ("a;;  ; b=1 ;", "a", {"b": "1"}),
        (";wait=25", "", {"wait": "25"}),
    ],
)
def test_parameters(text: str, value: str, parameters: dict[str, str]) -> None:
    assert fields.parse(text) == (value, parameters)


@pytest.mark.parametrize(
    "text",
    [
        "a; charset = utf-8", "a; charset= utf-8", "a; charset =utf-8", "a; charset=", "a; charset", "a; =b", "a;b=c d",
        'a;b="c', 'a;b="c\\', 'a;b="c"d', "a;b=c;B=d", "a;b=\0", 'a;b="\0"', "a;b=\x85" * 2, "a;b=c,d",
        "a" * (fields.MAX_LENGTH + 1),
    ],
)  # fmt: skip
def test_parameters_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^its? "):
        fields.parse(text)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", []),
        (" , ,", []),
        ("a", ["a"]),
        ("a, b;q=0.5 ,c", ["a", "b;q=0.5", "c"]),
        ('a="x, y", b', ['a="x, y"', "b"]),
        ('"a\\",", b', ['"a\\","', "b"]),
    ],
)
def test_lists(text: str, members: list[str]) -> None:
    assert fields.split(text) == members


@pytest.mark.parametrize("text", ['"', 'a, "b', '"a\\"', '"\0"'])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="no end"):
        fields.split(text)


def test_garbage_is_read_or_a_value_error() -> None:
    chance, read = random.Random(1), 0
    for _ in range(20_000):
        text = "".join(chance.choices('ab;="\\, \t\0\xff', k=chance.randrange(12)))
        try:
            for member in fields.split(text):
                fields.parse(member)
                read += 1
        except ValueError:
            pass
    assert read > 1000
