"""The watch of a channel's members: what each worker has told of them, and the joins and leaves that follow. Pure.

A worker tells its members as a list, and then each change. Its lists have a ``life``, and each change of a list has the
next ``version``: so a change that was lost on its way is noticed, and the list is asked for again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from raiden.model.encoding import dumps

# The part of `max_presence` below which a channel is listed again that had more members.
_AGAIN: Final = 0.9
# The digest of a channel that has too many members to list.
CROWDED: Final = "many"

# A notice to watchers: its name, "presence", "join" or "leave", and what it tells.
Event: TypeAlias = "tuple[str, dict[str, Any]]"


class Listed(NamedTuple):
    """A member on a worker: its ``info``, and the Unix times at which it came, and at which the connection did that has
    this info."""

    info: Any
    since: float
    newest: float


class _Shown(NamedTuple):
    """A member as watchers know it."""

    info: Any
    since: float


class _Worker:
    """The list of a worker; ``members`` is None where it has too many, ``count`` of them."""

    __slots__ = ("count", "life", "members", "version")

    def __init__(self, life: str, version: int, members: dict[str, Listed] | None, count: int) -> None:
        self.life = life
        self.version = version
        self.members = members
        self.count = count


class Watch:
    """The members of a channel in the whole cluster. Methods note changes, and `settle` returns the events that follow.
    A member that no worker has any more is told to have left: at once where its worker has said so, which waits for
    long enough by itself, else after ``linger`` seconds."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        # By subject: the workers that have it.
        self._where: dict[str, dict[str, Listed]] = {}
        # The members that watchers know of; and subjects that may have changed, with the seconds until a leave.
        self._shown: dict[str, _Shown] = {}
        self._touched: dict[str, float] = {}
        # The times at which to tell leaves.
        self._gone: dict[str, float] = {}
        self._digest = 0
        self._crowded = False
        self.complete = False
        """Whether all workers have told their lists."""

    def knows(self, worker: str, life: str, version: int, count: int) -> bool:
        """Whether this list of a worker is known, or one that has come of it since. The number of its members is known
        from now on, also where these are too many to list."""
        known = self._workers.get(worker)
        if known is None or known.life != life or known.version < version:
            return False
        known.count = count
        return True

    def take(
        self, worker: str, life: str, version: int, members: dict[str, Listed] | None, count: int, linger: float
    ) -> None:  # fmt: skip
        """Take the list of a worker. A list that was known already, or is older, changes nothing."""
        known = self._workers.get(worker)
        if known is not None and known.life == life and known.version >= version:
            return
        before = {} if known is None or known.members is None else known.members
        self._workers[worker] = _Worker(life, version, members, count)
        for sub in before.keys() - (members or {}).keys():
            self._remove(worker, sub, linger)
        for sub, listed in (members or {}).items():
            self._add(worker, sub, listed)

    def hear(self, worker: str, life: str, version: int, on: Iterable[Sequence[Any]], off: Iterable[str]) -> bool:
        """Take a change of a worker's list; False: it is not the next one, so the list is to be asked for."""
        known = self._workers.get(worker)
        if known is not None and known.life == life and version <= known.version:
            return True
        if known is None or known.life != life or version != known.version + 1 or known.members is None:
            return False
        known.version = version
        for sub, *listed in on:
            known.members[sub] = Listed(*listed)
            self._add(worker, sub, known.members[sub])
        for sub in off:
            known.members.pop(sub, None)
            self._remove(worker, sub, 0.0)
        known.count = len(known.members)
        return True

    def only(self, workers: Iterable[str], linger: float) -> None:
        """Forget the lists of all workers but these: the others are gone, or nobody knows."""
        for worker in self._workers.keys() - set(workers):
            known = self._workers.pop(worker)
            for sub in known.members or ():
                self._remove(worker, sub, linger)

    def _add(self, worker: str, sub: str, listed: Listed) -> None:
        self._where.setdefault(sub, {})[worker] = listed
        self._touched[sub] = 0.0

    def _remove(self, worker: str, sub: str, linger: float) -> None:
        where = self._where.get(sub)
        if where is None:
            return
        where.pop(worker, None)
        if not where:
            del self._where[sub]
        self._touched[sub] = max(linger, self._touched.get(sub, 0.0))

    def settle(self, now: float, most: int) -> list[Event]:
        """The events that follow from the changes, and from the time. At most so many members are listed."""
        events: list[Event] = []
        touched, self._touched = self._touched, {}
        for sub, linger in touched.items():
            where = self._where.get(sub)
            if where is not None:
                self._gone.pop(sub, None)
                _, newest = max(where.items(), key=lambda each: (each[1].newest, each[0]))  # the same on all workers
                self._show(sub, newest.info, min([each.since for each in where.values()]), events)
            elif sub in self._shown:
                self._gone[sub] = now + linger
        for sub in [sub for sub, until in self._gone.items() if until <= now] if self._gone else ():
            del self._gone[sub]
            self._hide(sub, events)
        crowded = any(worker.members is None for worker in self._workers.values())
        crowded = crowded or len(self._shown) > most * (_AGAIN if self._crowded else 1)
        if crowded or self._crowded:
            events = [] if crowded and self._crowded else [("presence", {})]
        self._crowded = crowded
        return [(name, self.listing() if name == "presence" else what) for name, what in events]

    def _show(self, sub: str, info: Any, since: float, events: list[Event]) -> None:
        known = self._shown.get(sub)
        if known is not None:
            if known.info == info:
                return
            self._digest ^= _digest(sub, known.info)
            since = known.since
        self._shown[sub] = shown = _Shown(info, since)
        self._digest ^= _digest(sub, info)
        events.append(("join", _row(sub, shown)))

    def _hide(self, sub: str, events: list[Event]) -> None:
        info = self._shown.pop(sub).info
        self._digest ^= _digest(sub, info)
        events.append(("leave", {"sub": sub, "info": info}))

    def listing(self) -> dict[str, Any]:
        """The members, as a watcher is told of them first."""
        members = None if self._crowded else [_row(sub, self._shown[sub]) for sub in sorted(self._shown)]
        count = sum([each.count for each in self._workers.values()]) if self._crowded else len(self._shown)
        return {"members": members, "count": count, "complete": self.complete}

    @property
    def digest(self) -> str:
        """A name for the present list, the same on all workers that know the same members."""
        return CROWDED if self._crowded else f"{self._digest:016x}"

    @property
    def waits(self) -> bool:
        """Whether something is to be told when its time has come."""
        return bool(self._gone or self._touched)


def _row(sub: str, shown: _Shown) -> dict[str, Any]:
    return {"sub": sub, "info": shown.info, "since": round(shown.since, 3)}


def _digest(sub: str, info: Any) -> int:
    return int.from_bytes(hashlib.blake2b(dumps([sub, info]), digest_size=8).digest(), "big")
