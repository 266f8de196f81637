"""Parameters of subscribing requests: the query, where to begin, and how long to wait."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from raiden.model import fields, numbers
from raiden.model.chain import MAX_PAST
from raiden.model.filters import Filters, split
from raiden.model.message import EARLIEST, Cursor, InvalidCursor
from raiden.model.names import check_channel, check_durable, unquote
from raiden.model.near import did_you_mean
from raiden.model.numbers import whole
from raiden.model.page import MAX_LAST, PAGE, Read, Start, parse_since
from raiden.model.refusals import Invalid
from raiden.model.subjects import FIELD, is_attribute
from raiden.model.thinning import Thinning
from raiden.model.thinning import of as thinned
from raiden.protocols.http import Request
from raiden.sessions.asks import ACK_WAIT, MAX_ACK_WAIT, MAX_NACK_DELAY, MAX_WINDOW, WINDOW, Consume

# The parameters of a subscription, of a page of history, of a page of channels, and of one of durable subscriptions.
SUBSCRIBE = frozenset(
    {
        "_since",
        "_last",
        "_wait",
        "_wrap",
        "_raw",
        "_durable",
        "_limit",
        "_ack_wait",
        "_ack",
        "_nack",
        "_nack_delay",
        "_presence",
        "_token",
        "_rate",
        "_key",
        "_slow",
    }
)
# The parameters that mean nothing without ``_durable``, and those that mean nothing with it.
DURABLY = frozenset({"_limit", "_ack_wait", "_ack", "_nack", "_nack_delay"})
NOT_DURABLY = frozenset({"_last", "_wrap", "_raw", "_presence", "_rate", "_key", "_slow"})
HISTORY = frozenset({"_since", "_last", "_before", "_limit"})
STREAM = frozenset({"_stream"})
CHANNELS = frozenset({"_prefix", "_after", "_limit"})
DURABLES = frozenset({"_prefix", "_channel", "_durable", "_after", "_limit"})
# The parameters of a request that a server answers, of taking one, and of an answer.
REQUEST = frozenset({"_request", "_again"})
SERVE = frozenset({"_serve", "_wait", "_token"})
ANSWER = frozenset({"_error"})
NONE: frozenset[str] = frozenset()
# A list of members that a long-poll has told (`raiden.presence.watch`).
_DIGEST = re.compile("[0-9a-f]{16}|many")
# A comparison without ``=``, like ``price<10``.
_COMPARED = re.compile(r"([^<>]+[<>])(.*)", re.DOTALL)

# The form of a preference, which may have white space around ``=``; HTTP's other parameters may not.
_WAIT = re.compile(r'wait[ \t]*=[ \t]*("?)([^";]*)\1[ \t]*(?:;|$)', re.IGNORECASE)


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """The query's pairs, strictly decoded; ``+`` is a space."""
    return [(key, value or "") for key, value in _pairs(request)]


def _pairs(request: Request) -> list[tuple[str, str | None]]:
    """The query's pairs; the value of a parameter without ``=`` is None."""
    pairs = [part.partition("=") for part in request.query_string.replace("+", " ").split("&") if part]
    return [(unquote(key), unquote(value) if equals else None) for key, equals, value in pairs]


def filters(request: Request) -> Filters:
    """The filters in the query: all its keys, except the following. A parameter with ``_`` is none, but ``_event`` and
    ``_tag.NAME`` are filters by attributes, and ``_filter.NAME`` is one by any field. ``channel`` is none where it
    names the channels to follow, nor is the last event's id. Raises Invalid for the name of a parameter without its
    ``_``: it was hardly meant as a filter."""
    own = "channel" if request.environ["raiden.path"] == "/-/subscribe" else None
    found: list[tuple[str, str | None]] = []
    for key, value in _pairs(request):
        if f"_{key}" in SUBSCRIBE:
            raise Invalid(f"{key} would be a filter: write _{key}, or to filter by that field {FIELD}{key}")
        if _is_filter(key) or (not key.startswith("_") and key != own and not _tells_last(key, value or "")):
            found.append(_condition(key, value))
    return Filters(found)


def _condition(key: str, value: str | None) -> tuple[str, str | None]:
    """The key and the value of a filter. In a query ``=`` is a part of the operator: of ``price>=10`` as of
    ``price!=10``; of ``price>10`` there is none, or one that a library has put behind it."""
    if value and key.endswith(("<", ">", "!")):
        return f"{key}=", value
    compared = None if value else _COMPARED.fullmatch(key)
    return (key, value) if compared is None else (compared[1], compared[2])


def _is_filter(key: str) -> bool:
    """Whether a parameter is a filter though it begins with ``_``."""
    return key.startswith(FIELD) or is_attribute(split(key.rstrip("!"))[0])


def check(query: Sequence[tuple[str, str]], known: frozenset[str]) -> None:
    """Raise Invalid for a parameter that begins with ``_`` and is none of the ``known``. Browsers' libraries add a bare
    ``_`` to get round caches."""
    filtered = known in (SUBSCRIBE, HISTORY)
    for key, _ in query:
        if key == "_token" and key not in known:
            raise Invalid("_token is for subscribing only: send the token as Authorization: Bearer TOKEN")
        if key.startswith("_") and key != "_" and key not in known and not (filtered and _is_filter(key)):
            raise Invalid(f"unknown parameter {key[:100]}{did_you_mean(key, known, '')}")


def _tells_last(key: str, value: str) -> bool:
    """Whether libraries for server-sent events tell the last event by this parameter, where they can't send
    ``Last-Event-ID``."""
    if key.replace("-", "_").lower() not in ("lasteventid", "last_event_id", "evs_last_event_id"):
        return False
    try:
        return value == "" or bool([Cursor.parse(text) for text in value.split(",")])
    except InvalidCursor:
        return False


def flag(query: dict[str, str], name: str) -> bool:
    """A parameter that is 1 or 0; raises Invalid."""
    value = query.get(name, "0")
    if value not in ("0", "1"):
        raise Invalid(f"{name} is 1 or 0, like {name}=1")
    return value == "1"


def presence(query: dict[str, str], names: Sequence[str]) -> dict[str, str] | None:
    """``_presence``: by channel, the digest of the list of its members that the client has ("": it has none); None: the
    client does not watch these. Raises Invalid."""
    value = query.get("_presence", "0")
    if value == "0":
        return None
    if not names:
        raise Invalid('/-/websocket takes it as a command: {"cmd": "subscribe", "channel": "a", "presence": true}')
    for name in names:
        check_channel(name)
    digests = [""] * len(names) if value == "1" else value.split(",")
    if value != "1" and not (len(digests) == len(names) and all(map(_DIGEST.fullmatch, digests))):
        raise Invalid("_presence is 1 or 0; a long-poll also takes the presence of the answer before")
    return dict(zip(names, digests, strict=True))


def starts(request: Request, query: dict[str, str], names: Sequence[str]) -> dict[str, Start]:
    """The start of each name, if the request gives one: by ``Last-Event-ID``, which a browser sends when it comes back,
    or its substitute in the query, else by ``_since``, else by ``_last``. For several names a position is a cursor for
    each, in their order. Raises Invalid for a malformed position."""
    last = [value for key, value in query.items() if value and _tells_last(key, value)]
    since = request.fields.get("last-event-id") or (last[-1] if last else query.get("_since"))
    if since == "earliest":
        return dict.fromkeys(names, Start())
    if since is not None:
        cursors = [parse_since(text) for text in since.split(",")]
        if names and len(cursors) != len(names):
            raise Invalid(f"a position in {len(names)} channels has a cursor for each, like 'k3x9:41,m2d8:7'")
        return {name: Start(cursor) for name, cursor in zip(names, cursors, strict=False)}
    if "_last" in query:
        return dict.fromkeys(names, Start(last=number(query, "_last", MAX_LAST)))
    return {}


def thinning(query: Mapping[str, str]) -> Thinning | None:
    """``_rate``, ``_key`` and ``_slow``: how many of its messages a subscription gets; raises Invalid."""
    rate = query.get("_rate")
    if rate is not None and not numbers.SECONDS.fullmatch(rate):
        raise Invalid(f"_rate is a number of messages a second, like _rate=2 or _rate=0.5: {rate[:60]!r} is none")
    return thinned(None if rate is None else float(rate), query.get("_key"), query.get("_slow"), "_")


def number(query: Mapping[str, str], name: str, most: int, least: int = 1) -> int:
    """A parameter that is a whole number from ``least`` to ``most``; raises Invalid."""
    return whole(name, query[name], most, least)


def seconds(query: Mapping[str, str], name: str, least: float, most: float) -> float:
    """A parameter that is a number of seconds, from ``least`` to ``most``; raises Invalid."""
    return numbers.seconds(name, query[name], least, most)


def wait(request: Request, query: dict[str, str]) -> float | None:
    """The seconds that a long-poll may take: ``_wait=25``, or ``Prefer: wait=25`` (RFC 7240 section 4.3)."""
    text = query["_wait"] if "_wait" in query else _preferred_wait(request.fields.get("prefer", ""))
    if text is None:
        return None
    if not numbers.SECONDS.fullmatch(text):
        raise Invalid("wait is a number of seconds, like _wait=25, _wait=0.5 or Prefer: wait=25")
    return float(text)


def _preferred_wait(text: str) -> str | None:
    """The value of the first preference ``wait`` in a Prefer field; one that can't be read is ignored (RFC 7240 section
    2), as is the field where a quoted string has no end."""
    try:
        preferences = fields.split(text)
    except ValueError:
        return None
    found = (_WAIT.match(preference) for preference in preferences)
    return next((wait[2].strip() for wait in found if wait is not None), None)


def read(channel: str, query: Mapping[str, str]) -> Read:
    """A page of a channel's history: after ``_since`` (at first the earliest), or before ``_before``; ``_last``: the
    newest. Raises Invalid."""
    limit = number(query, "_limit", MAX_LAST) if "_limit" in query else PAGE
    if len(query.keys() & {"_last", "_before", "_since"}) > 1:
        raise Invalid("a page begins by one of _since, _before and _last")
    if "_last" in query:
        return Read(channel, None, True, number(query, "_last", MAX_LAST))
    if "_before" in query:
        return Read(channel, Cursor.parse(query["_before"]), True, limit)
    since = query.get("_since", "earliest")
    return Read(channel, None if since == "earliest" else parse_since(since), False, limit)


def consume(channel: str, query: dict[str, str], wait: float) -> Consume:
    """Read ``_durable`` and the parameters that go with it; raises Invalid."""
    since, acks, nacks = query.get("_since"), _cursors(query, "_ack"), _cursors(query, "_nack")
    return Consume(
        channel,
        check_durable(query["_durable"]),
        number(query, "_limit", MAX_WINDOW, least=0) if "_limit" in query else WINDOW,
        float(number(query, "_ack_wait", int(MAX_ACK_WAIT))) if "_ack_wait" in query else ACK_WAIT,
        None if since is None else EARLIEST if since == "earliest" else parse_since(since),
        acks,
        nacks,
        float(number(query, "_nack_delay", int(MAX_NACK_DELAY), least=0)) if "_nack_delay" in query else 0.0,
        wait,
    )


def _cursors(query: dict[str, str], name: str) -> list[Cursor]:
    """The cursors of a parameter. The store is asked for each epoch among them separately, so there may be only as many
    as a history has."""
    found = [Cursor.parse(text) for text in query.get(name, "").split(",") if text]
    if len({cursor.epoch for cursor in found}) > MAX_PAST + 1:
        raise Invalid(f"{name} has cursors of at most {MAX_PAST + 1} epochs: a history knows no more")
    return found
