"""WebSocket without sockets, driven by a client of the `websockets` library."""

from __future__ import annotations

import os
import random
from functools import partial

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Protocol, Side, State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from raiden.protocols import websocket
from raiden.protocols.http import HttpError, Request
from raiden.protocols.limits import HttpLimits
from raiden.protocols.parser import RequestParser
from raiden.protocols.websocket import Closed, Deflate, WebSocket, accept


class Pair:
    """A client and the server's end."""

    def __init__(self, *, deflate: bool = False, max_message: int = 1000) -> None:
        self.client = Protocol(Side.CLIENT, max_size=None)
        if deflate:
            self.client.extensions = [PerMessageDeflate(True, True, 15, 15)]
        self.server = WebSocket(Deflate(True, True, 15, 15) if deflate else None, max_message=max_message)

    def deliver(self, *, bytewise: bool = False) -> list[object]:
        """What the server makes of all that the client has sent."""
        data = b"".join(self.client.data_to_send())
        pieces = [data[i : i + 1] for i in range(len(data))] if bytewise else [data]
        return [event for piece in pieces for event in self.server.feed(piece)]

    def answers(self) -> list[Frame]:
        """What the client gets of all that the server has sent."""
        self.client.receive_data(self.server.data_to_send())
        assert self.client.parser_exc is None
        return [event for event in self.client.events_received() if isinstance(event, Frame)]

    def fails(self, code: int) -> None:
        """The server closes with this code and takes nothing more; the client learns of it."""
        assert self.deliver()[-1:] == [Closed(code)]
        assert not self.server.open
        self.answers()
        assert self.client.close_rcvd is not None and self.client.close_rcvd.code == code


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_messages(deflate: bool, bytewise: bool) -> None:
    pair = Pair(deflate=deflate)
    pair.client.send_text("ä€😀".encode())
    pair.client.send_binary(b"\0\xff" * 200)
    pair.client.send_text(b"")
    assert pair.deliver(bytewise=bytewise) == ["ä€😀", b"\0\xff" * 200, ""]
    assert pair.server.data_to_send() == b"" and pair.server.open


def test_texts_that_are_cut_anywhere() -> None:
    texts: list[object] = ["", "ä", "x" * 125, "y" * 126, "z" * 999]
    client = Protocol(Side.CLIENT)
    for text in texts[:-1]:
        client.send_text(str(text).encode())
    client.send_ping(b"")
    client.send_binary(b"binary")
    client.send_text(str(texts[-1]).encode())
    data = b"".join(client.data_to_send())
    for cut in range(0, len(data), 7):
        server = WebSocket(None, max_message=1000)
        got = [event for piece in (data[:cut], data[cut:]) for event in server.feed(piece)]
        assert got == [*texts[:-1], b"binary", texts[-1]] and server.open


def test_a_text_that_is_no_utf_8_in_one_read_with_others() -> None:
    pair = Pair()
    pair.client.send_text(b"good")
    pair.client.send_text(b"\xff")
    pair.client.send_text(b"lost")
    assert pair.deliver() == ["good", Closed(1007)]


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_fragments(deflate: bool, bytewise: bool) -> None:
    """Text may be cut within a character, and control frames may come between."""
    pair = Pair(deflate=deflate)
    text = "ä€😀".encode()
    for _ in range(2):
        pair.client.send_text(text[:1], fin=False)
        for i in range(1, len(text)):
            pair.client.send_ping(b"%d" % i)
            pair.client.send_continuation(text[i : i + 1], fin=False)
        pair.client.send_continuation(b"", fin=True)
        pair.client.send_binary(b"\xff", fin=False)
        pair.client.send_continuation(b"\xfe", fin=True)
    assert pair.deliver(bytewise=bytewise) == [text.decode(), b"\xff\xfe"] * 2
    assert [frame.opcode for frame in pair.answers()] == [Opcode.PONG] * 2 * (len(text) - 1)


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"a\xf4\x90\x80\x80"])
def test_text_that_is_not_utf8(text: bytes) -> None:
    pair = Pair()
    pair.client.send_text(b"before")
    pair.client.send_text(text)
    pair.client.send_text(b"after")
    assert pair.deliver() == ["before", Closed(1007)]
    pair.answers()
    assert pair.client.close_rcvd is not None and pair.client.close_rcvd.code == 1007


def test_text_that_is_not_utf8_fails_at_its_first_bad_byte() -> None:
    pair = Pair()
    pair.client.send_text(b"\xc3", fin=False)
    pair.client.send_continuation(b"\xc3", fin=False)
    pair.fails(1007)


def test_text_that_ends_within_a_character() -> None:
    pair = Pair()
    pair.client.send_text(b"\xc3", fin=False)
    pair.client.send_continuation(b"", fin=True)
    pair.fails(1007)


@pytest.mark.parametrize("deflate", [False, True])
def test_the_largest_message(deflate: bool) -> None:
    pair = Pair(deflate=deflate)
    pair.client.send_binary(b"1" * 1000)
    assert pair.deliver() == [b"1" * 1000]


# websockets wants some bytes to spare to inflate a last fragment, so a deflated message must be a little smaller.
@pytest.mark.parametrize(("deflate", "size"), [(False, 1000), (True, 990)])
def test_the_largest_message_in_fragments(deflate: bool, size: int) -> None:
    pair = Pair(deflate=deflate)
    pair.client.send_binary(b"1" * (size - 1), fin=False)
    pair.client.send_continuation(b"1", fin=True)
    assert pair.deliver() == [b"1" * size]


@pytest.mark.parametrize("deflate", [False, True])
def test_too_large_a_message(deflate: bool) -> None:
    pair = Pair(deflate=deflate)
    pair.client.send_binary(os.urandom(1001))
    pair.fails(1009)


@pytest.mark.parametrize("deflate", [False, True])
def test_too_large_in_fragments(deflate: bool) -> None:
    pair = Pair(deflate=deflate)
    pair.client.send_binary(b"1" * 600, fin=False)
    pair.client.send_continuation(b"1" * 401, fin=False)
    pair.fails(1009)


def test_too_large_when_inflated() -> None:
    pair = Pair(deflate=True)
    pair.client.send_text(b"1" * 100_000)
    data = b"".join(pair.client.data_to_send())
    assert len(data) < 1000
    assert list(pair.server.feed(data)) == [Closed(1009)]
    pair.answers()
    assert pair.client.close_rcvd is not None and pair.client.close_rcvd.code == 1009


@pytest.mark.parametrize(
    "data", [b"\x81\x00", b"\x83\x80\0\0\0\0", b"\x80\x80\0\0\0\0", b"\xc1\x80\0\0\0\0", b"\x09\x80\0\0\0\0"]
)
def test_frames_that_break_the_protocol(data: bytes) -> None:
    """Not masked, an unknown opcode, nothing to continue, deflated though not agreed, a control frame in fragments."""
    server = WebSocket(None, max_message=1000)
    assert list(server.feed(data)) == [Closed(1002)]


def test_a_ping_is_answered() -> None:
    pair = Pair()
    pair.client.send_ping(b"hello")
    assert pair.deliver() == []
    (pong,) = pair.answers()
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"hello")
    assert pair.server.data_to_send() == b""


def test_the_server_pings() -> None:
    pair = Pair()
    assert pair.server.ponged
    pair.server.ping()
    assert not pair.server.ponged
    assert [frame.opcode for frame in pair.answers()] == [Opcode.PING]
    assert pair.deliver() == [] and pair.server.ponged


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (4321, 4321), (None, 1005)])
def test_the_client_closes(code: int | None, seen: int) -> None:
    pair = Pair()
    pair.client.send_text(b"last")
    pair.client.send_close(code)
    assert pair.deliver() == ["last", Closed(seen)]
    assert not pair.server.open
    pair.answers()
    assert pair.client.close_rcvd is not None and pair.client.close_rcvd.code == seen


def test_the_server_closes() -> None:
    pair = Pair()
    pair.server.close(4001, "too slow")
    pair.server.close(1000, "again")
    assert not pair.server.open
    (close,) = pair.answers()
    assert (close.opcode, bytes(close.data)) == (Opcode.CLOSE, b"\x0f\xa1too slow")
    assert pair.deliver() == [Closed(4001)]


def handshake(client: ClientProtocol, *, deflate: bool = True) -> tuple[Response, Deflate | None]:
    """The response, as the client reads it, and the compression that was agreed on."""
    client.send_request(client.connect())
    request = parsed(b"".join(client.data_to_send()))
    agreement = accept(request, deflate=deflate)
    client.receive_data(agreement.answer(request.websocket_key))
    (response,) = client.events_received()
    assert isinstance(response, Response)
    return response, agreement.deflate


def parsed(data: bytes) -> Request:
    (request,) = RequestParser(HttpLimits(), "").feed(data)
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize(("asked", "deflate"), [(False, False), (False, True), (True, False), (True, True)])
def test_handshake(asked: bool, deflate: bool) -> None:
    client = ClientProtocol(parse_uri("ws://a/b"), extensions=[ClientPerMessageDeflateFactory()] if asked else None)
    response, agreed = handshake(client, deflate=deflate)
    assert response.status_code == 101 and client.state is State.OPEN
    assert (agreed is not None) == bool(client.extensions) == (asked and deflate)
    client.send_text(b"hello " * 30)
    server = WebSocket(agreed, max_message=1000)
    assert server.deflate == (asked and deflate)
    assert list(server.feed(b"".join(client.data_to_send()))) == ["hello " * 30]


@pytest.mark.parametrize(("bits", "agreed"), [(None, True), (15, True), (9, False)])
def test_a_smaller_window_of_the_server_is_declined(bits: int | None, agreed: bool) -> None:
    factory = ClientPerMessageDeflateFactory(server_max_window_bits=bits)
    client = ClientProtocol(parse_uri("ws://a/b"), extensions=[factory])
    response, deflate = handshake(client)
    assert (deflate is not None) == agreed
    offer = response.headers.get("Sec-WebSocket-Extensions", "")
    assert ("server_no_context_takeover; client_no_context_takeover" in offer) == agreed


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None), (["json"], "json"), (["json", "v1"], "json"), (["v1", "json"], "v1"),
        (["raiden.token.SECRET", "raiden"], "raiden"), (["Raiden.Token.SECRET"], None),
    ],
)  # fmt: skip
def test_a_subprotocol_that_the_client_offers_is_taken(offered: list[str], chosen: str | None) -> None:
    """The first, but never one that is a token. A browser wants one of its own."""
    protocols = [Subprotocol(each) for each in offered] or None
    for _ in range(2):
        client = ClientProtocol(parse_uri("ws://a/b"), subprotocols=protocols)
        response, _ = handshake(client)
        assert client.state is State.OPEN and client.subprotocol == chosen
        assert "SECRET" not in str(response.headers)


@pytest.mark.parametrize(
    ("change", "status"),
    [((b"Version: 13", b"Version: 8"), 400), ((b"Sec-WebSocket-Key", b"X"), 400), ((b"HTTP/1.1", b"HTTP/1.0"), 426)],
)
def test_what_is_no_handshake(change: tuple[bytes, bytes], status: int) -> None:
    client = ClientProtocol(parse_uri("ws://a/b"))
    client.send_request(client.connect())
    request = parsed(b"".join(client.data_to_send()).replace(*change))
    with pytest.raises(HttpError) as caught:
        accept(request, deflate=True)
    assert caught.value.status == status and caught.value.close
    assert ("Upgrade" in caught.value.headers) == (status == 426)
    assert ("Sec-WebSocket-Version" in caught.value.headers) == (b"Version: 8" in change)


def test_handshakes_are_what_the_library_makes_of_them() -> None:
    """Whether or not one like it came before, and whatever the fields are."""
    fields = {
        "Connection": ["Upgrade", "upgrade", "keep-alive, Upgrade", "close", "", "a b", "%b, Upgrade", None],
        "Sec-WebSocket-Version": ["13", "8", "", "13 ", None],
        "Sec-WebSocket-Key": [f"{'A' * 21}A==", f"{'A' * 21}B==", "dGhlIHNhbXBsZSBub25jZQ==", "", "x", None],
        "Sec-WebSocket-Extensions": [
            None, "permessage-deflate", "permessage-deflate; client_max_window_bits", "x%d, permessage-deflate", ";",
            "permessage-deflate; server_max_window_bits=9", "permessage-deflate; nonsense=1",
        ],
        "Sec-WebSocket-Protocol": [None, "chat", "a, b", "raiden.token.x, b%d", "Raiden.Token.x", ""],
        "X": [None, "1"],
    }  # fmt: skip
    rng = random.Random(1)
    came = []
    for _ in range(3000):
        lines = ["GET /a HTTP/1.1", "Host: a", "Upgrade: " + rng.choice(["websocket", "WebSocket"])]
        for name, values in fields.items():
            often = rng.random() < 0.6
            for value in [values[0]] if often else [rng.choice(values) for _ in range(rng.choice([1, 1, 1, 2]))]:
                lines += [] if value is None else [f"{name}: {value}"]
        try:
            requests = list(RequestParser(HttpLimits(), "").feed("\r\n".join([*lines, "", ""]).encode()))
        except UnicodeError:
            continue
        if not isinstance(requests[0], Request) or not requests[0].upgrade:
            continue
        outcomes: list[object] = []
        for judge in (partial(accept, deflate=True), partial(websocket._negotiate, deflate=True, known=None)):
            try:
                head, agreed = judge(requests[0])
                outcomes.append((sorted(head.split(b"\r\n")), agreed))
            except HttpError as error:
                outcomes.append((error.status, error.detail))
        assert outcomes[0] == outcomes[1], lines
        came.append(isinstance(outcomes[0][0], list))  # type: ignore[index]
    assert 300 < sum(came) < len(came) - 300
