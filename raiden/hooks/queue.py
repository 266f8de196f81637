"""The queues of webhooks' events: an internal channel of the store for each endpoint.

The event of a message that is stored is appended together with it, all or none. Other events are appended soon after
they happened, in their order, one group at a time. While the store does not take them they wait here.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import gevent
from gevent.event import AsyncResult
from gevent.event import Event as Signal

from raiden.history.client import History
from raiden.history.store import Append, Appended, StoreFailed
from raiden.hooks import events
from raiden.hooks.endpoint import PUBLISHED, Endpoint
from raiden.hooks.events import Event
from raiden.model.message import Kind, Message
from raiden.model.refusals import Refusal
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# Seconds for which an event is kept.
KEPT: Final = 7 * 86400.0
# Events that wait here while the store takes none, and bytes of them; those of a group, and bytes after which it ends.
MAX_HELD: Final = 10_000
MAX_HELD_BYTES: Final = 16 << 20
_GROUP: Final = 500
_GROUP_BYTES: Final = 1 << 20
# Seconds after which a group is tried again.
_RETRY: Final = 1.0


class Queues:
    """The queues of ``endpoints``, of at most ``size`` events each."""

    def __init__(self, history: History, endpoints: Sequence[Endpoint], *, size: int) -> None:
        self.endpoints = endpoints
        self._history = history
        self._size = size
        self._held: deque[Event] = deque()
        self._bytes = 0
        # The group that is being appended: its number of events, and its appends.
        self._group: tuple[int, list[Append]] | None = None
        self._empty = Signal()
        self._empty.set()
        self._said = Seldom()

    @property
    def wants_messages(self) -> bool:
        return any(PUBLISHED in endpoint.events for endpoint in self.endpoints)

    def to(self, told: Iterable[Event], key: str | None = None) -> list[Append]:
        """The appends of events to the queues of all that want them."""
        told = list(told)
        found = []
        for endpoint in self.endpoints:
            bodies = [
                (Kind.BYTES, event.queued(endpoint.told(event.type, event.channel, event.body)))
                for event in told if endpoint.wants(event.type, event.channel)
            ]  # fmt: skip
            if bodies:
                found.append(Append(endpoint.queue, bodies, size=self._size, ttl=KEPT, key=key))
        return found

    def tell(self, event: Event) -> None:
        """Append an event soon."""
        if not any(endpoint.wants(event.type, event.channel) for endpoint in self.endpoints):
            return
        if len(self._held) >= MAX_HELD or self._bytes > MAX_HELD_BYTES:
            if self._said.may_say("lost"):
                log.error("events for webhooks are lost: the store takes none")
            return
        self._held.append(event)
        self._bytes += len(event.body)
        self._empty.clear()
        if self._group is None:
            self._group = 0, []
            gevent.get_hub().loop.run_callback(self._next)  # together with others of this turn

    def tell_once(self, event: Event, key: str) -> None:
        """Append an event now, unless another worker has done so under this key in the last minutes. While the store
        takes none it is lost."""
        appends = self.to([event], f"{event.type} {key}")
        if appends:
            try:
                self._history.append(appends, lambda outcome: None)
            except StoreFailed:
                pass  # it would be told anew with the next one

    def flush(self, timeout: float) -> None:
        """Wait until all events were appended, at most so many seconds."""
        self._empty.wait(timeout)

    # The methods of a witness (`raiden.backend`).

    def appends(self, groups: Sequence[Sequence[Message]], key: str | None) -> list[Append]:
        found = []
        for group in groups:
            if any(endpoint.wants(PUBLISHED, group[0].channel) for endpoint in self.endpoints):
                # Publishers' keys are of a channel, and a queue has the events of many.
                own = key and hashlib.sha256(f"{group[0].channel}\0{key}".encode()).hexdigest()
                found += self.to(map(events.of_message, group), own)
        return found

    def published(self, messages: Sequence[Message]) -> None:
        if messages[0].kind != Kind.DELETION and any(
            endpoint.wants(PUBLISHED, messages[0].channel) for endpoint in self.endpoints
        ):
            for message in messages:
                self.tell(events.of_message(message))

    # Groups of events.

    def _next(self) -> None:
        """Append the next group."""
        size, some = 0, list[Event]()
        for event in self._held:
            if len(some) == _GROUP or size > _GROUP_BYTES:
                break
            some.append(event)
            size += len(event.body)
        # The key makes it safe to append the group again where nobody knows whether it was appended.
        self._group = len(some), self.to(some, os.urandom(12).hex())
        self._append()

    def _append(self) -> None:
        assert self._group is not None
        try:
            self._history.append(self._group[1], self._appended)
        except StoreFailed as error:
            self._appended(error)

    def _appended(self, outcome: list[Appended] | Refusal) -> None:
        assert self._group is not None
        if isinstance(outcome, Refusal):
            gevent.spawn_later(_RETRY, self._append)
            return
        for _ in range(self._group[0]):
            self._bytes -= len(self._held.popleft().body)
        self._group = None
        if self._held:
            self._next()
        else:
            self._empty.set()


def store(history: History, appends: Sequence[Append]) -> list[Appended]:
    """Append all, and wait until that is done; raises StoreFailed."""
    outcome: AsyncResult[list[Appended] | Refusal] = AsyncResult()
    history.append(appends, outcome.set)
    found = outcome.get()
    if isinstance(found, Refusal):
        raise found
    return found
