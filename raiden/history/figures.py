"""Figures of durables: the durables that a page of figures is about, and their figures in the embedded store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from raiden.history import channel_row
from raiden.history.store import FIRST, Figures, FiguresAsked, FiguresPage
from raiden.model.message import Cursor

# Bounds of a page's cost: durables that are looked at; and in the embedded store claims that are counted, besides those
# of the durable that goes over.
LOOKED, COUNTED = 1000, 10_000

Place = tuple[str, str]


def begin(asked: FiguresAsked) -> Place:
    """The durable behind which to look."""
    return max(asked.after, (asked.channel or asked.prefix, ""), FIRST)


def wanted(asked: FiguresAsked, looked: Sequence[Place]) -> tuple[list[Place], Place | None]:
    """The durables that were asked for among those that were ``looked`` at (the first `LOOKED` in their order), and the
    durable behind which to go on, if there may be more."""
    found: list[Place] = []
    for number, (channel, name) in enumerate(looked):
        if not channel.startswith(asked.prefix) or asked.channel not in ("", channel):
            return found, None
        if asked.durable not in ("", name):
            continue
        if len(found) >= asked.limit:
            return found, looked[number - 1]
        found.append((channel, name))
    return found, looked[-1] if len(looked) >= LOOKED else None


def _as_far_as_counted(
    found: Sequence[Place], claims: Sequence[int], more: Place | None
) -> tuple[Sequence[Place], Place | None]:
    """As many durables as have `COUNTED` claims together, and the durable behind which to go on."""
    counted = 0
    for number, size in enumerate(claims, 1):
        counted += size
        if counted >= COUNTED and number < len(found):
            return found[:number], found[number - 1]
    return found, more


def read(db: sqlite3.Connection, asked: FiguresAsked, now: int) -> FiguresPage:
    """A page, in the embedded store."""
    db.execute("BEGIN")  # all as of one moment
    try:
        rows = db.execute(
            "SELECT channel, name, id, epoch, next, redelivered, dead FROM durables WHERE (channel, name) > (?, ?)"
            " AND ends > ? ORDER BY channel, name LIMIT ?",
            (*begin(asked), now, LOOKED),
        ).fetchall()
        known = {(channel, name): rest for channel, name, *rest in rows}
        found, more = wanted(asked, list(known))
        count = "SELECT count(*) FROM claims WHERE durable = ?"
        claims = [db.execute(count, (known[place][0],)).fetchone()[0] for place in found]
        places, more = _as_far_as_counted(found, claims, more)
        return FiguresPage([_figures(db, now, place, *known[place]) for place in places], more)
    finally:
        db.execute("COMMIT")


def _figures(
    db: sqlite3.Connection, now: int, place: Place, id: int, epoch: str, next_: int, redelivered: int, dead: int
) -> Figures:
    channel = channel_row.find_now(db, place[0], now)
    nothing = Figures(*place, 0, 0.0, 0, redelivered, dead)
    if channel is None:
        return nothing
    first = "SELECT position, published FROM messages WHERE channel = ? AND position >= ? AND expires > ?"
    first += " ORDER BY position LIMIT 1"
    alive = db.execute(first, (channel.id, channel.first, now)).fetchone()
    if alive is None:
        return nothing
    lives, before = channel.lives, Cursor(epoch, next_ - 1)
    begins = next_ if lives.holds(before) else lives.stand(before) + 1
    claimed, in_flight, lowest = db.execute(
        "SELECT count(*), coalesce(sum(deadline > ?), 0), min(position) FROM claims WHERE durable = ?"
        " AND position >= ? AND position < ?",
        (now, id, alive[0], begins),
    ).fetchone()
    never_claimed = max(begins, alive[0])
    lag = claimed + channel.next - never_claimed
    if not lag:
        return nothing
    oldest = db.execute(first, (channel.id, never_claimed if lowest is None else lowest, now)).fetchone()
    age = max(0, now - oldest[1]) / 1e6 if oldest else 0.0
    return Figures(*place, lag, age, in_flight, redelivered, dead)
