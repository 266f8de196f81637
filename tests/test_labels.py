"""Labels: what publishers say of their messages, as it is read from fields and from members."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raiden.model import labels
from raiden.model.attributes import Attributes
from raiden.model.labels import MAX_EVENT, MAX_TAG, MAX_TAG_NAME, MAX_TAGS, NOTHING, RESERVED, Label
from raiden.model.refusals import Invalid
from raiden.sessions import over

GOOD: list[tuple[dict[str, Any], Label]] = [
    ({}, NOTHING),
    ({"event": "created"}, Label(Attributes(event="created"))),
    ({"event": "größer"}, Label(Attributes(event="größer"))),
    ({"event": "e" * MAX_EVENT}, Label(Attributes(event="e" * MAX_EVENT))),
    ({"tags": {}}, NOTHING),
    ({"tags": {"color": "réd", "empty": ""}}, Label(Attributes(tags={"color": "réd", "empty": ""}))),
    ({"tags": {"t" * MAX_TAG_NAME: "v" * MAX_TAG}}, Label(Attributes(tags={"t" * MAX_TAG_NAME: "v" * MAX_TAG}))),
    ({"tags": {f"t{n}": "" for n in range(MAX_TAGS)}}, Label(Attributes(tags={f"t{n}": "" for n in range(MAX_TAGS)}))),
    ({"transient": True}, Label(None, True)),
    ({"transient": False}, NOTHING),
    ({"except": "a-Z_9"}, Label(Attributes(excluded="a-Z_9"))),
    ({"event": "x", "transient": True, "except": "c"}, Label(Attributes(event="x", excluded="c"), True)),
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"event": ""}, "1 to 200 bytes"),
    ({"event": "e" * (MAX_EVENT + 1)}, "1 to 200 bytes"),
    ({"event": "é" * 101}, "1 to 200 bytes"),
    ({"event": "a\u0085b"}, "control characters"),
    ({"tags": []}, "object"),
    ({"tags": "red"}, "object"),
    ({"tags": {"": "x"}}, "1 to 64 bytes"),
    ({"tags": {"t" * (MAX_TAG_NAME + 1): "x"}}, "1 to 64 bytes"),
    ({"tags": {"a\nb": "x"}}, "control characters"),
    ({"tags": {"color": 1}}, "'color' must be a string"),
    ({"tags": {"color": None}}, "'color' must be a string"),
    ({"tags": {"color": "v" * (MAX_TAG + 1)}}, "at most 256 bytes"),
    ({"tags": {"color": "\ud800"}}, "'color' must be a string"),
    ({"tags": {f"t{n}": "" for n in range(MAX_TAGS + 1)}}, "at most 16"),
    ({"except": "a b"}, "Raiden-Connection"),
    ({"except": "c" * 65}, "Raiden-Connection"),
    *[({"event": name}, "already") for name in sorted(RESERVED)],
]
BAD_MEMBERS: list[tuple[dict[str, Any], str]] = [
    ({"event": 1}, "event is a name"),
    ({"event": "a\nb"}, "control characters"),
    ({"event": "\ud800"}, "event is a name"),
    ({"transient": "true"}, "transient is true or false"),
    ({"transient": 1}, "transient is true or false"),
    ({"except": 1}, "except is the id"),
]


def in_fields(members: dict[str, Any]) -> list[tuple[str, str]]:
    """The fields that say the same as members, as a parser has them."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in members.items()}
    return [("Host", "a"), *[(f"RAIDEN-{name}", text.encode().decode("latin-1")) for name, text in texts.items()]]


@pytest.mark.parametrize(("members", "label"), GOOD)
def test_labels(members: dict[str, Any], label: Label) -> None:
    assert labels.of_members({"data": b"1", **members}) == label
    assert labels.of_object(json.dumps(members).encode()) == label
    assert labels.of_fields(in_fields(members)) == label


def test_null_says_nothing() -> None:
    assert labels.of_members(dict.fromkeys(labels.MEMBERS)) == NOTHING


@pytest.mark.parametrize(("members", "why"), BAD)
def test_bad_fields(members: dict[str, Any], why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        labels.of_fields(in_fields(members))
    assert caught.value.detail.startswith("Raiden-")


@pytest.mark.parametrize(("members", "why"), BAD + BAD_MEMBERS)
def test_bad_members(members: dict[str, Any], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        labels.of_members(members)
    with pytest.raises(Invalid, match=why):
        labels.of_object(json.dumps(members).encode())


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("Raiden-Tags", "{", "JSON object"),
        ("Raiden-Tags", "", "JSON object"),
        ("Raiden-Tags", "[" * 600, "JSON object"),
        ("Raiden-Transient", "yes", "true or false"),
        ("Raiden-Transient", "", "true or false"),
        ("Raiden-Event", "\xff", "UTF-8"),
        ("Raiden-Event", "", "1 to 200 bytes"),
    ],
)
def test_fields_that_say_nothing(field: str, value: str, why: str) -> None:
    with pytest.raises(Invalid, match=f"{field}.*{why}"):
        labels.of_fields([(field, value)])


def test_a_field_that_comes_twice() -> None:
    with pytest.raises(Invalid, match="more than one Raiden-Event"):
        labels.of_fields([("Raiden-Event", "a"), ("raiden-event", "a")])


@pytest.mark.parametrize("text", [b"[]", b"1", b"{", b'{"event": "a"', b'{"evnt": "a"}', b'{"from": {"sub": "ann"}}'])
def test_what_is_no_label(text: bytes) -> None:
    with pytest.raises(Invalid):
        labels.of_object(text)


def test_nothing_of_an_empty_frame() -> None:
    assert labels.of_object(b"") == NOTHING


def test_names_of_own_events_are_reserved() -> None:
    named = [each.name for each in vars(over).values() if isinstance(each, over.Over) and each.name]
    assert len(named) >= 4 and {*named, over.refused(Invalid("")).name, "gap"} <= RESERVED


@pytest.mark.parametrize("members", [members for members, _ in GOOD])
def test_the_size_of_a_label(members: dict[str, Any]) -> None:
    label = labels.of_members(members)
    told = {name: members[name] for name in ("event", "tags") if members.get(name)}
    written = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    assert label.size == (len(written.encode()) - 1 if told else 0)
