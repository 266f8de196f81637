"""What a subscription lets through."""

from __future__ import annotations

import json
import random

import pytest

from raiden.delivery.selection import Selection
from raiden.model import encoding
from raiden.model.filters import MAX_BYTES, MAX_VALUES, Filters, InvalidFilters, as_text
from raiden.model.message import Kind, Message
from raiden.model.strict_json import Digits, json_payload


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


def test_a_subscription_has_a_bounded_number_of_values() -> None:
    values = [str(number) for number in range(MAX_VALUES)]
    assert len(Filters([("a", value) for value in values]).pairs()) == MAX_VALUES
    with pytest.raises(InvalidFilters, match="at most 100 values"):
        Filters([("a", value) for value in [*values, "x"]])
    with pytest.raises(InvalidFilters):
        Filters([(value, "x") for value in [*values, "x"]])


def test_the_bytes_of_filters_are_bounded() -> None:
    Filters([("ä", "x" * (MAX_BYTES - 2))])
    Filters([("ä", "x" * 2000), ("ä", "y" * (MAX_BYTES - 2002))])
    for pairs in ([("ä", "x" * (MAX_BYTES - 1))], [("x" * MAX_BYTES, "y")], [("a", "\ud800" * (MAX_BYTES // 3 + 1))]):
        with pytest.raises(InvalidFilters, match="4096 bytes"):
            Filters(pairs)


def test_a_command_with_too_many_values_is_not_read_to_its_end() -> None:
    class Endless(dict[str, object]):
        def items(self):  # type: ignore[no-untyped-def]
            while True:
                yield "a", "b"

    with pytest.raises(InvalidFilters):
        Filters.of(Endless(a="b"))


@pytest.mark.parametrize("seed", range(10))
def test_whom_a_message_is_for_is_found_as_if_all_filters_were_tried(seed: int) -> None:
    chance = random.Random(seed)
    fields, values = "abcdef"[: 2 + seed % 5], ["1", "true", "x", "y", "null"]
    groups = {
        (encoding.line(chance.random() < 0.5, False), filters): object()
        for filters in (
            Filters([(chance.choice(fields), chance.choice(values)) for _ in range(1 + chance.randrange(4))])
            for _ in range(50)
        )
    }
    selection: Selection[object] = Selection()
    for key, group in groups.items():
        selection.add(key, group)
    for removed in chance.sample(list(groups), 20):
        selection.remove(removed)
        del groups[removed]
    said = [1, True, "x", "y", None, 1.0, ["x"], {"x": 1}, 7]
    payloads = [
        {field: chance.choice(said) for field in fields if chance.random() < 0.7} | ({"g": "x"} if at % 2 else {})
        for at in range(50)
    ]
    run = [Message("a", Kind.JSON, json.dumps(payload).encode()) for payload in payloads]
    run += [Message("a", Kind.JSON, b"1"), Message("a", Kind.BYTES, b'{"a":1}')]
    expected = {key: [message for message in run if key[1].match(message)] for key in groups}
    assert selection.matching(run) == {key: messages for key, messages in expected.items() if messages}
    for key in groups:
        selection.remove(key)
    assert selection.matching(run) == {} and not selection._by_field
