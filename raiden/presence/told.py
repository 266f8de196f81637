"""This worker's members, as the watchers of their channels are told of them.

A worker that watches a channel asks all workers for their lists of its members, and asks again before its `LEASE` is
over. For as long, each of them looks at the channel when its subscriptions have changed, and tells what is different,
on a topic of the channel's own. Channels that nobody watches are not looked at, and nothing is noted about them.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import gevent
from gevent.lock import Semaphore

from raiden.backend import BackboneFull, Backend
from raiden.model.encoding import dumps
from raiden.presence.here import Here, Member
from raiden.presence.watch import Listed
from raiden.protocols.limits import PresenceLimits
from raiden.runtime import faults
from raiden.runtime.turns import Turn

# Questions: for the lists of channels; and whether these are still the same.
LISTS: Final = b"members"
SAME: Final = b"watched"
# Seconds for which a channel is looked at after it was asked about.
LEASE: Final = 10.0
# Seconds between looks whether subscriptions have changed, at least, and times as long as the looks have taken;
# seconds after which a channel is looked at in any case: for polls that have new clients, and for new tokens.
LOOK: Final = 0.05
SHARE: Final = 20.0
LONGEST: Final = 2.0
AGAIN: Final = 1.0


class _Channel:
    """A channel that is watched until a time: its members as they were told, and when those that are gone went; None,
    and their ``number``, where they are too many. ``left`` are those that have said that they leave."""

    __slots__ = ("gone", "left", "life", "members", "next", "number", "seen", "until", "version")

    def __init__(self) -> None:
        self.until = 0.0
        self.life = ""
        self.version = 0
        self.members: dict[str, Listed] | None = {}
        self.number = 0
        self.gone: dict[str, float] = {}
        self.left: set[str] = set()
        self.seen: list[tuple[int, int]] = []
        self.next = 0.0


class Told:
    """The members of a worker as they are told. ``topic`` gives the topic of a channel, and ``spawn`` runs a function
    in a greenlet."""

    def __init__(
        self, backend: Backend, here: Here, limits: PresenceLimits, *, topic: Callable[[str], bytes],
        spawn: Callable[[Callable[[], None]], object],
    ) -> None:  # fmt: skip
        self._backend = backend
        self._here = here
        self._limits = limits
        self._topic = topic
        self._spawn = spawn
        self._channels: dict[str, _Channel] = {}
        self._lives = (f"{os.urandom(6).hex()}.{number}" for number in itertools.count())
        self._looking = Semaphore(1)
        self._runs = False

    def list_of(self, channel: str) -> tuple[str, str, int, list[tuple[Any, ...]] | None, int]:
        """This worker's name, and its list of a channel: the list's life and version, the members (None: too many), and
        their number. It is told what changes from now on. Waits where this takes long."""
        told = self._lease(channel)
        with self._looking:
            self._look(channel, told)
        members = told.members
        rows = None if members is None else [(sub, *listed) for sub, listed in members.items()]
        return self._backend.name, told.life, told.version, rows, told.number

    def versions_of(self, channels: Iterable[str]) -> tuple[str, list[tuple[str, int, int]]]:
        """This worker's name; and of each channel the list's life and version, and the number of members. The list is
        told for longer."""
        leases = [self._lease(channel) for channel in channels]
        return self._backend.name, [(told.life, told.version, told.number) for told in leases]

    def leaves(self, channel: str, sub: str) -> None:
        """Note that a member has said that it leaves: if it is gone at the next look, it is told so at once."""
        told = self._channels.get(channel)
        if told is not None:
            told.left.add(sub)

    def _lease(self, channel: str) -> _Channel:
        told = self._channels.get(channel)
        if told is None:
            told = self._channels[channel] = _Channel()
            told.life = next(self._lives)
        told.until = time.monotonic() + LEASE
        if not self._runs:
            self._runs = True
            self._spawn(self._run)
        return told

    def _run(self) -> None:
        while self._channels:
            began, turn = time.monotonic(), Turn()
            for channel, told in list(self._channels.items()):
                turn.look()
                faults.call("a look at members", self._visit, channel, told)
            gevent.sleep(min(LONGEST, max(LOOK, SHARE * (time.monotonic() - began))))
        self._runs = False

    def _visit(self, channel: str, told: _Channel) -> None:
        """Look at a channel if that is due, or forget it if nobody has asked about it for long."""
        now = time.monotonic()
        if told.until < now:
            self._channels.pop(channel, None)
        elif now >= told.next or self._here.version(channel) != told.seen:
            with self._looking:
                self._look(channel, told)

    def _look(self, channel: str, told: _Channel) -> None:
        """Look at a channel, and tell what has changed."""
        told.seen = self._here.version(channel)
        told.number, found = self._here.members(channel)
        now = time.monotonic()
        told.next = now + AGAIN
        members = told.members
        if found is None or members is None:
            if found is None and members is None:
                return
            # Another list begins, which watchers ask for.
            told.members = None if found is None else {sub: _listed(each) for sub, each in found.items()}
            told.gone.clear()
            told.life, told.version = next(self._lives), 0
            self._tell(channel, told, [], [])
            return
        on: list[tuple[Any, ...]] = []
        for sub, member in found.items():
            known = members.get(sub)
            if known is None or known.info != member.info:
                listed = _listed(member)
                members[sub] = listed = listed if known is None else listed._replace(since=known.since)
                on.append((sub, *listed))
        off = self._left(told, members, found, now)
        if on or off:
            told.version += 1
            self._tell(channel, told, on, off)

    def _left(
        self, told: _Channel, members: dict[str, Listed], here: Mapping[str, Member], now: float
    ) -> list[str]:  # fmt: skip
        """Take the members out that have been gone for long enough, and return their subjects. Those that poll are gone
        since their last poll was answered."""
        linger = self._limits.presence_linger
        gone = {sub: told.gone.get(sub, now) for sub in members.keys() - here.keys()}
        off = [sub for sub, since in gone.items() if now - since >= linger or sub in told.left]
        told.left.clear()
        age = now - time.time()
        gone |= {sub: each.polled + age for sub, each in here.items() if not each.is_attached}
        for sub in off:
            del members[sub], gone[sub]
        told.gone = gone
        if gone:
            told.next = min(told.next, min(gone.values()) + linger)
        return off

    def _tell(self, channel: str, told: _Channel, on: list[tuple[Any, ...]], off: list[str]) -> None:
        try:
            self._backend.tell(self._topic(channel), dumps([self._backend.name, told.life, told.version, on, off]))
        except BackboneFull:
            return  # watchers miss it, and ask for the list


def _listed(member: Member) -> Listed:
    return Listed(member.info, member.since, member.newest)
