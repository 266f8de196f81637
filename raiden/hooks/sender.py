"""Sends the events of an endpoint's queue to it, in the order of each key (`raiden.hooks.lanes`), at least once.

One worker of the cluster sends. It keeps its progress in the store, so that another one goes on where it was; events
that were under way meanwhile are sent again, with the same id. An event that fails is tried again after a second, then
after twice as long each time, up to an hour, each time a quarter shorter or longer by chance. After ``attempts`` it is
given up: it becomes a message of `events.DEAD`.

While the last attempt got no answer, or one that says that the receiver has too much to do, only one event at a time is
sent. An endpoint that says 410 (Gone) is sent nothing more, as the specification asks, until the settings change or
the node starts again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
import ujson
from gevent.event import Event as Signal
from gevent.pool import Pool

from raiden.history.client import History
from raiden.history.store import Append, StoreFailed
from raiden.hooks import events
from raiden.hooks.answer import Answer
from raiden.hooks.client import CONNECTIONS, HookFailed, HttpClient
from raiden.hooks.endpoint import Endpoint
from raiden.hooks.lanes import Item, Lanes
from raiden.hooks.queue import store
from raiden.model.chain import Lives
from raiden.model.encoding import dumps
from raiden.model.message import EARLIEST, Cursor, Kind
from raiden.runtime import faults
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# Messages of `events.DEAD` that are kept, and the seconds for which each is.
DEAD_SIZE: Final = 10_000
DEAD_KEPT: Final = 30 * 86400.0
# Seconds before the second attempt, and the most before another.
FIRST_DELAY: Final = 1.0
MOST_DELAY: Final = 3600.0
# Events of a page of the queue; seconds between two times that the progress is kept; seconds for which it is.
_PAGE: Final = 200
_KEEP_EVERY: Final = 0.2
_KEPT: Final = 30 * 86400.0
# Answers that say that the receiver has too much to do.
_BUSY: Final = frozenset({429, 502, 503, 504})


class Deposed(Exception):
    """Another worker has gone on with the progress."""


class Sender:
    """The sender for an endpoint, by a worker that is called ``holder``. ``leads`` tells whether this worker is still
    the one that sends."""

    def __init__(
        self, endpoint: Endpoint, history: History, *, holder: str, attempts: int, leads: Callable[[], bool]
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self._history = history
        self._holder = holder
        self._attempts = attempts
        self._leads = leads
        self._client = HttpClient(endpoint.url, timeout=endpoint.timeout, insecure=endpoint.insecure)
        self._kept = f"webhooks/{endpoint.name}"
        self._pool = Pool(CONNECTIONS)
        self._lanes = Lanes()
        self._lives = Lives("", 1, ())  # of the queue
        self._position: Cursor | None = None
        self._news = True  # the queue may have more than was read
        self._wake = Signal()
        self._dirty = False
        self._kept_at = 0.0
        self._troubled = self._gone = False
        self._said = Seldom()
        self.figures = {"sent": 0, "failed": 0, "retried": 0, "dead": 0, "lost": 0}

    def run(self) -> None:
        """Send for as long as this worker is the one that sends. Raises Deposed and StoreFailed."""
        self._begin()
        while self._leads():
            self._read()
            self._send()
            self._keep()
            self._wait()

    def look(self, position: Cursor | None) -> None:
        """Hear of the position of the queue, now and then."""
        self._position = position
        if position is not None and position.place != (self._lives.epoch, self._lanes.end):
            self._news = True
            self._wake.set()

    def row(self) -> dict[str, Any]:
        """The figures for metrics."""
        behind = max(0, self._position.offset - self._lanes.end) if self._position else 0
        return {"webhook": self.endpoint.name, **self.figures, "waiting": behind + self._lanes.open}

    def close(self) -> None:
        """Stop, and keep the progress if that can be done soon."""
        self._pool.kill()
        self._client.close()
        try:
            with gevent.Timeout(1.0, StoreFailed("")):
                self._keep(now=True)
        except (StoreFailed, Deposed):
            pass  # what was sent since the progress was kept last is sent again

    # The queue.

    def _begin(self) -> None:
        """Take over the progress."""
        self._pool.kill()
        found = self._history.take(self._kept, self._holder)
        progress = ujson.loads(found[0]) if found else None
        self._lanes = Lanes(progress)
        self._lives = Lives(progress["epoch"], progress["base"] + 1, ()) if progress else Lives("", 1, ())
        self._news, self._dirty = True, not found
        self._keep(now=True)

    def _read(self) -> None:
        """Read on in the queue, as far as there is room."""
        lanes = self._lanes
        while self._news and lanes.room > 0:
            cursor = Cursor(self._lives.epoch_of(lanes.end), lanes.end) if self._lives.epoch else EARLIEST
            page = self._history.after(self.endpoint.queue, cursor, min(_PAGE, lanes.room))
            if page.position is None:
                self._news = False
                return
            self._lives = page.lives
            if page.gap is not None and not page.gap.first:
                log.warning("the queue of a webhook is another one than before", extra={"webhook": self.endpoint.name})
                lanes = self._lanes = Lanes({"base": page.begin, "tried": page.begin, "left": []})
            elif page.gap is not None:
                self._lost(page.gap.last - page.gap.first + 1)
            lanes.skip_to(page.begin)
            for message in page.messages(self.endpoint.queue):
                assert message.cursor is not None
                key, body = events.key_and_body(message.payload)
                lanes.add(Item(message.cursor.offset, f"msg_{message.cursor.epoch}_{message.cursor.offset}", key, body))
            if not page.more:
                lanes.skip_to(page.position.offset)
            self._news, self._dirty = page.more, True

    def _lost(self, count: int) -> None:
        self.figures["lost"] += count
        if self._said.may_say("lost"):
            log.error(
                "events for a webhook are lost: its queue was full, or they were too old (webhook_queue)",
                extra={"webhook": self.endpoint.name, "events": count},
            )

    def _keep(self, *, now: bool = False) -> None:
        """Keep the progress, if it is time. Raises Deposed."""
        if not self._lives.epoch or not (now or (self._dirty and time.monotonic() - self._kept_at >= _KEEP_EVERY)):
            return
        self._dirty = False
        self._kept_at = time.monotonic()
        progress = self._lanes.progress()
        value = dumps({**progress, "epoch": self._lives.epoch_of(progress["base"])})
        if not self._history.keep(self._kept, value, _KEPT, self._holder):
            raise Deposed

    # Sending.

    def _may_send(self) -> bool:
        return not self._gone and len(self._pool) < (1 if self._troubled else CONNECTIONS) and self._leads()

    def _send(self) -> None:
        while self._may_send():
            item = self._lanes.take(time.time())
            if item is None:
                return
            self._pool.spawn(self._post, self._lanes, item)

    def _wait(self) -> None:
        due = self._lanes.next_due() if self._may_send() else None
        wait = 0.5 if due is None else min(0.5, max(0.0, due - time.time()))
        if self._dirty:
            wait = min(wait, max(0.0, self._kept_at + _KEEP_EVERY - time.monotonic()))
        self._wake.wait(max(wait, 0.001))
        self._wake.clear()

    def _post(self, lanes: Lanes, item: Item) -> None:
        """Try to send an event."""
        self.figures["retried"] += item.attempts > 0
        answer: Answer | None = None
        reason = ""
        try:
            answer = self._client.post(item.body, self.endpoint.signed(item.id, int(time.time()), item.body))
        except HookFailed as error:
            reason = str(error)
        except Exception:  # whatever it is, the event must not stay under way for ever
            faults.report("sending a webhook")
            reason = "a fault of this node"
        if answer is not None and 200 <= answer.status < 300:
            self.figures["sent"] += 1
            self._troubled = False
            lanes.done(item)
        else:
            self._failed(lanes, item, answer, reason or f"it answers {answer.status if answer else 0}")
        self._dirty = True
        self._wake.set()

    def _failed(self, lanes: Lanes, item: Item, answer: Answer | None, reason: str) -> None:
        self.figures["failed"] += 1
        self._troubled = answer is None or answer.status in _BUSY
        if answer is not None and answer.status == 410:
            self._gone = True
            log.error(
                "an endpoint of webhooks is gone (410): it is sent nothing more, until the setting changes or the "
                "node starts again", extra={"webhook": self.endpoint.name},
            )  # fmt: skip
        elif self._said.may_say(reason):
            log.warning("a webhook was not taken", extra={"webhook": self.endpoint.name, "reason": reason})
        delay = min(MOST_DELAY, FIRST_DELAY * 2.0 ** min(item.attempts, 20)) * random.uniform(0.75, 1.25)
        delay = min(MOST_DELAY, max(delay, _retry_after(answer)))
        if item.attempts + 1 >= self._attempts and not self._gone:
            try:
                store(self._history, [self._letter(item, reason)])
            except StoreFailed:
                pass  # it is tried once more, and given up then
            else:
                self.figures["dead"] += 1
                lanes.done(item)
                return
        lanes.failed(item, time.time() + delay)

    def _letter(self, item: Item, reason: str) -> Append:
        told = dumps({"webhook": self.endpoint.name, "id": item.id, "attempts": item.attempts + 1, "reason": reason})
        letter = b'%b,"event":%b}' % (told[:-1], item.body)
        return Append(events.DEAD, [(Kind.JSON, letter)], size=DEAD_SIZE, ttl=DEAD_KEPT, key=f"{item.id} {self._kept}")


def _retry_after(answer: Answer | None) -> float:
    """The seconds that an answer asks to wait for (RFC 9110 section 10.2.3); 0 where it says none, or a date."""
    text = answer.headers.get("retry-after", "") if answer is not None else ""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0
