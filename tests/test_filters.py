"""What a subscription lets through."""

from __future__ import annotations

import json

import pytest

from raiden.filters import Filters, as_text
from raiden.message import Kind, Message
from raiden.strict_json import Digits, json_payload


def matches(value: object, *pairs: tuple[str, str]) -> bool:
    return Filters(pairs).match(Message("a", Kind.JSON, json.dumps(value).encode()))


def test_values_of_a_key_are_alternatives() -> None:
    pairs = [("kind", "a"), ("kind", "b")]
    assert matches({"kind": "a"}, *pairs)
    assert matches({"kind": "b"}, *pairs)
    assert not matches({"kind": "c"}, *pairs)


def test_different_keys_must_all_match() -> None:
    pairs = [("kind", "a"), ("size", "1")]
    assert matches({"kind": "a", "size": 1, "more": 2}, *pairs)
    assert not matches({"kind": "a", "size": 2}, *pairs)
    assert not matches({"kind": "a"}, *pairs)


def test_only_top_level_fields_of_objects_match() -> None:
    for value in ({"a": {"kind": "a"}}, ["kind"], "kind", {"kind": ["a"]}, {"kind": {"a": 1}}):
        assert not matches(value, ("kind", "a"))
    assert not Filters([("kind", "a")]).match(Message("a", Kind.TEXT, b'{"kind":"a"}'))
    assert not Filters([("kind", "a")]).match(Message("a", Kind.BYTES, b'{"kind":"a"}'))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("ä", "ä"),
        ("1", "1"),
        (1, "1"),
        (1.0, "1"),
        (-2.5, "-2.5"),
        (10**30, "1" + 30 * "0"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ([], None),
        ({}, None),
        (float("inf"), "inf"),
        (Digits("9" * 5000), "9" * 5000),
    ],
)
def test_values_as_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


def test_a_missing_field_is_not_null() -> None:
    assert matches({"kind": None}, ("kind", "null"))
    assert not matches({}, ("kind", "null"))


@pytest.mark.parametrize(
    "body",
    [
        b'{"team":"red","n":%b}' % (b"9" * 5000), b'{"team":"red","n":1e999}', b'{"team":"red","n":"\\ud83d"}',
        b'{"team":"blue","n":-0,"team":"red"}', b'{"team":"red","n":%b1%b}' % (b"[" * 511, b"]" * 511),
    ],
)  # fmt: skip
def test_whatever_can_be_published_can_be_filtered(body: bytes) -> None:
    message = Message("a", Kind.JSON, json_payload(body))
    assert Filters([("team", "red")]).match(message)
    assert not Filters([("team", "blue")]).match(message)


def test_equal_filters_are_one_key() -> None:
    one = Filters([("a", "1"), ("b", "2"), ("a", "3")])
    other = Filters([("a", "3"), ("a", "1"), ("b", "2"), ("b", "2")])
    assert one == other and hash(one) == hash(other) and {one: 1} == {other: 1}
    assert one != Filters([("a", "1"), ("b", "2")])
    assert one != "a"
    assert one and not Filters([])
