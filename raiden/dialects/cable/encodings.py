"""Messages of a stream as a client gets them, under the identifier by which it follows the stream.

Most clients of a stream use the same identifier, so equal ones share an `Encoding`. A client may make any number of
identifiers, so an encoding is kept only for as long as a subscription has it, and all share what takes long: a message
is compressed once, behind beginnings that are compressed already.
"""

from __future__ import annotations

import base64
from typing import Final, NamedTuple

from raiden.model.encoding import (
    MIN_DEFLATE_BYTES,
    TEXT_FRAME,
    Encoding,
    deflated,
    dumps,
    json_value,
    shorter_frame,
    text_frame,
)
from raiden.model.message import Kind, Message


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
    rest, short_rest = _RESTS[form.has_positions]
    if not form.deflate:
        return Encoding("websocket", lambda message: text_frame(begin + rest(message)))
    short_begin = deflated(begin)

    def encode(message: Message) -> bytes:
        data = begin + rest(message)
        if len(data) < MIN_DEFLATE_BYTES:
            return text_frame(data)
        return shorter_frame(TEXT_FRAME, data, short_begin + short_rest(message))

    return Encoding("websocket", encode)


def _rest(has_positions: bool) -> tuple[Encoding, Encoding]:
    """What stands behind the beginning of a message, plain and compressed: clients may make any number of identifiers,
    and a message is to be compressed once for all of them."""

    def encode(message: Message) -> bytes:
        return _value(message) + (_position(message) if has_positions else b"") + b"}"

    rest = Encoding("cable", encode)
    return rest, Encoding("cable", lambda message: deflated(rest(message)))


def _value(message: Message) -> bytes:
    if message.kind == Kind.BYTES:
        return b'"%b"' % base64.b64encode(message.payload)
    return json_value(message)


def _position(message: Message) -> bytes:
    cursor = message.cursor
    if cursor is None:
        return b""
    return b',"stream_id":%b,"epoch":"%b","offset":%d' % (dumps(message.channel), cursor.epoch.encode(), cursor.offset)


_RESTS: Final = {has_positions: _rest(has_positions) for has_positions in (False, True)}
