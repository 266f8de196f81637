"""Messages of a stream as a client gets them, under the identifier by which it follows the stream.

Most clients of a stream use the same identifier, so equal ones share an `Encoding`. A client may make any number of
identifiers, so an encoding is kept only for as long as a subscription has it.
"""

from __future__ import annotations

import base64
from typing import Final, NamedTuple

from raiden.model.encoding import Encoding, deflated_frame, dumps, json_value, text_frame
from raiden.model.message import Kind, Message

# The first byte of a text frame in one piece (RFC 6455 section 5.2).
_TEXT: Final = 0x81


class Form(NamedTuple):
    """The form of a stream's messages: the identifier, whether they show their positions, and whether the client takes
    compressed frames."""

    identifier: str
    has_positions: bool
    deflate: bool


class Encodings:
    """The encodings that subscriptions of a worker have, by their forms."""

    def __init__(self) -> None:
        self._used: dict[Form, tuple[Encoding, int]] = {}

    def __len__(self) -> int:
        return len(self._used)

    def take(self, form: Form) -> Encoding:
        """The encoding of a form, for one more subscription."""
        encoding, users = self._used.get(form) or (_made(form), 0)
        self._used[form] = encoding, users + 1
        return encoding

    def give_back(self, form: Form) -> None:
        """A subscription has its encoding no more."""
        encoding, users = self._used[form]
        if users > 1:
            self._used[form] = encoding, users - 1
        else:
            del self._used[form]


def _made(form: Form) -> Encoding:
    begin = b'{"identifier":%b,"message":' % dumps(form.identifier)
    has_positions, deflate = form.has_positions, form.deflate

    def encode(message: Message) -> bytes:
        data = begin + _value(message) + (_position(message) if has_positions else b"") + b"}"
        return deflated_frame(_TEXT, data) if deflate else text_frame(data)

    return Encoding("websocket", encode)


def _value(message: Message) -> bytes:
    if message.kind == Kind.BYTES:
        return b'"%b"' % base64.b64encode(message.payload)
    return json_value(message)


def _position(message: Message) -> bytes:
    cursor = message.cursor
    if cursor is None:
        return b""
    return b',"stream_id":%b,"epoch":"%b","offset":%d' % (dumps(message.channel), cursor.epoch.encode(), cursor.offset)
