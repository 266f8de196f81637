"""WebSocket without sockets: the handshake, and bytes in, messages out (RFC 6455, RFC 7692).

`websockets` parses frames, answers pings and closes; here messages are put together from their fragments and text is
checked to be UTF-8. Broadcast messages are encoded by `raiden.model.encoding` and never pass through here.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter, Subprotocol
from websockets.utils import accept_key, apply_mask

from raiden.protocols.http import HttpError, Request, date
from raiden.protocols.unfinished import FULL, Full, Share, Unfinished


class _SharedDeflate(ServerPerMessageDeflateFactory):
    """permessage-deflate without context takeover on either side: a broadcast is compressed once for all, and no
    connection keeps a window. An offer that asks the server for a smaller window is declined (RFC 7692 section
    7.1.2.1), since others share the bytes."""

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        if any(name == "server_max_window_bits" and value != "15" for name, value in params):
            raise NegotiationError("frames are compressed for all with a window of 15 bits")
        return super().process_request_params(params, accepted_extensions)


_DEFLATE = [_SharedDeflate(server_no_context_takeover=True, client_no_context_takeover=True)]
# The beginning of subprotocols that are tokens, which no answer repeats.
TOKEN = "raiden.token."


class _Negotiation(ServerProtocol):
    """The handshake. The first subprotocol that a client offers is taken (no token): to Raiden they mean nothing, but a
    browser drops a connection if it has offered some and gets none of them (the WebSockets standard of the WHATWG,
    section 2, "establish a WebSocket connection"). Where they mean something, ``known`` are those that do: the first of
    these that the client offers is taken, or none."""

    def __init__(self, deflate: bool, known: Sequence[str] | None) -> None:
        super().__init__(extensions=_DEFLATE if deflate else None)
        self._known = known

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        if self._known is not None:
            return next((Subprotocol(each) for each in self._known if each in subprotocols), None)
        return next((each for each in subprotocols if not each.lower().startswith(TOKEN)), None)


POLICY: Final = 1008
INVALID_TEXT: Final = 1007
TOO_LARGE: Final = 1009
TRY_LATER: Final = 1013
SLOW_CONSUMER: Final = 4001
DRAINING: Final = 4002
PING_TIMEOUT: Final = 4003
MISSED: Final = 4004
EXPIRED: Final = 4401
FORBIDDEN: Final = 4503
CHANNEL_DELETED: Final = 4504
CHANNEL_ENDED: Final = 4505


class Closed(NamedTuple):
    """The peer has closed, or the connection failed and a close frame waits in `WebSocket.data_to_send`."""

    code: int


class Deflate(NamedTuple):
    """The parameters agreed on for permessage-deflate, as `PerMessageDeflate` takes them."""

    remote_no_context_takeover: bool
    local_no_context_takeover: bool
    remote_max_window_bits: int
    local_max_window_bits: int


class Agreement(NamedTuple):
    """The result of a handshake: the head of its answer, without the date and the answer to the key, and the parameters
    of compression. It is shared by all clients of a kind, because few kinds of client connect again and again."""

    head: bytes
    deflate: Deflate | None

    def answer(self, key: str) -> bytes:
        return self.head % (date().encode(), accept_key(key).encode())


def accept(request: Request, *, deflate: bool, subprotocols: tuple[str, ...] | None = None) -> Agreement:
    """Agree to a handshake; raises HttpError if the request is no valid one. Of ``subprotocols`` the first that the
    client offers is taken, or none; None: the first that it offers, whatever that is."""
    fields = request.fields
    single = len(fields) == len(request.raw_headers) and not request.http10  # no field is repeated
    offered = fields.get("sec-websocket-protocol")
    if offered is not None and subprotocols is not None:
        # What stands beside the known ones changes nothing, and may be a token, which no table should hold.
        offered = ", ".join([each for each in subprotocols_of(request) if each in subprotocols]) or None
    if single and (offered is None or TOKEN not in offered.lower()):
        decisive = [fields.get(name.lower()) for name in _DECISIVE[:-1]]
        agreement = _agree(*decisive, offered, deflate, subprotocols)
        if agreement is not None and _KEY.fullmatch(fields.get("sec-websocket-key", "")):
            return agreement
    return _negotiate(request, deflate, subprotocols)


def subprotocols_of(request: Request) -> list[str]:
    """The subprotocols that a client offers (RFC 6455 section 11.3.4)."""
    told = [value for name, value in request.raw_headers if name.lower() == "sec-websocket-protocol"]
    return [each for part in ",".join(told).split(",") if (each := part.strip())]


# The fields that decide the result of a handshake, besides the key.
_DECISIVE = (
    "Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol",
)  # fmt: skip
# 16 bytes in base64, which end with four bits that are 0 (RFC 4648 section 4).
_KEY = re.compile("[A-Za-z0-9+/]{21}[AQgw]==")


@functools.lru_cache(256)
def _agree(
    connection: str | None, upgrade: str | None, version: str | None, extensions: str | None, protocols: str | None,
    deflate: bool, known: tuple[str, ...] | None,
) -> Agreement | None:  # fmt: skip
    """The agreement of handshakes with these fields; None: they are no valid handshake. To negotiate takes longer than
    all else about a connection."""
    named = zip(_DECISIVE, (connection, upgrade, version, extensions, protocols), strict=True)
    headers = Headers([("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="), *((n, v) for n, v in named if v is not None)])
    negotiation = _Negotiation(deflate, known)
    response = negotiation.accept(Handshake("/", headers, "GET"))
    if response.status_code == 101:
        return _agreement(negotiation, response)
    _reason(negotiation)
    return None


def _reason(negotiation: ServerProtocol) -> str:
    """The reason why a handshake is none. Its exception gives back its frames, which would keep it, as a cycle."""
    error = negotiation.handshake_exc
    reason = str(error)
    if error is not None:
        error.__context__ = error.__cause__ = None
        error.with_traceback(None)
    return reason


def _agreement(negotiation: ServerProtocol, response: Response) -> Agreement:
    fields = [f"{name}: {value}\r\n" for name, value in response.headers.raw_items()
              if name not in ("Date", "Sec-WebSocket-Accept")]  # fmt: skip
    rest = "".join(fields).replace("%", "%%").encode()
    head = b"HTTP/1.1 101 Switching Protocols\r\nDate: %b\r\n" + rest + b"Sec-WebSocket-Accept: %b\r\n\r\n"
    for extension in negotiation.extensions:
        return Agreement(head, Deflate(*(getattr(extension, name) for name in Deflate._fields)))
    return Agreement(head, None)


def _negotiate(request: Request, deflate: bool, known: tuple[str, ...] | None) -> Agreement:
    negotiation = _Negotiation(deflate, known)
    if request.http10:
        raise HttpError(426, "WebSocket needs HTTP/1.1", close=True, headers={"Upgrade": "websocket"})
    response = negotiation.accept(
        Handshake(request.environ["raiden.path"], Headers(request.raw_headers), request.method)
    )
    if response.status_code != 101:
        reason = _reason(negotiation)
        headers = {"Upgrade": "websocket"} if response.status_code == 426 else {}
        if "Sec-WebSocket-Version" in reason:
            headers["Sec-WebSocket-Version"] = "13"
        raise HttpError(response.status_code, f"not a WebSocket handshake: {reason}", close=True, headers=headers)
    return _agreement(negotiation, response)


# A ping without data; the beginning of its answer, up to the mask; the bytes of that answer.
_PING, _PONG, _PONG_BYTES = b"\x89\x00", b"\x8a\x80", 6


# The first byte of a text in one frame (RFC 6455 section 5.2).
_TEXT: Final = 0x81
# Bytes that inflating takes for a message whose fragments have not all come: zlib's state and its window.
_INFLATER = 40_000


def _whole_text(data: bytes, at: int, most: int) -> tuple[str, int] | None:
    """A text of at most ``most`` bytes that begins at this place, in one frame that has come whole and is not
    compressed, and the place behind it; None: something else stands there."""
    if len(data) - at < 6 or data[at] != _TEXT:
        return None
    size, begin = data[at + 1] & 0x7F, at + 6
    if size == 126:
        size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
    end = begin + size
    if not data[at + 1] & 0x80 or size == 127 or (begin == at + 8 and size < 126) or size > most or end > len(data):
        return None
    try:
        return apply_mask(data[begin:end], data[begin - 4 : begin]).decode(), end
    except UnicodeDecodeError:
        return None


class WebSocket:
    """WebSocket on one connection, after the handshake. ``max_message`` is in bytes, counted after inflating; a message
    is `late` after ``timeout`` seconds. ``unfinished`` is the sum of the bytes that all connections hold of unfinished
    messages. As long as the peer sends nothing but pongs, and texts in one frame, as subscribers do, there is no
    `Protocol`: it would be most of the cost of an idle connection."""

    __slots__ = (
        "_decoder", "_max_message", "_message", "_pings", "_protocol", "_settings", "_share", "_text", "_timeout",
        "_unfinished", "heard", "ponged",
    )  # fmt: skip

    def __init__(
        self, deflate: Deflate | None, *, max_message: int, timeout: float = 30.0, unfinished: Unfinished | None = None
    ) -> None:  # fmt: skip
        self._settings = deflate
        self._max_message = max_message
        self._timeout = timeout
        self._unfinished = unfinished or Unfinished()
        self._share: Share | None = None
        self._protocol: Protocol | None = None
        self._pings = b""
        # Whether anything has come since the last ping, and whether its answer has: a peer amid a large frame can't
        # pong.
        self.heard = self.ponged = True
        self._message: bytearray | bytes = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text = False

    @property
    def deflate(self) -> bool:
        return self._settings is not None

    def _begun(self) -> Protocol:
        if self._protocol is None:
            self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=self._max_message)
            self._protocol.extensions = [] if self._settings is None else [PerMessageDeflate(*self._settings)]
        return self._protocol

    @property
    def open(self) -> bool:
        return self._protocol is None or self._protocol.state is State.OPEN

    def feed(self, data: bytes) -> Iterator[object]:
        """Yield each message, ``str`` or ``bytes``, and as the last thing `Closed`."""
        self.heard = True
        if self._protocol is None and len(data) == _PONG_BYTES and data.startswith(_PONG):
            self.ponged = True
            return
        if self._protocol is None:
            at = 0
            while (found := _whole_text(data, at, self._max_message)) is not None:
                text, at = found
                yield text
                if not self.open:
                    return  # the message has closed it
            if at == len(data):
                return
            data = data[at:]
        protocol = self._begun()
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)  # handshakes are events too, but this one is over
            if frame.opcode is Opcode.PONG:
                self.ponged = True
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                try:
                    message = self._assemble(frame)
                except UnicodeDecodeError:
                    protocol.fail(INVALID_TEXT, "text that is not UTF-8")
                    break
                if message is not None:
                    self._release()  # the next bytes are another message's
                    yield message
        self._hold(protocol)
        if not self.open:
            close = protocol.close_rcvd or protocol.close_sent
            yield Closed(close.code if close else 1006)

    def forget(self) -> None:
        """Drop all that has come: it is of no use, and nothing more comes."""
        if self._protocol is not None:
            self._protocol.parser.close()  # it and the protocol refer to each other
            self._protocol.reader.buffer.clear()
            self._protocol.parser_exc = None  # its traceback refers to the data that was too much, and to the protocol
        self._message = b""
        self._release()

    @property
    def late(self) -> bool:
        """Whether a message has begun whose rest should have come by now."""
        return self._share is not None and self._share.left(self._timeout) <= 0

    def _hold(self, protocol: Protocol) -> None:
        """Count the bytes of a message that has not come whole; where all connections' together are too many, this one
        fails."""
        size = len(protocol.reader.buffer) + len(self._message) if self.open else 0
        if size and any([isinstance(e, PerMessageDeflate) and e.decode_cont_data for e in protocol.extensions]):
            size += _INFLATER
        try:
            self._share = self._unfinished.hold(self._share, size)
        except Full:
            self._share = None
            protocol.fail(TRY_LATER, FULL)

    def _release(self) -> None:
        if self._share is not None:
            self._share = self._unfinished.hold(self._share, 0)

    def _assemble(self, frame: Frame) -> str | bytes | None:
        """The message that the frame completes, if it does; raises UnicodeDecodeError at the first bad byte."""
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            if frame.fin:
                return bytes(frame.data).decode() if self._text else bytes(frame.data)
            self._decoder = codecs.getincrementaldecoder("utf-8")() if self._text else None
            self._message = bytearray()
        if self._decoder is not None:
            self._decoder.decode(frame.data, frame.fin)
        self._message += frame.data
        if not frame.fin:
            return None
        data, self._message = self._message, b""
        return data.decode() if self._text else bytes(data)

    def ping(self) -> None:
        """Send a ping, unless the last one's answer is still to come; `ponged` tells whether it has come."""
        self.heard = False
        if self.ponged:
            self.ponged = False
            self._pings += _PING

    def close(self, code: int, reason: str) -> None:
        if self.open:
            self._begun().send_close(code, reason)

    def data_to_send(self) -> bytes:
        """Return the bytes that the protocol itself has to send: pongs, pings, closes."""
        data, self._pings = self._pings, b""
        return data if self._protocol is None else data + b"".join(self._protocol.data_to_send())
