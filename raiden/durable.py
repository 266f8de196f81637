"""Durable subscriptions: consumers that share a channel's messages under one name, and acknowledge them.

The place of a durable, and which messages are claimed until when, is in the store, for all nodes. A `Consumer` claims
messages for one connection. New ones wake it, by a subscription like any other; what others did not acknowledge in time
it finds by asking now and then. What it has claimed and was not acknowledged, it gives back when it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gevent
from gevent.event import Event

from raiden import encoding
from raiden.backend import NotInForce
from raiden.encoding import Encoding
from raiden.history import Gap, StoreFailed
from raiden.history.client import History
from raiden.message import Cursor, Message
from raiden.parameters import Durable
from raiden.router import Router
from raiden.table import Subscription

log = logging.getLogger(__name__)

# Seconds between looks for what others did not acknowledge.
LOOK = 1.0

# What a consumer is woken by has no content.
_KNOCK = Encoding("knock", lambda message: b"")


class Claim(NamedTuple):
    """A message that is the consumer's for a while; ``attempt`` counts how often it was claimed."""

    message: Message
    attempt: int


class Consumer:
    """Claims messages of ``channel`` for the durable subscription ``name``, at most ``window`` that are not
    acknowledged, each for ``ack_wait`` seconds. A durable that is new begins at ``since`` (None: now)."""

    lasts = False

    def __init__(
        self, router: Router, channel: str, name: str, *, window: int, ack_wait: float,
        since: Cursor | None = None,
    ) -> None:  # fmt: skip
        history = router.backend.history
        assert history is not None
        self.pending: list[bytes] = []
        self._history: History = history
        self._router = router
        self._channel = channel
        self._name = name
        self._window = window
        self.ack_wait = ack_wait
        self._since = since
        self._claimed: dict[Cursor, tuple[int, float]] = {}
        self._made = self._in_force = False
        self._wake = Event()
        self._subscription: Subscription | None = router.subscribe(channel, self, self, _KNOCK)
        router.attach(self._subscription)

    @property
    def over(self) -> bool:
        """It claims no more: it was ended, or the channel was deleted."""
        return self._subscription is None

    def claim(self, limit: int | None = None) -> tuple[list[Claim], Gap | None]:
        """What there is now, and what is lost; waits for the history, raises StoreFailed. With ``limit`` 0, the durable
        is there for sure, and nothing is claimed."""
        self._forget_late()
        room = max(0, self._window - len(self._claimed))
        limit = room if limit is None else min(room, limit)
        if limit == 0 and self._made:
            return [], None
        deadline = time.monotonic() + self.ack_wait
        records, epoch, gap = self._history.claim(self._channel, self._name, limit, self.ack_wait, self._since)
        self._made = True
        claims = [Claim(record.to_message(self._channel, epoch), attempt) for record, attempt in records]
        for message, attempt in claims:
            assert message.cursor is not None
            self._claimed[message.cursor] = attempt, deadline
        if self.over:
            self._give_back()
            return [], None
        return claims, gap

    def claim_within(self, seconds: float, enough: Callable[[], bool]) -> tuple[list[Claim], Gap | None]:
        """What there is within so many seconds, or until ``enough``."""
        deadline = time.monotonic() + seconds
        claims, gap = self.claim()
        while self._window and not (claims or gap or self.over or enough() or time.monotonic() >= deadline):
            self.wait(deadline - time.monotonic())
            claims, gap = self.claim()
        return claims, gap

    def wait(self, timeout: float = LOOK) -> None:
        """Wait until there may be something to claim, at most so many seconds."""
        if not self._in_force:
            # From here on new messages wake it; what came before may be there now.
            try:
                self._router.in_force([self._channel])
            except (NotInForce, StoreFailed):
                pass  # the look now and then finds them
            else:
                self._in_force = True
                return
        self._wake.wait(min(timeout, LOOK))
        self._wake.clear()

    def acknowledge(self, cursors: Sequence[Cursor]) -> list[Cursor]:
        """Be done with messages; those that were this consumer's to acknowledge. Waits; raises StoreFailed."""
        mine = [cursor for cursor in dict.fromkeys(cursors) if cursor in self._claimed]
        done = acknowledge(
            self._history, self._channel, self._name, [(cursor, self._claimed[cursor][0]) for cursor in mine]
        )
        for cursor in mine:
            self._claimed.pop(cursor, None)
        self._wake.set()
        return done

    def end(self, *, release: bool = True) -> None:
        """Claim no more, and give back what is not acknowledged, or leave it to be acknowledged by others."""
        if self._subscription is not None:
            self._router.unsubscribe(self._subscription)
            self._subscription = None
            self._wake.set()
            if self._claimed and release:
                gevent.spawn(self._give_back)

    def _give_back(self) -> None:
        claims = [(cursor, attempt) for cursor, (attempt, _) in self._claimed.items()]
        self._claimed.clear()
        try:
            for epoch in {cursor.epoch for cursor, _ in claims}:
                offsets = [(cursor.offset, attempt) for cursor, attempt in claims if cursor.epoch == epoch]
                self._history.release(self._channel, self._name, epoch, offsets)
        except StoreFailed as error:
            # They come again when their time is over.
            log.warning("claims were not given back", extra={"channel": self._channel, "reason": str(error)})

    def _forget_late(self) -> None:
        now = time.monotonic()
        for cursor in [cursor for cursor, (_, deadline) in self._claimed.items() if deadline <= now]:
            del self._claimed[cursor]

    # What a router wants of a sink and of the holder of a subscription.

    def flush(self) -> None:
        self.pending.clear()
        self._wake.set()

    def ended(self, subscription: Subscription) -> None:
        self._subscription = None
        self._wake.set()

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        self._wake.set()


def poll(
    router: Router, channel: str, asked: Durable, wait: float, *, gone: Callable[[], bool], enough: Callable[[], bool]
) -> bytes | None:
    """Acknowledge what is asked for, then claim messages, or wait ``wait`` seconds for some, at most until ``enough``
    or ``gone``: then what nobody will hear of is given back. Returns the answer as JSON, or None where there is
    nothing; raises StoreFailed."""
    history = router.backend.history
    assert history is not None
    if asked.acks:
        acknowledge(history, channel, asked.name, [(cursor, 0) for cursor in asked.acks])
    consumer = Consumer(router, channel, asked.name, window=asked.limit, ack_wait=asked.ack_wait, since=asked.since)
    try:
        claims, gap = consumer.claim_within(wait, lambda: gone() or enough())
    finally:
        consumer.end(release=gone())
    if not claims and gap is None:
        return None
    items = b",".join([encoding.claim(None, message, attempt) for message, attempt in claims])
    told = b"" if gap is None else b'"gap":%b,' % encoding.dumps(encoding.gap(None, gap))
    return b'{%b"messages":[%b]}' % (told, items)


def acknowledge(history: History, channel: str, name: str, claims: Sequence[tuple[Cursor, int]]) -> list[Cursor]:
    """Be done with messages of a durable, each by its cursor and attempt (0: whichever). Returns those that were
    claimed so; raises StoreFailed."""
    done = []
    for epoch in {cursor.epoch for cursor, _ in claims}:
        offsets = [(cursor.offset, attempt) for cursor, attempt in claims if cursor.epoch == epoch]
        done += [Cursor(epoch, offset) for offset in history.acknowledge(channel, name, epoch, offsets)]
    return done
