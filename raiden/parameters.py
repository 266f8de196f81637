"""What a subscribing request asks for: its query, where to begin, and how long to wait."""

from __future__ import annotations

from raiden.filters import Filters
from raiden.http import HttpError, Request
from raiden.message import Cursor, unquote


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """The query's pairs, strictly decoded; ``+`` is a space."""
    pairs = [part.partition("=") for part in request.query_string.replace("+", " ").split("&") if part]
    return [(unquote(key), unquote(value)) for key, _, value in pairs]


def filters(request: Request, query: list[tuple[str, str]]) -> Filters:
    """What is left of the query: no parameter with ``_`` is a filter, nor ``channel`` where it names what to follow."""
    own = "channel" if request.environ["raiden.path"] == "/-/subscribe" else None
    return Filters((key, value) for key, value in query if not key.startswith("_") and key != own)


def asks_position(request: Request) -> bool:
    query = dict(query_pairs(request))
    return "last-event-id" in request.fields or "_since" in query or "_last" in query


def check_position(request: Request, query: dict[str, str]) -> None:
    """Refuse a position that is none; without history no position can be gone back to."""
    for cursor in (request.fields.get("last-event-id") or "earliest", query.get("_since", "earliest")):
        try:
            if cursor != "earliest":
                Cursor.parse(cursor)
        except ValueError as error:
            raise HttpError(400, str(error)) from None
    if not query.get("_last", "0").isdecimal():
        raise HttpError(400, "_last is a number of messages, like _last=10")


def wait(request: Request, query: dict[str, str]) -> float | None:
    """The seconds that a long-poll may take: ``_wait=25``, or ``Prefer: wait=25`` (RFC 7240 section 4.3)."""
    text = query.get("_wait")
    for preference in request.fields.get("prefer", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if text is None and name.strip().lower() == "wait":
            text = value.strip()
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 6:
        raise HttpError(400, "wait is a number of seconds, like _wait=25 or Prefer: wait=25")
    return float(text)
