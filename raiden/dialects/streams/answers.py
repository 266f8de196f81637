"""Answers to clients of streams. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import webob

from raiden.dialects.streams import intervals, places
from raiden.history.streams import CLOSED, MISSING, STALE, Producer, Stream, StreamPage, StreamRefused
from raiden.model.chain import ROOT_DIGITS
from raiden.model.message import Cursor
from raiden.model.refusals import Refusal
from raiden.protocols.http import Fields, Json, Request, problem

METHODS: Final = "GET, POST, PUT, DELETE, HEAD, OPTIONS"
# What a page may send and read (the Fetch standard, section 3.3).
_SENT: Final = (
    "content-type, authorization, if-none-match, stream-seq, stream-ttl, stream-expires-at, stream-closed, producer-id,"
    " producer-epoch, producer-seq, stream-forked-from, stream-fork-offset, stream-fork-sub-offset"
)
_TOLD: Final = (
    "stream-next-offset, stream-cursor, stream-up-to-date, stream-closed, stream-ttl, stream-expires-at,"
    " stream-sse-data-encoding, producer-epoch, producer-seq, producer-expected-seq, producer-received-seq, etag,"
    " content-type, content-encoding, vary, location"
)
# The seconds for which an answer that never changes may be used again, and those for which it may be used while a new
# one is fetched (RFC 5861 section 3).
_AGE: Final = "max-age=60, stale-while-revalidate=300"
# Fields of every answer (section 12.7). A browser that opens a stream of text/html runs no scripts of it: they would be
# of this node's origin, with its cookies (Content Security Policy Level 3, section 6.3.2).
COMMON: Final[Fields] = (
    ("Content-Security-Policy", "sandbox"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Access-Control-Expose-Headers", _TOLD),
)


def cache(is_public: bool) -> str:
    """The Cache-Control of messages, which never change; ``is_public``: anyone may read them."""
    return f"public, {_AGE}" if is_public else f"private, {_AGE}"


def answer(status: int, fields: Mapping[str, str], body: bytes = b"") -> Json:
    """An answer with these fields and those of all."""
    return Json(status, body, (*fields.items(), *COMMON))


def preflight() -> Json:
    """The answer to OPTIONS. Whether the page of this origin may do anything is the door's to say."""
    return answer(204, {"Access-Control-Allow-Methods": METHODS, "Access-Control-Allow-Headers": _SENT})


def refused(refusal: Refusal, producer: Producer | None = None) -> webob.Response:
    """The answer to a request that is not done, as one line of text."""
    response = problem(refusal)
    response.headers["Content-Type"] = "text/plain; charset=utf-8"
    response.body = " ".join(refusal.detail.split()).encode("utf-8", "replace") + b"\n"
    response.headers.update(COMMON)
    response.headers.update(_of_state(refusal, producer))
    return response


def _of_state(refusal: Refusal, producer: Producer | None) -> dict[str, str]:
    """Fields that tell the state of a stream which refuses an append."""
    if not isinstance(refusal, StreamRefused) or refusal.outcome is None:
        return {}
    stream, known = refusal.outcome.stream, refusal.outcome.producer
    if refusal.what == CLOSED and stream is not None:
        return state(stream)
    if refusal.what == STALE and known is not None:
        return {"Producer-Epoch": str(known[0])}
    if refusal.what == MISSING and producer is not None:
        expected = 0 if known is None else known[1] + 1
        return {"Producer-Expected-Seq": str(expected), "Producer-Received-Seq": str(producer.number)}
    return {}


def state(stream: Stream) -> dict[str, str]:
    """Fields that tell where a stream stands."""
    fields = {"Stream-Next-Offset": places.token(stream.tail)}
    if stream.closed:
        fields["Stream-Closed"] = "true"
    return fields


def life(stream: Stream) -> dict[str, str]:
    """Fields that tell how long a stream lives."""
    if stream.ttl >= 0:
        return {"Stream-TTL": str(stream.ttl)}
    return {"Stream-Expires-At": stream.expires_text} if stream.expires else {}


def etag(stream: Stream, begin: str, end: str, *, closed: bool) -> str:
    """The tag of the messages between two places. It has the stream's life, since another one may have the same
    name."""
    return f'"{stream.tail.epoch[:ROOT_DIGITS]}:{begin}:{end}{":c" if closed else ""}"'


def location(request: Request, scheme: str | None) -> str:
    """The absolute URL of a request's stream."""
    return f"{scheme or 'http'}://{request.fields.get('host', '')}{request.environ['raiden.path']}"


def body_of(stream: Stream, payloads: Iterable[bytes]) -> bytes:
    """Messages as one body: an array of JSON, or their bytes one after the other."""
    return b"[%b]" % b",".join(payloads) if stream.is_json else b"".join(payloads)


def at(stream: Stream, place: Cursor, begin: str, *, up_to_date: bool) -> dict[str, str]:
    """Fields of a body that ends at a place, and begins at ``begin``; "now": it has nothing."""
    closed, end = stream.closed and up_to_date, places.token(place)
    fields = {"Content-Type": stream.content_type, "Stream-Next-Offset": end}
    if up_to_date:
        fields["Stream-Up-To-Date"] = "true"
    if closed:
        fields["Stream-Closed"] = "true"
    if begin != "now":
        fields["ETag"] = etag(stream, begin, end, closed=closed)
    return fields


def found(fields: dict[str, str], body: bytes, cache: str, match: str, floor: int | None = None) -> Json:
    """The answer with the messages of a body that has these fields, unless the client has them (``match`` is its
    If-None-Match). ``cache`` is the answer's Cache-Control, ``floor`` the least cursor that the client is told (None:
    it is told none)."""
    fields["Cache-Control"] = cache
    if floor is not None and "Stream-Closed" not in fields:
        fields["Stream-Cursor"] = str(intervals.at_least(floor))
    if match and "ETag" in fields and fields["ETag"] in [each.strip() for each in match.split(",")]:
        return answer(304, {"ETag": fields["ETag"], "Cache-Control": cache})
    return answer(200, fields, body)


def page(stream: Stream, page: StreamPage, begin: str, cache: str, match: str, floor: int | None = None) -> Json:
    """The answer with a page behind the place ``begin``; the rest is as for `found`."""
    records, place = page.records, page.place
    assert place is not None
    if records:
        place = Cursor("", records[-1].offset, records[-1].proof)
    fields = at(stream, place, begin, up_to_date=not page.more)
    body = body_of(stream, [record.to_message("", "").payload for record in records])
    return found(fields, body, cache if records else "no-store", match, floor)


def nothing(place: Cursor, *, closed: bool, floor: int) -> Json:
    """The answer to a long-poll that brings nothing: the place is the tail."""
    fields = {"Stream-Next-Offset": places.token(place), "Stream-Up-To-Date": "true"}
    fields |= {"Stream-Closed": "true"} if closed else {"Stream-Cursor": str(intervals.at_least(floor))}
    return answer(204, fields)
