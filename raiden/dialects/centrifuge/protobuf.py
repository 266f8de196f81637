"""Protobuf, as far as the messages of the protocol need it: varints, and fields that are preceded by their length
(protobuf.dev/programming-guides/encoding). Pure.

The tables have the fields that messages know; others are passed over, as proto3 has it. Messages are within each other
as deeply as the tables say, and no deeper.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar

from msgspec import Raw

from raiden.dialects.centrifuge import messages as m

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}
# Fields of the messages of one frame: each takes a worker 3 us, also one that no message knows.
MAX_FIELDS: Final = 20_000
# Bytes of the longest varint, which has 64 bits.
_LONGEST: Final = 10
P = TypeVar("P", bound=m.Part)


class Malformed(ValueError):
    """The bytes are no message."""


class Room:
    """The number of fields that may still be read; one frame has one."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_FIELDS


class _Field(NamedTuple):
    """A field: its ``number`` and its name. ``kind`` is bool, int, str or Raw, or a message; of a map, whose keys are
    strings, that of the values. ``many`` is list or dict, or None for one value."""

    number: int
    name: str
    kind: Any
    many: type | None = None


def _of(*fields: tuple[Any, ...]) -> tuple[_Field, ...]:
    return tuple([_Field(*field) for field in fields])


_INFO: Final = ((1, "info", m.ClientInfo),)
_TTL: Final = ((1, "expires", bool), (2, "ttl", int))
_FIELDS: Final[dict[type, tuple[_Field, ...]]] = {
    m.StreamPosition: _of((1, "offset", int), (2, "epoch", str)),
    m.SubscribeRequest: _of(
        (1, "channel", str), (2, "token", str), (3, "recover", bool), (6, "epoch", str), (7, "offset", int),
        (11, "join_leave", bool), (12, "delta", str), (13, "tf", Raw), (14, "flag", int), (15, "type", int),
    ),
    m.ConnectRequest: _of(
        (1, "token", str), (2, "data", Raw), (3, "subs", m.SubscribeRequest, dict), (4, "name", str),
        (5, "version", str),
    ),
    m.UnsubscribeRequest: _of((1, "channel", str)),
    m.PublishRequest: _of((1, "channel", str), (2, "data", Raw), (3, "type", int)),
    m.PresenceRequest: _of((1, "channel", str)),
    m.PresenceStatsRequest: _of((1, "channel", str)),
    m.HistoryRequest: _of(
        (1, "channel", str), (7, "limit", int), (8, "since", m.StreamPosition), (9, "reverse", bool)
    ),
    m.RefreshRequest: _of((1, "token", str)),
    m.SubRefreshRequest: _of((1, "channel", str), (2, "token", str), (3, "type", int)),
    m.PingRequest: (),
    m.SendRequest: _of((1, "data", Raw)),
    m.RPCRequest: _of((1, "data", Raw), (2, "method", str)),
    m.Command: _of(
        (1, "id", int), (4, "connect", m.ConnectRequest), (5, "subscribe", m.SubscribeRequest),
        (6, "unsubscribe", m.UnsubscribeRequest), (7, "publish", m.PublishRequest),
        (8, "presence", m.PresenceRequest), (9, "presence_stats", m.PresenceStatsRequest),
        (10, "history", m.HistoryRequest), (11, "ping", m.PingRequest), (12, "send", m.SendRequest),
        (13, "rpc", m.RPCRequest), (14, "refresh", m.RefreshRequest), (15, "sub_refresh", m.SubRefreshRequest),
    ),
    m.EmulationRequest: _of((1, "node", str), (2, "session", str), (3, "data", Raw)),
    m.Error: _of((1, "code", int), (2, "message", str), (3, "temporary", bool)),
    m.ClientInfo: _of((1, "user", str), (2, "client", str), (3, "conn_info", Raw), (4, "chan_info", Raw)),
    m.Publication: _of(
        (4, "data", Raw), (5, "info", m.ClientInfo), (6, "offset", int), (7, "tags", str, dict), (8, "delta", bool)
    ),
    m.Join: _of(*_INFO),
    m.Leave: _of(*_INFO),
    m.Unsubscribe: _of((2, "code", int), (3, "reason", str)),
    m.Subscribe: _of(
        (1, "recoverable", bool), (4, "epoch", str), (5, "offset", int), (6, "positioned", bool), (7, "data", Raw)
    ),
    m.Disconnect: _of((1, "code", int), (2, "reason", str)),
    m.Refresh: _of(*_TTL),
    m.Push: _of(
        (2, "channel", str), (4, "pub", m.Publication), (5, "join", m.Join), (6, "leave", m.Leave),
        (7, "unsubscribe", m.Unsubscribe), (9, "subscribe", m.Subscribe), (11, "disconnect", m.Disconnect),
        (12, "refresh", m.Refresh),
    ),
    m.SubscribeResult: _of(
        *_TTL, (3, "recoverable", bool), (6, "epoch", str), (7, "publications", m.Publication, list),
        (8, "recovered", bool), (9, "offset", int), (10, "positioned", bool), (11, "data", Raw),
        (12, "was_recovering", bool), (13, "delta", bool),
    ),
    m.ConnectResult: _of(
        (1, "client", str), (2, "version", str), (3, "expires", bool), (4, "ttl", int),
        (6, "subs", m.SubscribeResult, dict), (7, "ping", int), (8, "pong", bool), (9, "session", str),
        (10, "node", str),
    ),
    m.UnsubscribeResult: (),
    m.PublishResult: (),
    m.PresenceResult: _of((1, "presence", m.ClientInfo, dict)),
    m.PresenceStatsResult: _of((1, "num_clients", int), (2, "num_users", int)),
    m.HistoryResult: _of((1, "publications", m.Publication, list), (2, "epoch", str), (3, "offset", int)),
    m.RefreshResult: _of((1, "client", str), (2, "version", str), (3, "expires", bool), (4, "ttl", int)),
    m.SubRefreshResult: _of(*_TTL),
    m.Reply: _of(
        (1, "id", int), (2, "error", m.Error), (4, "push", m.Push), (5, "connect", m.ConnectResult),
        (6, "subscribe", m.SubscribeResult), (7, "unsubscribe", m.UnsubscribeResult), (8, "publish", m.PublishResult),
        (9, "presence", m.PresenceResult), (10, "presence_stats", m.PresenceStatsResult),
        (11, "history", m.HistoryResult), (14, "refresh", m.RefreshResult), (15, "sub_refresh", m.SubRefreshResult),
    ),
}  # fmt: skip
_BY_NUMBER: Final = {kind: {field.number: field for field in fields} for kind, fields in _FIELDS.items()}


def varint(value: int) -> bytes:
    """A number of 64 bits in seven-bit groups, the lowest first."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(data: bytes) -> bytes:
    """A message preceded by its length."""
    return varint(len(data)) + data


def encode(message: m.Part) -> bytes:
    """The bytes of a message; fields that have their defaults are left out."""
    out: list[bytes] = []
    for number, name, kind, many in _FIELDS[type(message)]:
        value = getattr(message, name)
        if many is dict:
            for key, each in value.items():
                entry = _field(1, key, str) + _field(2, each, kind)
                out.append(_field(number, Raw(entry), Raw))
        elif many is list:
            out += [_field(number, each, kind) for each in value]
        elif value or (value is not None and kind in _FIELDS):
            out.append(_field(number, value, kind))
    return b"".join(out)


def _field(number: int, value: Any, kind: Any) -> bytes:
    if kind is int or kind is bool:
        return varint(number << 3 | _VARINT) + varint(int(value))
    data = value.encode() if kind is str else bytes(value) if kind is Raw else encode(value)
    return varint(number << 3 | _BYTES) + delimited(data)


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it; raises Malformed."""
    value = 0
    for shift, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            if value >> 64:
                break
            return value, at + shift + 1
    raise Malformed("a number is cut off, or too large")


def _bytes_at(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _varint_at(data, at)
    if size > len(data) - at:
        raise Malformed("a field is cut off")
    return data[at : at + size], at + size


def split(data: bytes, most: int) -> list[bytes]:
    """The messages, at most so many, that stand one behind the other, each preceded by its length; raises
    Malformed."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        if len(found) >= most:
            raise Malformed("too many messages")
        message, at = _bytes_at(data, at)
        found.append(message)
    return found


def _value(kind: Any, found: int | bytes, room: Room) -> Any:
    """A value of a kind from what stands in a field; raises Malformed for another kind of field."""
    if kind is bool or kind is int:
        if not isinstance(found, int):
            raise Malformed("a field that is no number")
        signed = found - (1 << 64) if found >> 63 else found
        return bool(found) if kind is bool else signed
    if not isinstance(found, bytes):
        raise Malformed("a field that is a number")
    if kind is str:
        return found.decode()
    return Raw(found) if kind is Raw else decode(found, kind, room)


def _entry(data: bytes, kind: Any, room: Room) -> tuple[str, Any]:
    """A key of a map and its value."""
    key, value = "", None
    for number, found in _fields(data, room):
        if number == 1:
            key = _value(str, found, room)
        elif number == 2:
            value = _value(kind, found, room)
    return key, _value(kind, b"", room) if value is None else value


def _fields(data: bytes, room: Room) -> list[tuple[int, int | bytes]]:
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        room.left -= 1
        if room.left < 0:
            raise Malformed("too many fields")
        tag, at = _varint_at(data, at)
        wire = tag & 7
        value: int | bytes
        if wire == _VARINT:
            value, at = _varint_at(data, at)
        elif wire == _BYTES:
            value, at = _bytes_at(data, at)
        elif wire in _FIXED and at + _FIXED[wire] <= len(data):
            at += _FIXED[wire]
            continue  # no message has such a field
        else:
            raise Malformed("a field of an unknown kind")
        found.append((tag >> 3, value))
    return found


def decode(data: bytes, kind: type[P], room: Room | None = None) -> P:
    """Read a message; raises Malformed. ``room`` is that of a frame with more messages."""
    room = room or Room()
    known = _BY_NUMBER[kind]
    values: dict[str, Any] = {}
    try:
        for number, found in _fields(data, room):
            field = known.get(number)
            if field is None:
                continue
            if field.many is dict:
                if not isinstance(found, bytes):
                    raise Malformed("a field that is a number")
                key, value = _entry(found, field.kind, room)
                values.setdefault(field.name, {})[key] = value
            elif field.many is list:
                values.setdefault(field.name, []).append(_value(field.kind, found, room))
            else:
                values[field.name] = _value(field.kind, found, room)
        return kind(**values)
    except UnicodeDecodeError as error:
        raise Malformed(str(error)) from None
