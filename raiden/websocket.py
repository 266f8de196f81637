"""WebSocket without sockets: the handshake, and bytes in, messages out (RFC 6455, RFC 7692).

`websockets` parses frames, answers pings and closes; here messages are put together from their fragments and text is
checked to be UTF-8. What goes out in a broadcast is encoded by `raiden.encoding` and never passes through here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter

from raiden.http import HttpError, Request


class _SharedDeflate(ServerPerMessageDeflateFactory):
    """permessage-deflate without context takeover on either side: a broadcast is compressed once for all, and no
    connection keeps a window. An offer that wants a smaller window of the server is declined (RFC 7692 section
    7.1.2.1), since others share the bytes."""

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        if any(name == "server_max_window_bits" and value != "15" for name, value in params):
            raise NegotiationError("frames are compressed for all with a window of 15 bits")
        return super().process_request_params(params, accepted_extensions)


_DEFLATE = [_SharedDeflate(server_no_context_takeover=True, client_no_context_takeover=True)]

POLICY, INVALID_TEXT, TRY_LATER = 1008, 1007, 1013
SLOW_CONSUMER, DRAINING, PING_TIMEOUT, MISSED, CHANNEL_DELETED = 4001, 4002, 4003, 4004, 4504


class Closed(NamedTuple):
    """The peer has closed, or the connection failed and a close frame waits in `WebSocket.data_to_send`."""

    code: int


def accept(request: Request, *, deflate: bool) -> tuple[bytes, list[object]]:
    """The handshake's answer and the agreed extensions; raises HttpError if the request is no valid handshake."""
    negotiation = ServerProtocol(extensions=_DEFLATE if deflate else None)
    if request.http10:
        raise HttpError(426, "WebSocket needs HTTP/1.1", close=True, headers={"Upgrade": "websocket"})
    response = negotiation.accept(
        Handshake(request.environ["raiden.path"], Headers(request.raw_headers), request.method)
    )
    if response.status_code != 101:
        reason = str(negotiation.handshake_exc)
        headers = {"Upgrade": "websocket"} if response.status_code == 426 else {}
        if "Sec-WebSocket-Version" in reason:
            headers["Sec-WebSocket-Version"] = "13"
        raise HttpError(response.status_code, f"not a WebSocket handshake: {reason}", close=True, headers=headers)
    return response.serialize(), list(negotiation.extensions)


class WebSocket:
    """One connection after the handshake. ``max_message`` is in bytes, counted after inflating."""

    __slots__ = ("_decoder", "_message", "_protocol", "_text", "deflate", "ponged")

    def __init__(self, extensions: list[object], *, max_message: int) -> None:
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_message)
        self._protocol.extensions = extensions  # type: ignore[assignment]
        self.deflate = bool(extensions)
        self.ponged = True
        self._message = bytearray()
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text = False

    @property
    def open(self) -> bool:
        return self._protocol.state is State.OPEN

    def feed(self, data: bytes) -> Iterator[object]:
        """Yield each message, ``str`` or ``bytes``, and as the last thing `Closed`."""
        self._protocol.receive_data(data)
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)  # handshakes are events too, but this one is over
            if frame.opcode is Opcode.PONG:
                self.ponged = True
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                try:
                    message = self._assemble(frame)
                except UnicodeDecodeError:
                    self._protocol.fail(INVALID_TEXT, "text that is not UTF-8")
                    break
                if message is not None:
                    yield message
        if not self.open:
            close = self._protocol.close_rcvd or self._protocol.close_sent
            yield Closed(close.code if close else 1006)

    def _assemble(self, frame: Frame) -> str | bytes | None:
        """The message that the frame completes, if it does; raises UnicodeDecodeError at the first bad byte."""
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            if frame.fin:
                return bytes(frame.data).decode() if self._text else bytes(frame.data)
            self._decoder = codecs.getincrementaldecoder("utf-8")() if self._text else None
        if self._decoder is not None:
            self._decoder.decode(frame.data, frame.fin)
        self._message += frame.data
        if not frame.fin:
            return None
        data, self._message = self._message, bytearray()
        return data.decode() if self._text else bytes(data)

    def ping(self) -> None:
        """Send a ping; `ponged` tells whether its answer has come."""
        self.ponged = False
        self._protocol.send_ping(b"")

    def close(self, code: int, reason: str) -> None:
        if self.open:
            self._protocol.send_close(code, reason)

    def data_to_send(self) -> bytes:
        """What the protocol has to say by itself: pongs, pings, closes."""
        return b"".join(self._protocol.data_to_send())
