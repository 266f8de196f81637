"""What travels: names, cursors, frames and payloads."""

from __future__ import annotations

import random
import struct

import pytest

from raiden.backbone.frames import VERSION, InvalidFrame, from_frame, to_frame
from raiden.model.message import Cursor, InvalidCursor, Kind, Message
from raiden.model.names import InvalidChannel, check_channel, check_subscription, topic, unquote


def header(version: int, kind: int, extensions: bytes, published: int = 7) -> bytes:
    return struct.pack("!BBIQ", version, kind, len(extensions), published) + extensions


def extension(tag: int, data: bytes) -> bytes:
    return struct.pack("!BI", tag, len(data)) + data


@pytest.mark.parametrize("name", ["a", "a b", "/", "a/b.c", "a*b", "*a", "-", "-a", "ä€😀", "\u2028", "a" * 255])
def test_names(name: str) -> None:
    assert check_channel(name) == check_subscription(name) == name


@pytest.mark.parametrize(
    "name", ["", "\0", "a\nb", "\x1f", "\x7f", "\x85", "\x9f", "\ud800", "-/", "-/health", "a" * 256, "€" * 86]
)
def test_names_that_are_none(name: str) -> None:
    for check in (check_channel, check_subscription):
        with pytest.raises(InvalidChannel):
            check(name)


@pytest.mark.parametrize("name", ["*", "a*", "a.*", "**"])
def test_patterns_can_be_subscribed_to_but_not_published_to(name: str) -> None:
    assert check_subscription(name) == name
    with pytest.raises(InvalidChannel, match="pattern"):
        check_channel(name)


def test_topics() -> None:
    assert (topic("a€"), topic("a*"), topic("*"), topic("a**")) == ("a€\0".encode(), b"a", b"", b"a*")


@pytest.mark.parametrize(
    ("text", "decoded"), [("a+b", "a+b"), ("%41%2f%2F", "A//"), ("%25", "%"), ("%e2%82%ac", "€"), ("%2541", "%41")]
)
def test_percent_decoding(text: str, decoded: str) -> None:
    assert unquote(text) == decoded


@pytest.mark.parametrize("text", ["%", "%4", "a%", "%%41", "%4g", "% 1", "%+1", "%u0041", "%ff", "%c0%80", "%ed%a0%80"])
def test_percent_decoding_is_strict(text: str) -> None:
    with pytest.raises(InvalidChannel, match="percent-encoding"):
        unquote(text)


def test_cursors() -> None:
    assert Cursor.parse("k3x9:41") == ("k3x9", 41, "")
    assert str(Cursor("k3x9", 41)) == "k3x9:41"
    assert Cursor.parse("k3x9:41:8c1f02d9e7ab") == ("k3x9", 41, "8c1f02d9e7ab")
    assert str(Cursor("k3x9", 41, "8c1f02d9e7ab")) == "k3x9:41:8c1f02d9e7ab"


@pytest.mark.parametrize(
    "text",
    [
        *["", ":", "41", "a:", ":1", "a:-1", "a: 1", "a:1_0", "a:\u0661", "a b:1", "a:1" + 19 * "0"],
        *["a:1:", "a:1:2", "a:1:8c1f02d9e7aX", "a:1:8C1F02D9E7AB", "a:1:8c1f02d9e7ab:", "a:1:8c1f02d9e7ab0"],
    ],
)
def test_cursors_that_are_none(text: str) -> None:
    with pytest.raises(InvalidCursor, match="is no cursor"):
        Cursor.parse(text)


@pytest.mark.parametrize("kind", range(Kind.DELETION + 1))
@pytest.mark.parametrize("cursor", [None, Cursor("k3x9", 41)])
@pytest.mark.parametrize("payload", [b"", b"1", b"\0\xff" * 70000])
def test_frames_round_trip(kind: int, cursor: Cursor | None, payload: bytes) -> None:
    if kind == Kind.TEXT:
        payload = payload.decode("latin-1").encode()
    frame = to_frame([Message("a€", kind, payload, cursor, published=1 << 50)])
    name = "a€".encode()
    assert frame.startswith(name + b"\0")
    (message,) = from_frame(name, frame)
    assert (message.channel, message.kind, message.payload) == ("a€", kind, payload)
    assert (message.cursor, message.published) == (cursor, 1 << 50)


@pytest.mark.parametrize("before", ["", "0123456789ab"])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_frames_carry_proofs(before: str, count: int) -> None:
    """And so each message has that of the one before it."""
    cursors = [Cursor("k3x9", 41 + n, f"{n + 1:012x}") for n in range(count)]
    sent = [Message("a", Kind.JSON, b"%d" % cursor.offset, cursor) for cursor in cursors]
    sent[0].before = before
    came = from_frame(b"a", to_frame(sent))
    assert [message.cursor for message in came] == cursors
    assert [message.before for message in came] == [before, *[cursor.proof for cursor in cursors[:-1]]]


def test_a_frame_with_other_proofs_than_messages() -> None:
    """They are left out."""
    frame = to_frame([Message("a", Kind.JSON, b"1", Cursor("k3x9", 41, "0123456789ab"))])
    at = frame.index(bytes.fromhex("0123456789ab"))
    short = frame[: at - 7] + bytes([6]) + frame[at:]
    short = short[:4] + (int.from_bytes(short[4:8]) - 6).to_bytes(4) + short[8:]
    (message,) = from_frame(b"a", short)
    assert (message.cursor, message.before, message.payload) == (Cursor("k3x9", 41), "", b"1")


@pytest.mark.parametrize("cursor", [None, Cursor("k3x9", 41)])
def test_frames_of_many(cursor: Cursor | None) -> None:
    payloads = [b"", b"1", b"x" * 100_000, "€".encode(), *[b"%d" % n for n in range(5000)]]
    places = [cursor and cursor._replace(offset=cursor.offset + n) for n in range(len(payloads))]
    sent = [Message("a", Kind.TEXT, *pair, published=7) for pair in zip(payloads, places, strict=True)]
    got = from_frame(b"a", to_frame(sent))
    assert [message.payload for message in got] == payloads
    assert [message.cursor for message in got] == places
    assert {(message.channel, message.kind, message.published) for message in got} == {("a", Kind.TEXT, 7)}


def test_unknown_extensions_are_skipped() -> None:
    unknown, cursor = extension(9, b"?" * 300), extension(1, b"e:1")
    for extensions, expected in [
        (unknown, None),
        (unknown + cursor, Cursor("e", 1)),
        (cursor + unknown, Cursor("e", 1)),
        (b"\x09", None),
    ]:
        (message,) = from_frame(b"a", b"a\0" + header(VERSION, Kind.TEXT, extensions) + b"payload")
        assert (message.cursor, message.payload, message.published) == (expected, b"payload", 7)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        (b"a", b"a\0" + header(VERSION, 0, b"")[:-1]),
        (b"a", b"a\0" + header(VERSION, 0, b"12345")[:-1]),
        (b"a", b"a\0" + header(VERSION + 1, 0, b"")),
        (b"a", b"a\0" + header(VERSION, 4, b"")),
        (b"a", b"a\0" + header(VERSION, 0, extension(1, b"e:x"))),
        (b"a", b"a\0" + header(VERSION, 0, extension(1, b"\xff:1"))),
        (b"a", b"a\0" + header(VERSION, 0, extension(1, b"e:-1"))),
        (b"a", b"a\0" + header(VERSION, 0, extension(1, b"e:%d" % (1 << 63)))),
        (b"a", b"a\0" + header(VERSION, 0, extension(1, b"e:1_0"))),
        (b"a", b"a\0" + header(VERSION, 0, extension(1, b"\0:1"))),
        (b"a", b"a\0" + header(VERSION, 0, extension(2, b"\0\0\0\2" * 2)) + b"123"),
        (b"a", b"a\0" + header(VERSION, 0, extension(2, b"\xff\xff\xff\xff")) + b"123"),
        (b"a", b"a\0" + header(VERSION, Kind.TEXT, b"") + b"no \xff text"),
        (b"\xff", b"\xff\0" + header(VERSION, 0, b"")),
        (b"", b""),
    ],
)
def test_bad_frames(name: bytes, frame: bytes) -> None:
    with pytest.raises(InvalidFrame):
        from_frame(name, frame)


def test_garbage_is_a_message_or_an_invalid_frame() -> None:
    chance = random.Random(1)
    valid = to_frame([Message("a", Kind.TEXT, b"payload", Cursor("e", 1))] * 2)
    read = 0
    for _ in range(5000):
        frame = bytearray(valid)
        for _ in range(chance.randrange(1, 5)):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        data = bytes(frame[: chance.randrange(len(frame) + 1)]) if chance.random() < 0.5 else chance.randbytes(40)
        name = data[: max(0, data.find(b"\0"))]
        try:
            assert all(isinstance(message, Message) for message in from_frame(name, data))
            read += 1
        except InvalidFrame:
            pass
    assert read


def test_fields_are_those_of_a_json_object() -> None:
    assert Message("a", Kind.JSON, b'{"a": [1]}').fields() == {"a": [1]}
    assert Message("a", Kind.TEXT, b'{"a": 1}').fields() is None
    assert Message("a", Kind.JSON, b"[1]").fields() is None
    assert Message("a", Kind.JSON, b'{"a":' * 5000 + b"1" + b"}" * 5000).fields() is None
    digits = b'{"team":"red","n":%b,"x":"\\ud83d"}' % (b"9" * 5000)
    assert (Message("a", Kind.JSON, digits).fields() or {})["team"] == "red"
    message = Message("a", Kind.JSON, b"{}")
    assert message.fields() is message.fields()
