"""Webhooks: events are queued by each worker, and sent by one worker of the cluster.

That is the one that holds the lease: a value in the store, which it renews, and which another worker can have once it
has not been renewed for `LEASE` seconds. The first worker of each node tries. So whichever node ends, and whether or
not nodes see each other, one goes on, with the progress of each sender, and with the journal of what was told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import gevent
from gevent.pool import Group

from raiden.connections.connection import Connection
from raiden.history.client import History
from raiden.history.store import StoreFailed
from raiden.hooks import events
from raiden.hooks.counter import Counter
from raiden.hooks.endpoint import CONNECTED, DISCONNECTED, OCCUPIED, VACATED, Endpoint
from raiden.hooks.events import Event
from raiden.hooks.queue import Queues
from raiden.hooks.sender import Deposed, Sender
from raiden.router import Router
from raiden.runtime import faults
from raiden.runtime.seldom import Seldom
from raiden.runtime.service import Service

log = logging.getLogger(__name__)

# Seconds for which the lease holds unless it is renewed, and between two times that this is done, or tried.
LEASE: Final = 6.0
RENEW: Final = 1.5
# Seconds between two looks at the queues; before a sender or the counter goes on after a failure; and for which a
# worker that stops waits until its last events are queued.
LOOK: Final = 0.2
_AGAIN: Final = 1.0
_FLUSH: Final = 2.0
_NAME: Final = "webhooks"


class Webhooks(Service):
    """The webhooks of a worker. ``holder`` is its name for the lease, if it may have that. Queues have ``size`` events;
    an event is tried ``attempts`` times; a channel without subscribers for ``settle`` seconds is vacated."""

    def __init__(
        self, router: Router, history: History, endpoints: Sequence[Endpoint], *, holder: str | None, size: int,
        attempts: int, settle: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self._router = router
        self._history = history
        self._holder = holder
        self._clients: dict[Connection, tuple[str, dict[str, Any]]] = {}
        self._until = 0.0  # monotonic: how long the lease holds
        self._leading: gevent.Greenlet[..., Any] | None = None
        self._work = Group()
        self._senders: list[Sender] = []
        self._said = Seldom()
        self.become(endpoints, size=size, attempts=attempts, settle=settle)

    def become(self, endpoints: Sequence[Endpoint], *, size: int, attempts: int, settle: float) -> None:
        """Take other settings."""
        self._end_work()
        self._queues = Queues(self._history, endpoints, size=size)
        self._attempts = attempts
        self._settle = settle
        if not self.wants_clients:
            self._clients.clear()
        self._router.backend.witness = self._queues if self._queues.wants_messages else None

    def do_start(self) -> None:
        if self._holder is not None:
            self._leading = self.spawn(self._lead)

    def do_stop(self) -> None:
        self._queues.flush(_FLUSH)
        if self._leading is not None:
            self._leading.kill()  # or it would have the lease again
        leads = self._leads()
        self._end_work()
        if leads and self._holder is not None:
            try:
                with gevent.Timeout(1.0, StoreFailed("")):
                    self._history.keep(_NAME, b"", 0.001, self._holder)  # another one need not wait
            except StoreFailed:
                pass  # it ends by itself

    def tell(self, event: Event, once: str | None = None) -> None:
        """Queue an event; ``once``: unless one was queued under this key, by any worker, in the last minutes."""
        if once is None:
            self._queues.tell(event)
        else:
            self._queues.tell_once(event, once)

    @property
    def leads(self) -> bool:
        """Whether this worker is the one that sends."""
        return self._leads()

    # The methods of a watcher (`raiden.connections.door`).

    def came(self, connection: Connection) -> None:
        permit = connection.permit
        subject = None if permit is None else permit.client.subject
        data = {"sub": subject, "transport": connection.transport, "address": connection.address}
        id = self._router.ids.of(connection)
        self._clients[connection] = id, data
        self._queues.tell(events.of_client(CONNECTED, id, data))

    def left(self, connection: Connection) -> None:
        found = self._clients.pop(connection, None)
        if found is not None:
            self._queues.tell(events.of_client(DISCONNECTED, *found))

    @property
    def wants_clients(self) -> bool:
        return any(each.events & {CONNECTED, DISCONNECTED} for each in self._queues.endpoints)

    # The lease.

    def _lead(self) -> None:
        next_renewal = 0.0
        while True:
            if self._queues.endpoints and time.monotonic() >= next_renewal:
                next_renewal = time.monotonic() + RENEW
                self._renew()
            self._look()
            gevent.sleep(LOOK)

    def _renew(self) -> None:
        assert self._holder is not None
        began = time.monotonic()
        try:
            held = self._history.keep(_NAME, b"", LEASE, self._holder)
        except StoreFailed:
            held = False  # what the lease still allows goes on
        else:
            if not held:
                self._until = 0.0
        if held:
            self._until = began + LEASE
            if not self._work:
                self._begin_work()
        elif self._work and not self._leads():
            log.warning("another node sends webhooks from now on, or the store is away")
            self._end_work()

    def _leads(self) -> bool:
        return time.monotonic() < self._until

    def _begin_work(self) -> None:
        log.info("this node sends webhooks", extra={"webhooks": [each.name for each in self._queues.endpoints]})
        assert self._holder is not None
        for endpoint in self._queues.endpoints:
            sender = Sender(endpoint, self._history, holder=self._holder, attempts=self._attempts, leads=self._leads)
            self._senders.append(sender)
            self._work.start(gevent.Greenlet(self._go_on, sender))
        if any(each.events & {OCCUPIED, VACATED} for each in self._queues.endpoints):
            counter = Counter(
                self._router.backend, self._history, self._queues, settle=self._settle, leads=self._leads
            )  # fmt: skip
            self._work.start(gevent.Greenlet(self._go_on, counter))

    def _go_on(self, worker: Sender | Counter) -> None:
        """Run a sender or the counter for as long as this worker is not told to stop."""
        while True:
            try:
                if self._leads():
                    worker.run()
            except Deposed:
                log.warning("another worker has gone on with a webhook's queue")
            except StoreFailed as error:
                if self._said.may_say("store"):
                    log.warning("webhooks wait for the store", extra={"reason": str(error)})
            except Exception:  # a fault of ours must not end the clients' worker: the next time may be better
                faults.report("sending webhooks")
            gevent.sleep(_AGAIN)

    def _end_work(self) -> None:
        self._work.kill()
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.close()
        self._router.stats.webhooks = []

    def _look(self) -> None:
        """Tell the senders of news, and the figures to those that ask for metrics."""
        if not self._senders:
            return
        try:
            stands = self._history.positions([sender.endpoint.queue for sender in self._senders])
        except StoreFailed:
            return
        for sender in self._senders:
            stand = stands.get(sender.endpoint.queue)
            sender.look(None if stand is None else stand.position)
        self._router.stats.webhooks = [sender.row() for sender in self._senders]
