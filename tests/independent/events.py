"""What clients and faults tell the judge. Times are seconds of one monotonic clock; a message is known by the id in
its data, ``PUBLISHER.NUMBER``, which is published once; an id with an odd number passes the filter ``odd=1``."""

from __future__ import annotations

from typing import Any, NamedTuple


class Published(NamedTuple):
    """A publish of ids to a channel, from its first try to its last answer. ``outcome``: "stored" with cursors, "taken"
    without history, "refused" when nothing was published, "unknown". ``ids`` of one event are stored together or not
    at all. ``node`` is the one that answered."""

    begun: float
    at: float
    channel: str
    ids: tuple[str, ...]
    outcome: str
    cursors: tuple[str, ...] = ()
    node: int = 0


class Began(NamedTuple):
    """A subscription is in force: asked for at ``begun``, after ``asked`` (None: with the next message). ``cursor`` is
    where it begins, if that was told. ``recovered`` answers who asked. ``pattern`` has the channels of a pattern."""

    begun: float
    at: float
    who: str
    channel: str
    node: int
    asked: str | None = None
    cursor: str | None = None
    recovered: bool | None = None
    filtered: bool = False
    pattern: bool = False
    unconfirmed: bool = False
    repeats: bool = False


class Got(NamedTuple):
    at: float
    who: str
    channel: str
    cursor: str | None
    id: str


class Moved(NamedTuple):
    """A position was told without a message."""

    at: float
    who: str
    channel: str
    cursor: str


class Missed(NamedTuple):
    """A gap was told: what ``missing`` says."""

    at: float
    who: str
    channel: str
    missing: dict[str, Any] | None


class Ended(NamedTuple):
    at: float
    who: str


class Resumed(NamedTuple):
    """What a session had when its socket ended at ``left``, and what it brought back; None: it was unknown (404)."""

    left: float
    at: float
    who: str
    had: frozenset[str]
    back: frozenset[str] | None


class Handed(NamedTuple):
    """A durable subscription's message, to one of its consumers."""

    at: float
    who: str
    channel: str
    cursor: str
    id: str
    attempt: int


class Done(NamedTuple):
    """It was acknowledged at ``begun``, and the node said that this counted."""

    at: float
    channel: str
    cursor: str
    attempt: int
    begun: float = 0.0


class Page(NamedTuple):
    """All of a page of the history: (cursor, id) of each message; ``since`` is None for the earliest. ``last``: read
    from the earliest, until there was no more."""

    begun: float
    at: float
    channel: str
    since: str | None
    messages: tuple[tuple[str, str], ...]
    gap: dict[str, Any] | None = None
    last: bool = False


class Bad(NamedTuple):
    """An answer, or an end, that a good client must never see."""

    at: float
    who: str
    channel: str
    what: str


class Fault(NamedTuple):
    """From the blow until all nodes that it touched are connected and ready again. ``nodes`` are those, none where the
    store was struck. Up to ``until`` it was in force."""

    begun: float
    at: float
    kind: str
    nodes: frozenset[int]
    until: float = 0.0


class WentBack(NamedTuple):
    """The store fell at ``begun``, and since ``at`` it is there again, with what it had at ``copied`` (None: nobody
    knows when that was), and all nodes know it."""

    begun: float
    at: float
    kind: str
    copied: float | None


Event = Published | Began | Got | Moved | Missed | Ended | Resumed | Handed | Done | Page | Bad | Fault | WentBack


class Kept(NamedTuple):
    """A channel's options; a size of 0 is no history."""

    size: int
    ttl: float


class Violation(NamedTuple):
    guarantee: str
    channel: str
    at: float
    text: str
