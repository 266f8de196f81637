"""The channels that clients of this worker watch.

A watch follows the channel's topic on the backbone, asks all workers for their lists of members, and then hears what
changes. Every few seconds it asks whether the lists are still those that it knows, which mends what was lost on its
way. The lists of workers that are gone, or whose node is suspected, are forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import copy
from typing import Any, Final

import gevent
import ujson
from gevent.event import AsyncResult

from raiden.backend import Backend
from raiden.delivery.questions import Questions, to_workers
from raiden.delivery.table import Subscription
from raiden.model.refusals import Refusal, Unavailable, attempt
from raiden.presence.told import LISTS, SAME
from raiden.presence.watch import CROWDED, Event, Listed, Watch
from raiden.protocols.limits import PresenceLimits
from raiden.runtime import faults

# Channels that a worker watches, unless a kind of watcher has a `Share` of its own.
MOST: Final = 10_000
# Seconds between looks at what is due; between questions whether lists are still the same; for which a channel is
# watched that no client watches any more: those of long-polls come back.
TICK: Final = 0.25
RENEW: Final = 3.0
STAY: Final = 30.0
# Seconds of telling the watchers of a channel after which these rest, and times as long as that they do.
LONG: Final = 0.005
REST: Final = 3.0
# Channels in one question: for their lists; and whether these are still the same.
LISTED_AT_ONCE: Final = 16
SAME_AT_ONCE: Final = 500


class TooManyWatched(Unavailable):
    """This worker watches as many channels as it may, by the `Share` of the watchers."""


class Share:
    """Channels that watchers of one kind may have watched on this worker, ``most`` of them; ``what`` these are to who
    is refused. A channel counts for the kind that came first, until it is watched no longer."""

    __slots__ = ("count", "most", "what")

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self.what = what
        self.count = 0

    def take(self) -> None:
        """Count a channel. Raises TooManyWatched."""
        if self.count >= self.most:
            raise TooManyWatched(f"this worker watches {self.most} {self.what} already: try again later")
        self.count += 1


class Notice:
    """Events of a channel for its watchers, and their bytes by the kind of watcher."""

    __slots__ = ("_bytes", "channel", "digest", "events")

    def __init__(self, channel: str, events: Sequence[Event], digest: str) -> None:
        self.channel = channel
        self.events = events
        self.digest = digest
        self._bytes: dict[Hashable, bytes] = {}

    def encoded(self, kind: Hashable, encode: Callable[[str, dict[str, Any]], bytes]) -> bytes:
        """The bytes of all events for watchers of this kind, which ``encode`` makes of the name of an event and what it
        tells."""
        data = self._bytes.get(kind)
        if data is None:
            told = [encode(name, {"channel": self.channel, name: what}) for name, what in self.events]
            data = self._bytes[kind] = b"".join(told)
        return data


class Watched:
    """A channel that is watched: its `watch`, and the subscriptions whose clients watch it. It counts in a
    ``share``."""

    def __init__(self, channel: str, share: Share) -> None:
        self.channel = channel
        self.share = share
        self.watch = Watch()
        self.subscriptions: dict[Subscription, None] = {}
        self.ready: AsyncResult[Refusal | None] = AsyncResult()
        # Changes that come while lists are asked for; None: they are not.
        self.early: list[list[Any]] | None = []
        # Whether a change was missed; when somebody last watched; until when nothing is told.
        self.stale = False
        self.used = time.monotonic()
        self.rests_until = 0.0
        self._first: Notice | None = None

    def hear(self, change: list[Any]) -> None:
        if self.early is not None:
            self.early.append(change)
        elif not self.watch.hear(*change):
            self.stale = True

    def take(self, answers: Iterable[Any], workers: Iterable[str], linger: float) -> None:
        """Take the lists of workers, and the changes that came meanwhile."""
        told = set()
        early, self.early = self.early or [], None
        for worker, life, version, rows, count in answers:
            told.add(worker)
            members = None if rows is None else {sub: Listed(*listed) for sub, *listed in rows}
            self.watch.take(worker, life, version, members, count, linger)
        self.watch.complete = told.issuperset(workers)
        self.has_changed()
        for change in early:
            self.hear(change)

    @property
    def first(self) -> Notice:
        """The list of members, as all are told it that begin to watch now."""
        if self._first is None or self.watch.digest == CROWDED:
            self._first = Notice(self.channel, [("presence", self.watch.listing())], self.watch.digest)
        return self._first

    def has_changed(self) -> None:
        """Note that the list is another one from now on."""
        self._first = None

    def tell(self, events: Sequence[Event]) -> None:
        """Tell all that watch."""
        if not events:
            return
        self.has_changed()
        if not self.subscriptions:
            return
        notice = Notice(self.channel, events, self.watch.digest)
        for subscription in list(self.subscriptions):
            if subscription.topic is None:
                del self.subscriptions[subscription]
            else:
                owner: Any = subscription.owner
                faults.call("telling of presence", owner.presence, subscription, notice)


class Watches:
    """The channels that a worker watches. ``topic`` gives the topic of a channel; ``spawn`` runs a function in a
    greenlet."""

    def __init__(
        self, backend: Backend, limits: PresenceLimits, *, topic: Callable[[str], bytes],
        spawn: Callable[[Callable[[], None]], object], lists: bytes = LISTS, same: bytes = SAME,
    ) -> None:  # fmt: skip
        self._backend = backend
        self._limits = limits
        self._topic = topic
        self._spawn = spawn
        self._watched: dict[str, Watched] = {}
        self._share = Share(MOST, "channels' members")
        self._lists = Questions(to_workers(backend, lists, everywhere=True), at_once=LISTED_AT_ONCE)
        self._same = to_workers(backend, same, everywhere=True)
        self._runs = False
        self._renewed = 0.0
        # The workers that were there at the last look.
        self._there: set[str] = set()

    def open(self, channels: Sequence[str], *, fresh: bool = False, share: Share | None = None) -> list[Watched]:
        """Watch channels: their members are known from now on. ``fresh``: also those that have come just now, of whom
        workers have not told yet. They count in a ``share`` (None: in that of all watchers without one). Waits; raises
        NotInForce, TooManyQuestions and TooManyWatched."""
        names = dict.fromkeys(channels)
        known = self._watched.keys() & names
        found = [self._watched.get(channel) or self._begin(channel, share or self._share) for channel in names]
        for each in found:
            each.used = time.monotonic()
            refusal = each.ready.get()
            if refusal is not None:
                raise copy(refusal)  # frames that it is raised in refer to the watch, too
            if fresh and each.channel in known:
                self._ask(each)
        return found

    def listen(self, watched: Watched, subscription: Subscription) -> None:
        """From now on the owner of a subscription is told of joins and leaves, until the subscription ends."""
        watched.subscriptions[subscription] = None

    def _begin(self, channel: str, share: Share) -> Watched:
        share.take()
        topic = self._topic(channel)
        watched = self._watched[channel] = Watched(channel, share)
        self._backend.follow(topic, lambda text: self._hear(watched, text))
        gevent.spawn(self._open, watched)
        if not self._runs:
            self._runs = True
            self._spawn(self._run)
        return watched

    def _open(self, watched: Watched) -> None:
        def work() -> None:
            self._backend.in_force(own_topics=True)
            self._ask(watched)

        outcome = attempt("a watch of members", work)
        if outcome is not None:
            self._end(watched)
        watched.ready.set(outcome)

    def _ask(self, watched: Watched) -> None:
        """Ask for a channel's lists."""
        answers: list[Any] = []
        watched.stale, watched.early = False, watched.early or []
        try:
            answers = self._lists.ask(watched.channel)
        except Refusal:
            watched.stale = True
            raise
        finally:
            watched.take(answers, self._backend.all_workers(), self._limits.presence_linger)
        self._settle(watched)

    def _end(self, watched: Watched) -> None:
        if self._watched.get(watched.channel) is watched:
            del self._watched[watched.channel]
            watched.share.count -= 1
            self._backend.unfollow(self._topic(watched.channel))

    def _hear(self, watched: Watched, text: bytes) -> None:
        worker, life, version, on, off = ujson.loads(text)
        watched.hear([worker, life, version, on, off])
        self._settle(watched)

    def _settle(self, watched: Watched) -> None:
        """Tell what has changed: now, or where telling takes long, later together with what comes until then."""
        now = time.monotonic()
        if now < watched.rests_until:
            return
        watched.tell(watched.watch.settle(now, self._limits.max_presence))
        end = time.monotonic()
        if end - now > LONG:
            watched.rests_until = end + REST * (end - now)

    # What is due.

    def _run(self) -> None:
        while self._watched:
            gevent.sleep(TICK)
            faults.call("a look at what is watched", self._look)
        self._runs = False

    def _look(self) -> None:
        now = time.monotonic()
        there = {name for name, is_there in self._backend.all_workers().items() if is_there}
        is_time = now >= self._renewed + RENEW
        for watched in list(self._watched.values()):
            if there and (is_time or there != self._there):
                watched.watch.only(there, self._limits.presence_linger)
            if watched.watch.waits:
                self._settle(watched)
        self._there = there
        if is_time:
            self._renewed = now
            self._drop_unused(now)
            self._renew()
        stale = [each for each in self._watched.values() if each.stale and each.early is None]
        gevent.joinall([gevent.spawn(self._ask_again, each) for each in stale[:LISTED_AT_ONCE]])

    def _ask_again(self, watched: Watched) -> None:
        try:
            self._ask(watched)
        except Refusal:
            return  # it stays stale

    def _drop_unused(self, now: float) -> None:
        for watched in list(self._watched.values()):
            for subscription in [each for each in watched.subscriptions if each.topic is None]:
                del watched.subscriptions[subscription]
            if watched.subscriptions:
                watched.used = now
            elif watched.ready.ready() and now - watched.used > STAY:
                self._end(watched)

    def _renew(self) -> None:
        """Ask whether the lists are still those that are known, so that they are told for longer."""
        every = [each for each in self._watched.values() if each.early is None]
        for start in range(0, len(every), SAME_AT_ONCE):
            some = every[start : start + SAME_AT_ONCE]
            (answers,) = self._same([[each.channel for each in some]])
            told: set[str] = set()
            for worker, versions in answers:
                told.add(worker)
                for watched, version in zip(some, versions, strict=True):
                    watched.stale = watched.stale or not watched.watch.knows(worker, *version)
            missing = not told.issuperset(self._backend.all_workers())
            for watched in some:
                watched.watch.complete = not missing
                watched.has_changed()
