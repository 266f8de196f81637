"""Requests of clients of streams, read: header fields and body to terms and messages. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from raiden.dialects.streams import places
from raiden.history.streams import (
    MAX_NUMBER,
    MAX_PRODUCER,
    MAX_TYPE,
    Add,
    Fork,
    Make,
    Producer,
    is_json,
)
from raiden.http.headers import one
from raiden.http.parameters import query_pairs
from raiden.model.message import Cursor, Kind, Message
from raiden.model.names import check_channel, unquote
from raiden.model.payload import end_of, with_end
from raiden.model.refusals import Invalid, NotFound, Refusal, TooLarge
from raiden.model.strict_json import elements, json_payload
from raiden.protocols.http import Request

# The path below which streams are, and the part of it that the protocol keeps for itself (section 6).
PREFIX: Final = "/v1/stream/"
_RESERVED: Final = "__ds"
DEFAULT_TYPE: Final = "application/octet-stream"
# The most messages of one append: each takes the worker and the history 10 us.
MAX_MESSAGES: Final = 10_000
# The most seconds of a ttl.
_MAX_TTL: Final = 10**10
_MAX_OFFSET: Final = 1 << 62
# The actions that requests need, by method; a live read needs more.
_ACTIONS: Final = {"PUT": "publish", "POST": "publish", "GET": "history", "HEAD": "history", "DELETE": "manage"}

_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+\s*(;.*)?", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]*")
_DIGITS = re.compile(r"[0-9]{1,16}")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # RFC 3339 section 5.6
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)


class Look(NamedTuple):
    """A request to read: from ``place`` on (None: the tail), which is ``text`` as it was given. ``live`` is "",
    "long-poll" or "sse", and ``cursor`` as the client has it."""

    place: Cursor | None
    text: str
    live: str
    cursor: str | None


def channel(path: str, prefix: str) -> str:
    """The channel of a stream by its path, decoded as `webob.Request.path_info` is. Raises Invalid and NotFound."""
    try:
        name = path.removeprefix(PREFIX).encode("latin-1").decode()
    except UnicodeDecodeError:
        raise Invalid("the path is not UTF-8") from None
    if name.partition("/")[0] == _RESERVED:
        raise NotFound(f"{PREFIX}{_RESERVED} is not served here")
    return check_channel(prefix + name) if name else check_channel("")


def asked(request: Request, prefix: str) -> tuple[str, str]:
    """The action that a request is for, and its channel, as the audit log calls them; "": the path is none's."""
    action = _ACTIONS.get(request.method or "", "")
    if action == "history" and "live=" in request.environ["QUERY_STRING"]:
        action = "subscribe"
    try:
        return action, channel(request.environ["PATH_INFO"], prefix)
    except Refusal:
        return action, ""


def look(request: Request) -> Look:
    """The reading that a GET asks for. Raises Invalid."""
    query = query_pairs(request)
    offsets = [value for name, value in query if name == "offset"]
    given = dict(query)
    live = given.get("live", "")
    if live not in ("", "long-poll", "sse"):
        raise Invalid("live is long-poll or sse")
    if len(offsets) > 1:
        raise Invalid("more than one offset: send one")
    if not offsets and live:
        raise Invalid("a live read needs an offset: -1, now, or a Stream-Next-Offset")
    text = offsets[0] if offsets else "-1"
    place = places.START if text == "-1" else None if text == "now" else places.parse(text)
    return Look(place, text, live, given.get("cursor"))


def closes(request: Request) -> bool:
    """Whether a request is to close its stream: any other value of the field is as if it were not there."""
    return request.fields.get("stream-closed", "").strip().lower() == "true"


def make(request: Request, prefix: str) -> Make:
    """The terms of a PUT. Raises Invalid."""
    fork = _fork(request, prefix)
    ttl, expires, text = -1, 0, ""
    told = one(request, "stream-ttl")
    if told is not None:
        ttl = _whole(told, "Stream-TTL", _MAX_TTL)
    at = one(request, "stream-expires-at")
    if at is not None:
        if told is not None:
            raise Invalid("Stream-TTL and Stream-Expires-At contradict each other: send one")
        expires, text = _time(at), at
    content_type = (one(request, "content-type") or "").strip()
    if not (fork and not content_type):
        content_type = _checked(content_type) if _TYPE.fullmatch(content_type) else DEFAULT_TYPE
    return Make(content_type, ttl, expires, text, fork)


def add(request: Request) -> Add:
    """The terms of a POST. Raises Invalid."""
    producer = _producer(request)
    content_type = (one(request, "content-type") or "").strip()
    if not request.raw_body and not closes(request):
        raise Invalid("the body is empty: send data, or Stream-Closed: true")
    if request.raw_body and not content_type:
        raise Invalid("the body has no Content-Type: send that of the stream")
    seq = one(request, "stream-seq")
    if seq is not None and len(seq) > MAX_PRODUCER:
        raise Invalid(f"Stream-Seq has at most {MAX_PRODUCER} characters")
    return Add(_checked(content_type), producer, seq)


def messages(
    name: str, content_type: str, body: bytes, *, closes: bool, most: int, may_be_empty: bool = False
) -> list[Message]:  # fmt: skip
    """The messages of a body for the stream of this name; the last one ends it where it ``closes``. A message has at
    most ``most`` bytes. Raises InvalidPayload, Invalid and TooLarge."""
    found = [Message(name, kind, payload) for kind, payload in _entries(content_type, body)]
    if body and not found and not may_be_empty:
        raise Invalid("the array is empty: there is nothing to append")
    if len(found) > MAX_MESSAGES:
        raise TooLarge(f"the array has {len(found)} messages: send at most {MAX_MESSAGES} at once")
    if any([len(message.payload) > most for message in found]):
        raise TooLarge(f"a message may have {most} bytes (max_message): send less")
    if closes and found:
        with_end(found[-1])
    elif closes:
        found.append(end_of(name))
    return found


def _entries(content_type: str, body: bytes) -> Sequence[tuple[int, bytes]]:
    """Kinds and payloads. An array in a stream of JSON stands for its elements (section 5.2)."""
    if not body:
        return ()
    if not is_json(content_type):
        return ((Kind.BYTES, body),)
    payload = json_payload(body)
    found = elements(payload) if payload[:1] == b"[" else [payload]
    return [(Kind.JSON, each) for each in found]


def _checked(content_type: str) -> str:
    if len(content_type) > MAX_TYPE:
        raise Invalid(f"a content type has at most {MAX_TYPE} characters")
    return content_type


def _whole(text: str, field: str, most: int) -> int:
    if not _NUMBER.fullmatch(text.strip()) or len(text) > 20 or int(text) > most:
        raise Invalid(f"{field} is a whole number from 0 to {most}, without leading zeros")
    return int(text)


def _time(text: str) -> int:
    """Microseconds since 1970 of a time of RFC 3339; after those, as the store counts them, at the earliest."""
    found = _TIME.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError(text)
        day, minute, second, fraction, zone = found.groups()
        leap = second == "60"  # a leap second
        zone = "+00:00" if zone in "Zz" else zone
        at = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}{zone}") + timedelta(seconds=leap)
        micros = (at - _UNIX) // timedelta(microseconds=1) + int((fraction or "0")[:6].ljust(6, "0"))
    except (ValueError, OverflowError):
        raise Invalid("Stream-Expires-At is a time of RFC 3339, like 2030-01-31T12:00:00Z") from None
    return max(2, micros)


def _producer(request: Request) -> Producer | None:
    fields = [one(request, f"producer-{name}") for name in ("id", "epoch", "seq")]
    if all([field is None for field in fields]):
        return None
    id, epoch, seq = fields
    if id is None or epoch is None or seq is None:
        raise Invalid("Producer-Id, Producer-Epoch and Producer-Seq come together: send all three, or none")
    if not 0 < len(id) <= MAX_PRODUCER:
        raise Invalid(f"Producer-Id has 1 to {MAX_PRODUCER} characters")
    for text in (epoch, seq):
        if not _DIGITS.fullmatch(text) or int(text) > MAX_NUMBER:
            raise Invalid("Producer-Epoch and Producer-Seq are whole numbers from 0 to 2^53 - 1")
    return Producer(id, int(epoch), int(seq))


def _fork(request: Request, prefix: str) -> Fork | None:
    source, at, sub = [one(request, f"stream-{name}") for name in ("forked-from", "fork-offset", "fork-sub-offset")]
    if source is None:
        if sub is not None or at is not None:
            raise Invalid("a fork's offset needs its source: send Stream-Forked-From")
        return None
    path = unquote(source.strip())
    if not path.startswith(PREFIX):
        raise Invalid(f"Stream-Forked-From is the path of a stream, like {PREFIX}source")
    name = check_channel(prefix + path.removeprefix(PREFIX))
    count = 0 if sub is None else _whole(sub, "Stream-Fork-Sub-Offset", _MAX_OFFSET)
    if count and at is None:
        raise Invalid("Stream-Fork-Sub-Offset counts from Stream-Fork-Offset: send that, too")
    return Fork(name, None if at is None else places.parse(at), count)
