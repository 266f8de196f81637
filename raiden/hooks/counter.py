"""Asks the workers of the cluster which channels have subscribers, and queues the events `channel.occupied` and
`channel.vacated`: one worker of the cluster does that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import gevent
import ujson

from raiden.backbone.roster import DROP
from raiden.backend import Backend
from raiden.history.client import History
from raiden.hooks import events, journal
from raiden.hooks.endpoint import OCCUPIED, VACATED
from raiden.hooks.journal import Journal
from raiden.hooks.occupied import Occupied
from raiden.hooks.queue import Queues, store
from raiden.model.encoding import dumps
from raiden.model.message import Cursor
from raiden.runtime import faults

# Seconds between questions.
EVERY: Final = 0.5


class Counter:
    """``settle`` are the seconds for which a channel must have no subscribers to be vacated. ``leads`` tells whether
    this worker is still the one that counts."""

    def __init__(
        self, backend: Backend, history: History, queues: Queues, *, settle: float, leads: Callable[[], bool]
    ) -> None:  # fmt: skip
        self._backend = backend
        self._history = history
        self._queues = queues
        self._settle = settle
        self._leads = leads
        self._journal = Journal()

    def run(self) -> None:
        """Count for as long as this worker is the one that counts. Raises StoreFailed: then it is to be run again."""
        self._journal = self._read_journal()
        told = self._journal.told
        # A node that is gone is in the roster for a while, and its clients take their time to come back.
        patience = max(self._settle, DROP)
        occupied = Occupied(told, self._wanted, settle=self._settle, patience=patience, now=time.monotonic())
        store(self._history, [self._journal.anew(told)])
        while self._leads():
            self._ask(occupied)
            while self._tell(occupied):
                gevent.sleep(0)
            if self._journal.has_grown(len(occupied.told)):
                store(self._history, [self._journal.anew(occupied.told)])
            gevent.sleep(EVERY)

    def _wanted(self, channel: str) -> bool:
        return any(each.wants(OCCUPIED, channel) or each.wants(VACATED, channel) for each in self._queues.endpoints)

    def _read_journal(self) -> Journal:
        found, cursor = Journal(), None
        while True:
            page = self._history.after(journal.CHANNEL, cursor, 1000)
            found.read([record.payload for record in page.records])
            if not page.more:
                return found
            last = page.records[-1].offset
            cursor = Cursor(page.lives.epoch_of(last), last)

    def _ask(self, occupied: Occupied) -> None:
        question = b"occupied " + dumps([occupied.known()])
        answers = self._backend.ask(question, everywhere=True)
        now = time.monotonic()
        for answer in answers:
            faults.call("an answer of a worker", self._hear, occupied, answer, now)
        workers = self._backend.all_workers()
        if workers:  # else the roster was not heard yet
            occupied.only(workers, now)

    @staticmethod
    def _hear(occupied: Occupied, answer: bytes, now: float) -> None:
        ((name, changes),) = ujson.loads(answer)
        occupied.hear(name, changes, now)

    def _tell(self, occupied: Occupied) -> bool:
        """Queue some of the events that are due, and return whether there were any."""
        now = time.monotonic()
        workers = self._backend.all_workers()
        known = bool(workers) and occupied.knows([name for name, is_there in workers.items() if is_there])
        on, off = occupied.occupied(), occupied.vacated(now) if known else []
        if not (on or off) or not self._leads():
            return False
        told = [events.of_channel(OCCUPIED, name) for name in on] + [events.of_channel(VACATED, name) for name in off]
        store(self._history, [*self._queues.to(told), self._journal.change(on, off)])
        occupied.tell(on, off)
        return True
