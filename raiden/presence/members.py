"""The members of a channel: the clients that are there, put together by their subject. Pure.

A worker says of a channel which subjects have connections there (a `Part`). The parts of all workers make the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import ujson

from raiden.model.encoding import dumps

# Bytes that a part takes besides its JSON.
_BESIDES: Final = 500


class Row(NamedTuple):
    """A member on one worker: its subject; the ``info`` of its newest connection, which has been there since
    ``newest``; the number of its connections, the first of which has been there ``since``; the time of its last proof
    of life; and whether that is recent. Times are Unix times in seconds."""

    sub: str
    info: Any
    connections: int
    since: float
    newest: float
    proved: float
    is_here: bool

    def joined(self, other: Row) -> Row:
        """The member on both workers."""
        newer = self if self.newest >= other.newest else other
        return Row(
            self.sub, newer.info, self.connections + other.connections, min(self.since, other.since), newer.newest,
            max(self.proved, other.proved), self.is_here or other.is_here,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """The member as clients are told of it."""
        return {
            "sub": self.sub, "info": self.info, "connections": self.connections,
            "state": "here" if self.is_here else "unsure", "since": round(self.since, 3),
            "proved": round(self.proved, 3),
        }  # fmt: skip


class Part(NamedTuple):
    """The members on one worker, the number of them, and that of ``anonymous`` connections, which have no subject.
    ``members`` is None where there are too many to list."""

    number: int
    anonymous: int
    members: tuple[Row, ...] | None

    @classmethod
    def of(cls, value: Any) -> Part:
        """Read what another worker has written; raises ValueError and TypeError."""
        number, anonymous, rows = value
        return cls(int(number), int(anonymous), None if rows is None else tuple([Row(*row) for row in rows]))

    def unsure(self) -> Part:
        """The same of a worker that can't be asked now: nobody knows whether its members are still there."""
        if self.members is None:
            return self
        return self._replace(members=tuple([row._replace(is_here=False) for row in self.members]))


def answer(channel: str, parts: Iterable[Part], *, most: int, complete: bool) -> dict[str, Any]:
    """The answer to who is at a channel, from the parts of its workers; at most so many members are listed. A subject
    that is on several workers counts once, unless one of these has too many to list."""
    found: dict[str, Row] = {}
    anonymous = unlisted = 0
    listed = True
    for part in parts:
        anonymous += part.anonymous
        if part.members is None:
            listed = False
            unlisted += part.number
            continue
        for row in part.members:
            known = found.get(row.sub)
            found[row.sub] = row if known is None else known.joined(row)
    members = None
    if listed and len(found) <= most:
        members = [found[sub].told() for sub in sorted(found)]
    return {
        "channel": channel, "members": members, "count": len(found) + unlisted, "anonymous": anonymous,
        "complete": complete,
    }  # fmt: skip


class Remembered:
    """The last parts of channels, by worker: those of a worker that can't be asked are told as unsure for a while.
    ``seconds`` bounds their age, ``most`` their bytes in all: they are kept as JSON, since objects take many times as
    much."""

    def __init__(self, *, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._size = 0
        # By channel, those that were asked about longest ago first: parts by worker, each with the time of its answer.
        self._channels: dict[str, dict[str, tuple[float, bytes]]] = {}

    def missing(self, channel: str, workers: Iterable[str], now: float) -> dict[str, Part]:
        """The last parts of those workers, as far as they are known."""
        known = self._channels.get(channel, {})
        return {
            worker: Part.of(ujson.loads(known[worker][1])).unsure()
            for worker in workers
            if worker in known and known[worker][0] > now - self._seconds
        }

    def note(self, channel: str, parts: Mapping[str, Part], workers: Iterable[str], now: float) -> None:
        """Note the answers about a channel. Of other workers that are still known, the last ones are kept."""
        before = self._forget(channel)
        kept = {worker: before[worker] for worker in workers if worker in before and worker not in parts}
        rows = {worker: each for worker, each in kept.items() if each[0] > now - self._seconds}
        rows |= {worker: (now, dumps(part)) for worker, part in parts.items() if part.number or part.anonymous}
        if not rows:
            return
        self._channels[channel] = rows
        self._size += _size(channel, rows)
        while self._size > self._most:
            self._forget(next(iter(self._channels)))

    def _forget(self, channel: str) -> dict[str, tuple[float, bytes]]:
        rows = self._channels.pop(channel, {})
        self._size -= _size(channel, rows)
        return rows


def _size(channel: str, rows: Mapping[str, tuple[float, bytes]]) -> int:
    return sum([_BESIDES + len(channel) + len(part) for _, part in rows.values()])
