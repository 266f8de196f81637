"""What is known of a channel whose store goes back: its histories, one for each life of the store, and what these have
in common.

A life is from one return of the store to the next. In it a channel has what it began with, and behind that messages of
an epoch of its own (history.md, When the store went back). So a message is known by its `Place`, and what was before it
by the epochs that its own one followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.independent.events import Page, Published, WentBack
from tests.independent.truth import NOWHERE, Place, place


class Life(NamedTuple):
    """From ``begun``, when the life before it ended, until ``over``; since ``at`` the store is there and the nodes know
    it. It begins with what life ``source`` had at ``copied``; None: nobody knows when that was."""

    begun: float
    at: float
    over: float
    source: int
    copied: float | None


def lives(returns: Sequence[WentBack]) -> list[Life]:
    """The first one begins before all."""
    begins = [0.0, *(each.begun for each in returns)]
    found = [Life(0.0, 0.0, [*begins, float("inf")][1], 0, 0.0)]
    for number, (each, over) in enumerate(zip(returns, [*begins[2:], float("inf")], strict=True)):
        copied = each.copied
        source = number if copied is None else max(n for n, life in enumerate(found) if life.at <= copied)
        found.append(Life(each.begun, each.at, over, source, copied))
    return found


class Conflict(NamedTuple):
    at: float
    text: str


class Segment(NamedTuple):
    """Offsets of an epoch, in the history of one message."""

    epoch: str
    first: int
    last: int


class Forks:
    """All that is known of one channel: `put` what anybody was told, `page` whole pages, then `seal`."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.lives = lives
        self.ids: dict[Place, str] = {}
        self.proofs: dict[Place, str] = {}
        self.places: dict[str, set[Place]] = {}
        self.conflicts: list[Conflict] = []
        self.acknowledged: list[tuple[Published, str, Place]] = []
        self.pages: list[tuple[int, Page]] = []
        self._begins: dict[str, int] = {}
        self._before: dict[str, str] = {}
        # Of each life, where each epoch ends in its latest page, and the epochs that began in it.
        self._ends: list[dict[str, int]] = [{} for _ in lives]
        self._own: list[set[str]] = [set() for _ in lives]
        self._lines: dict[str, tuple[Segment, ...]] = {}

    def put(self, cursor: str, message: str, at: float) -> Place:
        """Somebody was told that a message has this cursor."""
        where = place(cursor)
        proof = "".join(cursor.split(":")[2:])
        if self.ids.setdefault(where, message) != message:
            self.conflicts.append(Conflict(at, f"at {cursor} are {self.ids[where]} and {message}"))
        if proof and self.proofs.setdefault(where, proof) != proof:
            self.conflicts.append(Conflict(at, f"{message} is at {cursor}, and had the proof {self.proofs[where]}"))
        self.places.setdefault(message, set()).add(where)
        return where

    def page(self, page: Page) -> None:
        """All of the channel, as it was in one life."""
        number = max(number for number, life in enumerate(self.lives) if life.at <= page.begun)
        self.pages.append((number, page))
        before, ends = NOWHERE, dict[str, int]()
        for expected, (cursor, message) in enumerate(page.messages, 1):
            epoch, offset = self.put(cursor, message, page.at)
            if offset != expected:
                self.conflicts.append(Conflict(page.at, f"a page has {cursor} at {expected}"))
            if epoch != before and (self._begins.setdefault(epoch, offset), self._before.setdefault(epoch, before)) != (
                offset, before,
            ):  # fmt: skip
                text = f"{epoch} begins at {offset} after {before}, and began at {self._begins[epoch]}"
                self.conflicts.append(Conflict(page.at, f"{text} after {self._before[epoch]}"))
            ends[epoch] = offset
            before = epoch
        self._ends[number] = ends

    def seal(self) -> None:
        """All was said."""
        told: dict[str, list[Published]] = {}
        for event, _, where in self.acknowledged:
            told.setdefault(where.epoch, []).append(event)
        known: set[str] = set()
        for number, ends in enumerate(self._ends):
            for epoch in set(ends) - known:
                # After the last page of the life before, an epoch may have begun that outlived it.
                before = [event for event in told.get(epoch, []) if event.at < self.lives[number].begun]
                self._own[number - bool(before)].add(epoch)
            known |= set(ends)
        for epoch, events in told.items():
            if epoch not in known:
                self._find(epoch, events)

    def _find(self, epoch: str, events: Sequence[Published]) -> None:
        """An epoch that no page has: it began after the last page of its life, and was lost with it."""
        candidates = [
            number
            for number, life in enumerate(self.lives)
            if not self._own[number] and all(event.at > life.begun and event.begun < life.over for event in events)
        ]
        if not candidates:
            at = events[0].at
            self.conflicts.append(Conflict(at, f"{epoch} began when its life had another epoch: {events[0]}"))
        number = candidates[0] if candidates else 0
        self._own[number].add(epoch)
        ends = self._ends[number]
        self._before[epoch], last = max(ends.items(), key=lambda item: item[1], default=(NOWHERE, 0))
        self._begins[epoch] = last + 1

    def began_in(self, epoch: str) -> int:
        """The life in which an epoch began."""
        return next((number for number, own in enumerate(self._own) if epoch in own), 0)

    def begin(self, epoch: str) -> int:
        """The first offset of an epoch; 0: it is not known."""
        return self._begins.get(epoch, 0)

    def due(self, number: int) -> int:
        """The offset with which a life's own epoch begins, or will."""
        return max([end for epoch, end in self._ends[number].items() if epoch not in self._own[number]], default=0) + 1

    def line(self, where: Place) -> tuple[Segment, ...]:
        """The epochs of a place's history, from its first message to the one at the place."""
        if where.epoch not in self._begins:
            return ()
        if where.epoch not in self._lines:
            begin = self._begins[where.epoch]
            before = self.line(Place(self._before[where.epoch], begin - 1))
            self._lines[where.epoch] = (*before, Segment(where.epoch, begin, begin))
        line = self._lines[where.epoch]
        cut = [each for each in line if each.first <= where.offset]
        if not cut:
            return ()
        last = where.offset if len(cut) == len(line) else min(cut[-1].last, where.offset)
        return (*cut[:-1], cut[-1]._replace(last=last))

    def common(self, a: Place, b: Place) -> int:
        """The last offset that has the same message in both histories; 0: there is none."""
        shared = 0
        for one, other in zip(self.line(a), self.line(b), strict=False):
            if one.epoch != other.epoch:
                break
            shared = min(one.last, other.last)
            if one.last != other.last:
                break
        return shared

    def has(self, number: int, where: Place) -> bool:
        """Whether a life has, or got, the message at a place; the place before all is everywhere."""
        line = self.line(where)
        if not line:
            return where.offset == 0
        epoch, _, last = line[-1]
        return epoch in self._own[number] or last <= self._ends[number].get(epoch, 0)

    def possible(self, begun: float, at: float, late: float = 0.0) -> Iterator[int]:
        """The lives that somebody may have met between these times, who may not know of a return for ``late``
        seconds."""
        for number, life in enumerate(self.lives):
            known = self.lives[number + 1].at if number + 1 < len(self.lives) else float("inf")
            if life.begun <= at and known + late >= begun:
                yield number

    def lost(self, number: int) -> list[Place]:
        """What was acknowledged in the life before this one, or was there, and is in this one no more."""
        if not number:
            return []
        return [where for where in self.ids if self.has(number - 1, where) and not self.has(number, where)]
