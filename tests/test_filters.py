"""What a subscription lets through."""

from __future__ import annotations

import json
import random

import pytest

from raiden.delivery.selection import Selection
from raiden.model import encoding
from raiden.model.attributes import Attributes
from raiden.model.filters import MAX_BYTES, MAX_VALUES, Filters, InvalidFilters, as_text
from raiden.model.message import Kind, Message
from raiden.model.refusals import Invalid
from raiden.model.strict_json import Digits, json_payload


def matches(value: object, *pairs: tuple[str, str | None]) -> bool:
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


@pytest.mark.parametrize(
    ("key", "value", "passing", "refused"),
    [
        (
            "n>=",
            "10",
            [10, 10.0, 11, 1e300, Digits("1e999")],
            [9.99, -11, "10", "11", True, None, [], Digits("-1e999")],
        ),
        ("n>", "-1.5", [-1, 0, 1e9], [-1.5, -2]),
        ("n<", "1e3", [999, -1, Digits("-" + 400 * "9")], [1000, Digits(400 * "9"), "1", False]),
        ("n<=", "0", [0, -0.0, -1], [0.001, 1]),
        ("n!=", "10", [9, "x", True, None, [], {}, 10.5], [10, 10.0, "10"]),
        ("n", None, [0, "", None, False, [], {}], []),
        ("n", "", [""], [0, None]),
    ],
)
def test_operators(key: str, value: str | None, passing: list[object], refused: list[object]) -> None:
    def match(said: object) -> bool:
        message = Message("a", Kind.JSON, b"")
        message.decoded = {"n": said}
        return Filters([(key, value)]).match(message)

    assert [said for said in passing + refused if match(said)] == passing
    assert not matches({"m": 10}, (key, value)), "a message without the field matches none"


def test_values_that_a_field_must_not_have_all_count() -> None:
    assert matches({"n": "c"}, ("n!=", "a"), ("n!=", "b"))
    assert not matches({"n": "b"}, ("n!=", "a"), ("n!=", "b"))


def test_a_path_leads_into_objects() -> None:
    order = {"order": {"status": "paid", "items": [{"n": 1}], "sum": {"net": 10}}}
    assert matches(order, ("order.status", "paid"), ("order.sum.net>", "9"), ("order.items", None))
    for key, value in (("order.status", "open"), ("order", "paid"), ("order.items.0", None), ("order.status.x", None)):
        assert not matches(order, (key, value)), key
    both = {"a.b": "whole", "a": {"b": "inner"}}
    assert matches(both, ("a.b", "whole")) and not matches(both, ("a.b", "inner")), "the whole name goes first"


def test_attributes() -> None:
    message = Message("a", Kind.TEXT, b"x", attributes=Attributes("created", {"color": "red", "a.b": "c"}))
    for pairs in ([("_event", "created")], [("_tag.color", "red"), ("_event", None)], [("_tag.a.b", "c")],
                  [("_event!=", "deleted")], [("_tag.color", "blue"), ("_tag.color", "red")]):  # fmt: skip
        assert Filters(pairs).match(message), pairs
    for key, value in (("_event", "x"), ("_tag.size", None), ("n", None), ("_filter._event", None)):
        assert not Filters([(key, value)]).match(message), key
    assert not Filters([("_event", "created"), ("n", "1")]).match(message)
    assert not Filters([("_event", None)]).match(Message("a", Kind.TEXT, b"x", attributes=Attributes()))
    assert not Filters([("_event", None)]).match(Message("a", Kind.JSON, b'{"_event":"x"}'))
    assert Filters([("_filter._event", "x")]).match(Message("a", Kind.JSON, b'{"_event":"x"}'))


@pytest.mark.parametrize(
    "key",
    ["", ".", "a..b", ".a", "a.", ">=", "a.>", "_filter.", ".".join("a" * 17), "_event>=", "_tag.n<"],
)  # fmt: skip
def test_subjects_that_can_not_be(key: str) -> None:
    with pytest.raises(Invalid):
        Filters([(key, "1")])


@pytest.mark.parametrize("value", ["", "x", "1e999", "0x10", "NaN", "1_000", "01", "+1", " 1", "9" * 301, None, "true"])
def test_what_is_no_number_is_compared_with_nothing(value: str | None) -> None:
    with pytest.raises(Invalid, match="compares with a number, like n>=10"):
        Filters([("n>=", value)])


def test_a_comparison_has_one_number() -> None:
    with pytest.raises(Invalid, match="one number"):
        Filters.of({"n>=": [1, 2]})
    assert Filters.of({"n>=": 1, "n<": [2.5]}) == Filters([("n<", "2.5"), ("n>=", "1.0")])


def test_both_filters_hold() -> None:
    forced = Filters.of({"n>=": 5, "n<": 10, "team": ["a", "b"], "x!=": "1", "y!=": []})
    asked = Filters.of({"n>=": 1, "n<": 7, "team": ["b", "c"], "x!=": ["2"], "z": "3"})
    assert forced.both(asked) == asked.both(forced) == Filters.of(
        {"n>=": 5, "n<": 7, "team": "b", "x!=": ["1", "2"], "y!=": [], "z": 3}
    )  # fmt: skip


@pytest.mark.parametrize(
    "written",
    [{"a.b": ["1", "2"], "n>=": ["1.5"], "n<": ["-3"], "x!=": ["", "y"], "z!=": [], "_event": ["e"], "_tag.a.b": ["c"],
      "_filter._event": ["f"], "_filter._filter.x": ["g"]}, {"big>": ["1" + 200 * "0"], "small<=": ["1e-07"]}],
)  # fmt: skip
def test_filters_are_written_as_they_are_read(written: dict[str, list[str]]) -> None:
    filters = Filters.of(written)
    assert filters.values() == written
    assert Filters(filters.pairs()) == filters


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
            Filters(dict([_drawn(chance, fields, values) for _ in range(1 + chance.randrange(4))]).items())
            for _ in range(80)
        )
    }
    selection: Selection[object] = Selection()
    for key, group in groups.items():
        selection.add(key, group)
    for removed in chance.sample(list(groups), 20):
        selection.remove(removed)
        del groups[removed]
    said = [1, True, "x", "y", None, 1.0, ["x"], {"x": 1}, 7, {"b": "x", "c": 3}]
    payloads = [
        {field: chance.choice(said) for field in fields if chance.random() < 0.7} | ({"g": "x"} if at % 2 else {})
        for at in range(50)
    ]
    run = [Message("a", Kind.JSON, json.dumps(payload).encode()) for payload in payloads]
    run += [Message("a", Kind.JSON, b"1"), Message("a", Kind.BYTES, b'{"a":1}')]
    for message in run[::3]:
        message.attributes = Attributes(chance.choice(values))
    expected = {key: [message for message in run if key[1].match(message)] for key in groups}
    assert selection.matching(run) == {key: messages for key, messages in expected.items() if messages}
    for key in groups:
        selection.remove(key)
    assert selection.matching(run) == {}
    assert not (selection._by_field or selection._by_subject or selection._by_bound or selection._others)


def _drawn(chance: random.Random, fields: str, values: list[str]) -> tuple[str, str | None]:
    field = chance.choice([*fields, "a.b", "a.b", "b.c", "_event"])
    compared = ["<", "<=", ">=", ">"] if field != "_event" else []
    operator = chance.choice(["", "", "", "", "!=", "none", *compared])
    if operator == "none":
        return field, None
    return field + operator, str(chance.randrange(9)) if operator in compared else chance.choice(values)
