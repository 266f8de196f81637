"""What a subscribing request asks for: its query, where to begin, and how long to wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raiden.filters import Filters
from raiden.history import EARLIEST, Start, check_durable
from raiden.http import HttpError, Request
from raiden.message import Cursor, unquote

# Messages that `_last` may ask for; a page of the history has at most as many.
MAX_LAST = 1000
# Claimed and not acknowledged messages of one consumer.
WINDOW, MAX_WINDOW = 16, 1000
# Seconds for which a claim holds.
ACK_WAIT, MIN_ACK_WAIT, MAX_ACK_WAIT = 30.0, 1.0, 3600.0


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """The query's pairs, strictly decoded; ``+`` is a space."""
    pairs = [part.partition("=") for part in request.query_string.replace("+", " ").split("&") if part]
    return [(unquote(key), unquote(value)) for key, _, value in pairs]


def filters(request: Request, query: list[tuple[str, str]]) -> Filters:
    """What is left of the query: no parameter with ``_`` is a filter, nor ``channel`` where it names what to follow."""
    own = "channel" if request.environ["raiden.path"] == "/-/subscribe" else None
    return Filters((key, value) for key, value in query if not key.startswith("_") and key != own)


def starts(request: Request, query: dict[str, str], names: Sequence[str]) -> dict[str, Start]:
    """Where each name begins, if the request says so: ``Last-Event-ID``, which a browser sends when it comes back,
    else ``_since``, else ``_last``. For several names a position is a cursor for each, in their order. HttpError 400
    for what is no position."""
    since = request.fields.get("last-event-id") or query.get("_since")
    try:
        if since == "earliest":
            return dict.fromkeys(names, Start())
        if since is not None:
            cursors = [Cursor.parse(text) for text in since.split(",")]
            if names and len(cursors) != len(names):
                raise ValueError(f"a position in {len(names)} channels has a cursor for each, like 'k3x9:41,m2d8:7'")
            return {name: Start(cursor) for name, cursor in zip(names, cursors, strict=False)}
        if "_last" in query:
            return dict.fromkeys(names, Start(last=number(query, "_last", MAX_LAST)))
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    return {}


def number(query: dict[str, str], name: str, most: int, least: int = 1) -> int:
    """A parameter that is a whole number from ``least`` to ``most``; raises ValueError."""
    text = query[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise ValueError(f"{name} is a whole number from {least} to {most}, like {name}=10")
    return int(text)


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


class Durable(NamedTuple):
    """What a long-poll of a durable subscription asks for."""

    name: str
    limit: int
    ack_wait: float
    since: Cursor | None
    acks: list[Cursor]


def durable(query: dict[str, str]) -> Durable:
    """``_durable``, ``_limit``, ``_ack_wait``, ``_since`` and ``_ack``; raises ValueError."""
    since = query.get("_since")
    return Durable(
        check_durable(query["_durable"]),
        number(query, "_limit", MAX_WINDOW, least=0) if "_limit" in query else WINDOW,
        float(number(query, "_ack_wait", int(MAX_ACK_WAIT))) if "_ack_wait" in query else ACK_WAIT,
        None if since is None else EARLIEST if since == "earliest" else Cursor.parse(since),
        [Cursor.parse(text) for text in query.get("_ack", "").split(",") if text],
    )
