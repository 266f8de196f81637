"""JSON from outside: what is taken, as it was written, and what is refused."""

from __future__ import annotations

import gc
import json
import random
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from raiden.model import strict_json
from raiden.model.strict_json import MAX_DEPTH, MAX_MEMBERS, InvalidPayload, json_payload


@pytest.mark.parametrize(
    "body",
    [
        "0",
        "-0.0",
        "12345678901234567890123",
        "1.10e+05",
        "0.1000",
        '"\\ud83d"',
        '{"a":1,"a":2}',
        "[ 1,\t2 ]",
        '"\x7f\u2028"',
    ],
)
def test_json_is_left_as_it_is(body: str) -> None:
    assert json_payload(body.encode()) == body.encode()


def test_newlines_of_json_become_spaces() -> None:
    assert json_payload(b'\r\n{\n"a\\n":\r\n1.0\n}\n') == b'{ "a\\n":  1.0 }'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"NaN",
        b"-Infinity",
        b"Infinity",
        b"'a'",
        b'"a\nb"',
        b'"\t"',
        b"[1,]",
        b"{a:1}",
        b"1 2",
        b"nul",
        b"\xff",
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
        b"\x0c1",
        b"\xc2\xa01",
        b'"\\x"',
        b"1//",
        b"[" * 100000,
    ],
)
def test_json_is_checked_strictly(body: bytes) -> None:
    with pytest.raises(InvalidPayload):
        json_payload(body)


def test_nothing_but_json_is_taken_for_it() -> None:
    """By the fast reader either: what it takes, the standard library's strict one takes, and the other way round."""
    seeds = [
        b'{"a":[1,2.5e-3,-0,true,false,null],"b":"x\\u00e9\\n\\"y","c":{}}', '{"é":"ü😀","n":[[],[{}]]}'.encode(),
        b"1e999",
        b' [1 , 2 ]\n', b'"\\ud800"', b'["\\\\ud800", "\\\\\\udc00\\""]', b'{"\\ud83d":[1.5e999],"\\udfff":2}',
        b'"\x7f"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b"1234567890" * 5, b"\xef\xbb\xbf1",
    ]  # fmt: skip
    letters = b'{}[],:"\\0123456789eE+-.truefalsn \t\n\r\x00\x1f\x80\xc3\xa9\xff\xed\xa0'
    strict = json.JSONDecoder(parse_constant=lambda name: [][0], parse_int=str, parse_float=str).decode
    chance, taken = random.Random(4), 0
    for _ in range(20_000):
        body = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(body) + 1)
            body[at : at + chance.randrange(2)] = bytes(chance.choices(letters, k=chance.randrange(2)))
        try:
            strict(bytes(body).decode())
            valid = True
        except (ValueError, IndexError):
            valid = False
        try:
            json_payload(bytes(body))
            taken += 1
            assert valid, body
        except InvalidPayload:
            assert not valid, body
        try:
            assert strict_json.members(b'{"a":%b}' % bytes(body)) is not None and valid, body
        except InvalidPayload:
            assert not valid, body
    assert 2000 < taken < 18_000


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"[\\"\\\\":[', "]}]")])
def test_nesting_has_a_bound(opening: str, closing: str) -> None:
    levels = opening.replace("[\\", "").count("[") + opening.count("{")
    times, rest = divmod(MAX_DEPTH, levels)
    body = f"{opening * times}{'[' * rest}1{']' * rest}{closing * times}".encode()
    assert json_payload(body) == body
    assert strict_json.value(body) is not None
    assert strict_json.members(b'{"a":%b}' % body) == {"a": body}
    for read in (json_payload, strict_json.value):
        with pytest.raises(InvalidPayload, match="nested too deeply: at most 512"):
            read(b"[%b]" % body)
    with pytest.raises(InvalidPayload, match="nested too deeply"):
        strict_json.members(b'{"a":[%b]}' % body)


def test_brackets_in_strings_nest_nothing() -> None:
    for text in ("[" * 5000, '"' + "[" * 5000, '\\"[{' * 5000, "\\" * 5001 + "]["):
        body = json.dumps([text, [text]]).encode()
        assert json_payload(body) == body
    wide = b"[" + b'[{"a":[]},"x"],' * 50_000 + b"1]"
    assert json_payload(wide) == wide


def test_a_check_makes_nothing_of_json() -> None:
    """An array for each "[]" would take ten times as long, and the garbage collector's time besides."""
    wide = b"[" + b"[]," * 100_000 + b"%b]"
    deep = b"[" + b",".join([b"[" * 511 + b"]" * 511] * 200) + b"]"
    collected: list[str] = []
    gc.collect()
    gc.callbacks.append(lambda phase, info: collected.append(phase))
    try:
        for body in (wide % b"0", wide % b'"\\ud800"', deep):
            assert json_payload(body) == body
        with pytest.raises(InvalidPayload, match="not valid JSON: "):
            json_payload(wide % b"x")
    finally:
        gc.callbacks.pop()
    assert len(collected) < 20


def test_an_object_that_is_taken_apart_has_a_bound() -> None:
    for name in ("", "\\ud800"):  # a lone surrogate takes another way
        most = ",".join(f'"{name}{number}":{number}' for number in range(MAX_MEMBERS))
        found = strict_json.members(f"{{{most}}}".encode())
        assert found is not None and len(found) == MAX_MEMBERS
        with pytest.raises(InvalidPayload, match="more than 1000 members"):
            strict_json.members(f'{{{most},"more":1}}'.encode())
        assert json_payload(f'{{{most},"more":1}}'.encode())


def test_an_object_with_surrogates_is_taken_apart_without_making_its_values() -> None:
    deep = b'["\\ud800",' + b",".join([b"[" * 500 + b"]" * 500] * 500) + b"]"
    collected: list[str] = []
    gc.callbacks.append(lambda phase, info: collected.append(phase))
    try:
        assert strict_json.members(b'{ "a" :1 ,"data" : ' + deep + b' , "\\ud800":[{}]}') == {
            "a": b"1", "data": deep, "\ud800": b"[{}]"
        }  # fmt: skip
    finally:
        gc.callbacks.pop()
    assert len(collected) < 20


def test_what_only_python_reads_may_be_bounded() -> None:
    for text in (b"1e999", b'"\\ud800"'):
        body = b"[" + text + b",[" + b"1," * 1000 + b"1]]"
        assert len(strict_json.value(body, most=len(body))) == 2
        with pytest.raises(InvalidPayload, match="more than 1000 bytes with a lone surrogate, or a number"):
            strict_json.value(body, most=1000)
        with pytest.raises(InvalidPayload, match="not valid JSON"):
            strict_json.value(body + b"]", most=1000)
    assert len(strict_json.value(b"[" + b"1," * 1000 + b"1]", most=1000)) == 1001


@pytest.mark.parametrize("seed", range(5))
def test_members_are_those_that_python_finds(seed: int) -> None:
    chance = Random(seed)
    texts = ["", "a", "\ud800", "ä\udfff", "\\u", '"}],', "😀", "\\", "b"]

    def make(depth: int = 0) -> Any:
        kind = chance.randrange(7 if depth < 4 else 5)
        if kind == 5:
            return [make(depth + 1) for _ in range(chance.randrange(4))]
        if kind == 6:
            return {chance.choice(texts): make(depth + 1) for _ in range(chance.randrange(4))}
        return chance.choice([0, -1, 1.5, 1e300, 1 << 70, None, True, *texts])

    for _ in range(200):
        made = {"\ud800": make(), **{chance.choice(texts): make() for _ in range(chance.randrange(5))}}
        text = json.dumps(made, indent=chance.choice([None, 1])).replace("\\u00e4", "ä")
        found = strict_json.members(f" {text}\n".encode())
        assert found is not None and {name: json.loads(value) for name, value in found.items()} == made


def test_what_is_wrong_is_told_with_its_place() -> None:
    for body in (b'["a",]', b'["\\ud800",]', b'["\\\\ud800",]'):
        with pytest.raises(InvalidPayload, match=rf"^not valid JSON: .*\(byte {body.index(b']')}\)$"):
            json_payload(body)


def nesting(body: bytes) -> int:
    """By looking at each byte."""
    depth = deepest = 0
    string = escaped = False
    for byte in body:
        if escaped:
            escaped = False
        elif string:
            escaped, string = byte == ord("\\"), byte != ord('"')
        elif byte == ord('"'):
            string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def test_nesting_is_what_a_look_at_each_byte_says() -> None:
    chance, seen = random.Random(2), set[bool]()
    leaves = [
        b"1",
        b'"]"',
        b'"\\"[["',
        b'"\\\\"',
        b'"\\n["',
        b'{"[":{}}',
        b"[[ ],[[]]]",
        b'{"\\\\":"","\\"":[[]]}',
        b"{ }",
    ]
    for _ in range(300):
        parts = []
        for _ in range(chance.randrange(1, 9)):
            levels = chance.randrange(40)
            parts.append(b"[" * levels + b",".join(chance.choices(leaves, k=3)) + b"]" * levels)
        around = MAX_DEPTH - chance.randrange(10, 60)
        body = b'{"a":' * around + b"[%b]" % b",".join(parts) + b"}" * around
        try:
            assert json_payload(body) == body
            taken = True
        except InvalidPayload as error:
            assert "nested" in str(error)
            taken = False
        assert taken == (nesting(body) <= MAX_DEPTH), body
        seen.add(taken)
    assert seen == {True, False}


def test_what_is_no_json_can_not_be_nested_deeper() -> None:
    """The readers recurse until they come to the fault: they must not be let in."""
    chance = random.Random(4)
    pieces = [b"[" * 300, b'{"a":' * 300, b'"\\"[["', b'"', b"\\", b"]" * 200, b"}", b"1,", b'""']
    for _ in range(1000):
        body = b"".join(chance.choices(pieces, k=chance.randrange(8)))
        for read in (json_payload, strict_json.members, strict_json.value):
            with suppress(InvalidPayload):
                read(body)


def test_members_are_as_they_were_written() -> None:
    body = b'{ "a" : -0 ,"b":1.10e+05,"b": [1,\t{"x":1,"x":2}],"\\u0061b":"\\ud83d","c":1e999,"d":%b}' % (b"9" * 5000)
    assert strict_json.members(body) == {
        "a": b"-0", "b": b'[1,\t{"x":1,"x":2}]', "ab": b'"\\ud83d"', "c": b"1e999", "d": b"9" * 5000,
    }  # fmt: skip
    assert strict_json.members(b'\r\n{"a":1}\n') == {"a": b"1"}
    assert strict_json.members(b" {} ") == {}
    for none in (b"[{}]", b'"a"', b"1", b"null"):
        assert strict_json.members(none) is None
    for bad in (b'{"a":1', b'{"a":01}', b'{"a":"\xff"}', b'{"a":NaN}', b"{} {}", b""):
        with pytest.raises(InvalidPayload):
            strict_json.members(bad)


def test_members_of_all_kinds_are_what_the_standard_library_says() -> None:
    chance = random.Random(3)
    values = [b"1", b"[ ]", b'{"a" : {}}', b'"\\"}, "', b'"\\ud800"', b"1e999", b"null", b'"\xc3\xa9"']
    for _ in range(500):
        names = [
            chance.choice([b"a", b"b", b'\\"', b"\\ud83d", b" , :", b"\xc3\xa9"]) for _ in range(chance.randrange(5))
        ]
        space = [chance.choice([b"", b" ", b"\n\t"]) for _ in range(4)]
        pairs = [b'"%b"%b:%b%b' % (name, space[0], space[1], chance.choice(values)) for name in names]
        body = b"%b{%b%b}" % (space[2], (space[3] + b",").join(pairs), space[3])
        found = strict_json.members(body)
        assert found is not None
        assert {name: json.loads(raw) for name, raw in found.items()} == json.loads(body)


@pytest.mark.parametrize("text", ["9" * 5000, "-" + "1" * 4301, "1e999", "-1e999", "1" * 400 + ".5"])
def test_numbers_that_python_does_not_make_are_as_they_were_written(text: str) -> None:
    for body in (text, f'["\\ud83d",{text}]'):
        found = strict_json.value(body.encode())
        found = found if body == text else found[1]
        assert isinstance(found, strict_json.Digits) and found.text == text
