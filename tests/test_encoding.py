"""Message to bytes, in every form; WebSocket frames as the `websockets` library reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from raiden.model import encoding
from raiden.model.encoding import Encoding
from raiden.model.message import Cursor, Kind, Message

JSON = Message("ä", Kind.JSON, b'{"a": 1.0}')
TEXT = Message("ä", Kind.TEXT, 'a"/\r\n\u2028\0ä'.encode())
BYTES = Message("ä", Kind.BYTES, b"\0\n\xff")
AT = Message("ä", Kind.JSON, b"1", Cursor("e", 1))
TEXT_VALUE = '"a\\"/\\r\\n\\u2028\\u0000ä"'.encode()
BYTES_VALUE = b'{"base64":"AAr/"}'
ALL = [JSON, TEXT, BYTES, AT]

FACTORIES: list[tuple[Callable[..., Encoding], int]] = [
    (encoding.line, 2),
    (encoding.sse, 2),
    (encoding.raw, 1),
    (encoding.poll, 1),
    (encoding.websocket, 3),
]
COMBINATIONS = [
    (factory, tuple(bool(number >> i & 1) for i in range(count)))
    for factory, count in FACTORIES
    for number in range(2**count)
]


def frames(data: bytes, *, deflate: bool = False) -> list[Frame]:
    """What a client reads."""
    client = Protocol(Side.CLIENT, max_size=None)
    if deflate:
        client.extensions = [PerMessageDeflate(True, True, 15, 15)]
    client.receive_data(data)
    assert client.parser_exc is None
    received = client.events_received()
    assert all(isinstance(frame, Frame) and frame.fin for frame in received)
    return [frame for frame in received if isinstance(frame, Frame)]


def unchunked(data: bytes) -> bytes:
    size, _, rest = data.partition(b"\r\n")
    assert len(rest) == int(size, 16) + 2 and rest.endswith(b"\r\n")
    return rest[:-2]


def test_values() -> None:
    assert [encoding.json_value(message) for message in ALL] == [b'{"a": 1.0}', TEXT_VALUE, BYTES_VALUE, b"1"]


def test_lines() -> None:
    encode = encoding.line(False, False)
    assert [encode(message) for message in ALL] == [b'{"a": 1.0}\n', TEXT_VALUE + b"\n", BYTES_VALUE + b"\n", b"1\n"]


def test_wrapped_lines() -> None:
    encode = encoding.line(True, False)
    assert encode(JSON) == '{"channel":"ä","data":{"a": 1.0}}\n'.encode()
    assert encode(AT) == '{"channel":"ä","data":1,"cursor":"e:1"}\n'.encode()
    assert json.loads(encode(TEXT)) == {"channel": "ä", "data": TEXT.payload.decode()}
    assert base64.b64decode(json.loads(encode(BYTES))["data"]["base64"]) == BYTES.payload


def test_events() -> None:
    assert encoding.sse(False, False)(JSON) == b'data: {"a": 1.0}\n\n'
    assert encoding.sse(False, False)(AT) == b"id: e:1\ndata: 1\n\n"
    assert encoding.sse(True, False)(JSON) == 'data: {"channel":"ä","data":{"a": 1.0}}\n\n'.encode()
    assert encoding.event(b"1", "e:1", "gap") == b"event: gap\nid: e:1\ndata: 1\n\n"


@pytest.mark.parametrize("form", [encoding.line, encoding.sse])
@pytest.mark.parametrize("wrapped", [False, True])
def test_chunks_hold_the_same_bytes(form: Callable[[bool, bool], Encoding], wrapped: bool) -> None:
    for message in ALL:
        assert unchunked(form(wrapped, True)(message)) == form(wrapped, False)(message)


@pytest.mark.parametrize("wrapped", [False, True])
def test_every_message_is_one_line(wrapped: bool) -> None:
    """A client that splits at CR or LF, as SSE demands, finds each message in one piece."""
    controls = "".join(map(chr, range(33))) + "\x7f\x85\u2028\u2029"
    for message in [*ALL, Message("ä", Kind.TEXT, controls.encode()), Message("ä", Kind.TEXT, b"")]:
        line = encoding.line(wrapped, False)(message)
        assert line.splitlines() == [line[:-1]] and line.endswith(b"\n")
        lines = encoding.sse(wrapped, False)(message).splitlines()
        assert lines[-2].startswith(b"data: ") and lines[-1] == b""
        assert len(lines) == (2 if message.cursor is None else 3)


def test_raw() -> None:
    empty = Message("a", Kind.TEXT, b"")
    assert encoding.raw(False)(BYTES) == BYTES.payload
    assert encoding.raw(True)(BYTES) == b"3\r\n\0\n\xff\r\n"
    assert encoding.raw(True)(empty) == b"" != encoding.END_OF_CHUNKS


def test_poll_items_make_an_array() -> None:
    items = b"".join(encoding.poll(False)(message) for message in ALL)
    assert items.endswith(b',{"data":1,"cursor":"e:1"},')
    assert json.loads(b"[%b]" % items[:-1])[1] == {"data": TEXT.payload.decode()}
    assert json.loads(encoding.poll(True)(AT)[:-1]) == {"channel": "ä", "data": 1, "cursor": "e:1"}


def test_websocket_forms() -> None:
    def read(message: Message, *, wrapped: bool = False, verbatim: bool = False) -> tuple[Opcode, bytes]:
        (frame,) = frames(encoding.websocket(wrapped, False, verbatim)(message))
        return frame.opcode, bytes(frame.data)

    assert read(JSON) == read(JSON, verbatim=True) == (Opcode.TEXT, b'{"a": 1.0}')
    assert read(TEXT) == (Opcode.TEXT, TEXT_VALUE)
    assert read(TEXT, verbatim=True) == (Opcode.TEXT, TEXT.payload)
    assert read(BYTES) == read(BYTES, verbatim=True) == (Opcode.BINARY, BYTES.payload)
    for message in ALL:
        assert read(message, wrapped=True) == (Opcode.TEXT, encoding.line(True, False)(message)[:-1])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 125, 126, 65535, 65536, 1 << 20])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("kind", [Kind.BYTES, Kind.TEXT])
def test_websocket_frames_of_every_size(size: int, deflate: bool, kind: int) -> None:
    payload = b"payload "[:7] * (size // 7) + b"p" * (size % 7)
    data = encoding.websocket(False, deflate, True)(Message("a", kind, payload))
    # Twice: without context takeover, a frame may be read after any other.
    one, other = frames(data * 2, deflate=deflate)
    assert bytes(one.data) == bytes(other.data) == payload
    assert one.opcode is (Opcode.BINARY if kind is Kind.BYTES else Opcode.TEXT)
    assert bool(data[0] & 0x40) == (deflate and size >= 64)


def test_what_does_not_get_shorter_is_not_deflated() -> None:
    payload = bytes(range(256))
    data = encoding.websocket(False, True)(Message("a", Kind.BYTES, payload))
    assert data == encoding.deflated_frame(0x82, payload) == b"\x82\x7e\x01\x00" + payload
    assert encoding.text_frame(b"1") == b"\x81\x011"


@pytest.mark.parametrize(("factory", "parameters"), COMBINATIONS)
def test_equal_parameters_give_the_same_object(factory: Callable[..., Encoding], parameters: tuple[bool, ...]) -> None:
    assert factory(*parameters) is factory(*parameters)


def test_all_parameters_give_other_objects() -> None:
    assert len({factory(*parameters) for factory, parameters in COMBINATIONS}) == len(COMBINATIONS)


@pytest.mark.parametrize(("factory", "parameters"), COMBINATIONS)
def test_a_message_is_encoded_once(factory: Callable[..., Encoding], parameters: tuple[bool, ...]) -> None:
    message = Message("a", Kind.JSON, b"[1]" * 30)
    encode = factory(*parameters)
    data = encode(message)
    message.payload = b"other"
    assert encode(message) is data


def test_encoded_once_even_if_empty() -> None:
    calls: list[Message] = []

    def encode(message: Message) -> bytes:
        calls.append(message)
        return b""

    once = Encoding("test", encode)
    assert once(JSON) == once(JSON) == b""
    assert calls == [JSON]
