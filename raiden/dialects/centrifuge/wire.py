"""The bytes between a client and the server: the messages in JSON or Protobuf, in the frames of WebSocket, in the lines
of an HTTP stream, or in server-sent events. Pure.

A message to the subscribers of a channel is encoded once for all of a kind (`raiden.model.encoding`), and so is what it
changes of the message before it, for those that have agreed to deltas. These get all data as text that stands in a JSON
string, or in Protobuf as bytes: the next delta is one of that text.
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec
from msgspec import Raw

from raiden.dialects.centrifuge import protobuf
from raiden.dialects.centrifuge.codes import BAD, Disconnected
from raiden.dialects.centrifuge.messages import EMPTY, ClientInfo, Command, EmulationRequest, Publication, Push, Reply
from raiden.dialects.centrifuge.protobuf import Malformed, delimited
from raiden.model.attributes import Attributes
from raiden.model.encoding import END_OF_CHUNKS, Encoding, chunk, deflated_frame, dumps, frame, json_value
from raiden.model.message import Kind, Message
from raiden.model.strict_json import InvalidPayload, json_payload
from raiden.protocols import fossil_delta

WEBSOCKET, STREAM, SSE = "websocket", "stream", "sse"
_TEXT_FRAME, _BINARY_FRAME = 0x81, 0x82
# The delta that clients may ask for.
FOSSIL: Final = "fossil"
# Bytes of the shortest data of which a delta is tried; bytes that tell that data is a delta.
SHORTEST: Final = 32
_TOLD: Final = len(b',"delta":true')
# Commands of one frame.
MAX_COMMANDS: Final = 1000
_COMMAND: Final = msgspec.json.Decoder(Command)
_EMULATION: Final = msgspec.json.Decoder(EmulationRequest)
_JSON: Final = msgspec.json.Encoder()


class Sender(msgspec.Struct, omit_defaults=True):
    """The client that published a message, as it stands among the message's attributes. The names of the first two are
    those of all doors; ``client`` is the id of its connection."""

    sub: str = ""
    info: Raw = EMPTY
    client: str = ""
    chan_info: Raw = EMPTY


_SENDER: Final = msgspec.json.Decoder(Sender)


def sender(info: ClientInfo) -> Raw:
    """The attribute that says which client has published a message."""
    return Raw(_JSON.encode(Sender(info.user, info.conn_info, info.client, info.chan_info)))


def _info(attributes: Attributes) -> ClientInfo | None:
    if not attributes.sender:
        return None
    try:
        known = _SENDER.decode(attributes.sender)
    except msgspec.DecodeError:  # another release may write it otherwise
        return None
    return ClientInfo(known.sub, known.client, known.info or EMPTY, known.chan_info or EMPTY)


class Wire:
    """One kind of connection: ``is_protobuf``, or JSON; over ``transport``, which is WebSocket, with messages that are
    compressed where that pays (``deflate``), or a body of HTTP that is chunked (``http10``: it is not)."""

    __slots__ = ("_deflate", "_http10", "deltas", "encoding", "is_protobuf", "transport")

    def __init__(self, transport: str, is_protobuf: bool, deflate: bool, http10: bool) -> None:
        self.transport = transport
        self.is_protobuf = is_protobuf
        self._deflate = deflate
        self._http10 = http10
        self.encoding = Encoding("centrifuge", self._pushed)
        # For subscriptions with deltas.
        self.deltas = Encoding("centrifuge", self._pushed_whole, change=self._pushed_delta)

    # What comes.

    def commands(self, data: bytes | str) -> list[Command]:
        """The commands of a frame; raises Disconnected."""
        try:
            if self.is_protobuf:
                parts = protobuf.split(data.encode() if isinstance(data, str) else data, MAX_COMMANDS)
                room = protobuf.Room()
                found = [protobuf.decode(part, Command, room) for part in parts]
            else:
                lines = (data if isinstance(data, str) else data.decode()).split("\n", MAX_COMMANDS + 1)
                found = [_COMMAND.decode(line) for line in lines if line.strip()]
        except (Malformed, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Disconnected(BAD) from None
        if not 0 < len(found) <= MAX_COMMANDS:
            raise Disconnected(BAD)
        return found

    def payload(self, channel: str, data: Raw) -> Message:
        """What a client publishes, as a message; raises InvalidPayload. By Protobuf, bytes that are no JSON are a
        message of bytes."""
        body = bytes(data)
        try:
            return Message(channel, Kind.JSON, json_payload(body))
        except InvalidPayload:
            if not self.is_protobuf:
                raise
        return Message(channel, Kind.BYTES, body)

    # What goes.

    def _data(self, message: Message) -> bytes:
        """The data of a message for this kind of client. Bytes are an object for those of JSON."""
        return message.payload if self.is_protobuf else json_value(message)

    def publication(self, message: Message, *, deltas: bool = False) -> Publication:
        """A message as this kind of client gets it, by a subscription without or with ``deltas``."""
        data = self._data(message)
        return _publication(message, self._text(data) if deltas else data)

    def _text(self, data: bytes) -> bytes:
        """Data, or a delta, as it stands in the publications of a subscription with deltas."""
        return data if self.is_protobuf else dumps(data.decode())

    def _pushed(self, message: Message) -> bytes:
        return self._pushed_as(message, self.publication(message))

    def _pushed_whole(self, message: Message) -> bytes:
        if self.is_protobuf:
            return self.encoding(message)
        return self._pushed_as(message, self.publication(message, deltas=True))

    def _pushed_delta(self, message: Message, before: Message) -> bytes:
        """A message as a delta, or whole where that is shorter."""
        delta = self._delta(message, before)
        if not delta:
            return self.deltas(message)
        publication = _publication(message, self._text(delta))
        publication.delta = True
        return self._pushed_as(message, publication)

    def _delta(self, message: Message, before: Message) -> bytes:
        """The delta between the data of two messages; b"" where it does not pay. It is kept with the message: wires of
        JSON have the same, and those of Protobuf, and all where both messages are JSON."""
        is_one = message.kind == Kind.JSON == before.kind
        key = (FOSSIL, is_one or self.is_protobuf)
        if message.encoded is None:
            message.encoded = {}
        delta = message.encoded.get(key)
        if delta is None:
            data = self._data(message)
            delta = fossil_delta.create(self._data(before), data) if len(data) >= SHORTEST else b""
            if len(delta) + _TOLD >= len(data):
                delta = b""
            message.encoded[key] = delta
        return delta

    def _pushed_as(self, message: Message, publication: Publication) -> bytes:
        return self._framed(self._encoded(Reply(push=Push(message.channel, publication))), self._deflate)

    def sent(self, reply: Reply) -> bytes:
        """The bytes of a reply or a push."""
        return self._framed(self._encoded(reply), False)

    @property
    def ping(self) -> bytes:
        """A message without anything, by which the server asks whether the client is there."""
        return self._framed(b"" if self.is_protobuf else b"{}", False)

    @property
    def beginning(self) -> bytes:
        """The bytes that let the head of a stream's answer leave, also through a proxy."""
        return self._chunked(b"\r\n") if self.transport == SSE else b""

    @property
    def end(self) -> bytes:
        """The end of a stream."""
        return b"" if self._http10 or self.transport == WEBSOCKET else END_OF_CHUNKS

    def _encoded(self, reply: Reply) -> bytes:
        return protobuf.encode(reply) if self.is_protobuf else _JSON.encode(reply)

    def _framed(self, data: bytes, deflate: bool) -> bytes:
        if self.is_protobuf:
            data = delimited(data)
        if self.transport == WEBSOCKET:
            opcode = _BINARY_FRAME if self.is_protobuf else _TEXT_FRAME
            return deflated_frame(opcode, data) if deflate else frame(opcode, data)
        if self.transport == SSE:
            return self._chunked(b"data: %b\n\n" % data)
        return self._chunked(data if self.is_protobuf else data + b"\n")

    def _chunked(self, data: bytes) -> bytes:
        return data if self._http10 else chunk(data)


def _publication(message: Message, data: bytes) -> Publication:
    offset = 0 if message.cursor is None else message.cursor.offset
    attributes = message.attributes
    if attributes is None:
        return Publication(Raw(data), None, offset)
    return Publication(Raw(data), _info(attributes), offset, attributes.tags)


@functools.cache
def wire(transport: str, is_protobuf: bool, deflate: bool = False, http10: bool = False) -> Wire:
    """The wire of a kind of connection: one object for all that are alike."""
    return Wire(transport, is_protobuf, deflate, http10)


def emulation(data: bytes, is_protobuf: bool) -> tuple[EmulationRequest, bytes]:
    """A frame that comes by a request of its own, and what is in it; raises Disconnected."""
    try:
        if is_protobuf:
            request = protobuf.decode(data, EmulationRequest)
            return request, bytes(request.data)
        request = _EMULATION.decode(data)
        return request, msgspec.json.decode(request.data, type=str).encode()
    except (Malformed, msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Disconnected(BAD) from None
