"""Revocations and disconnections on all nodes: told to every worker, which ends its connections, and kept in the store.

A manager's worker tells all workers at once, by a question, and answers when these have done it. A worker that was not
there asks later: at its start the store, if there is one, and the workers of its own node; then those of each node that
becomes connected. Until the store has told, or where there is none all workers of the node, tokens are refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import gevent
import ujson
from gevent.event import AsyncResult, Event

from raiden.access.clients import Client
from raiden.access.permit import Permit, Permits
from raiden.access.revocations import ON_SHELF, SHELVES, Revocation, shelf
from raiden.connections.connection import Connection
from raiden.delivery.questions import to_workers
from raiden.history.client import History
from raiden.history.store import Append, Appended, StoreFailed
from raiden.model.encoding import dumps
from raiden.model.message import Cursor, Kind
from raiden.model.refusals import Refusal, Unavailable
from raiden.model.strict_json import json_payload
from raiden.protocols.http import Json
from raiden.router import Router
from raiden.runtime.service import Service
from raiden.sessions.asks import Disconnect, Revoke
from raiden.sessions.over import DISCONNECTED, REVOKED, Over

log = logging.getLogger(__name__)

# The name under which the store keeps revocations, each as a message; no client can reach it. They are kept for years.
CHANNEL: Final = "-/revoked"
KEPT: Final = 10 * 366 * 86400.0
# Revocations that are read from the store at once, and that another worker tells at once, about.
PAGE: Final = 1000
# Seconds for which a start waits to know which tokens are revoked; between two looks at the store and the nodes, and
# between the first ones, until that is known.
PATIENCE: Final = 2.0
LOOK: Final = 1.0
SOON: Final = 0.1


class Ending(Protocol):
    """The client of a connection, as far as others end what it has."""

    def over(self, reason: Over) -> None:
        """End all that the client has."""

    def remove(self, name: str) -> None:
        """End what the client has of a channel, or of a pattern of this name."""


class Revoking(Service):
    """The revocations of a worker's ``permits``. ``clients`` gives the connections with something to end, and
    ``forget`` forgets what is remembered of credentials."""

    def __init__(
        self, router: Router, permits: Permits, clients: Callable[[], Iterator[tuple[Connection, Ending]]],
        forget: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__()
        self._router = router
        self._permits = permits
        self._table = permits.revocations
        self._clients = clients
        self._forget = forget
        self.others: list[Callable[[Callable[[Client], bool]], int]] = []
        """Ways to end what clients have by further tokens: each is called with a function that tells whether the token
        of a client is revoked now, and returns how much it has ended."""
        # Nodes, by id and start, whose revocations are known.
        self._nodes: set[tuple[str, Any]] = set()
        # Whether the other workers were asked, and whether it is known which tokens are revoked.
        self._asked = False
        self._known = Event()
        router.answers.others.update({b"revoke": self._take, b"disconnect": self._end, b"revoked": self._part})

    def do_start(self) -> None:
        self._table.known = False
        if self._router.history is None and self._router.backend.workers_here == 1:
            self._is_known()
        self.spawn(self._follow)
        self._known.wait(PATIENCE)

    def _is_known(self) -> None:
        self._table.known = True
        self._known.set()

    # What a manager asks for.

    def revoke(self, ask: Revoke) -> Json:
        """Revoke on all nodes; the answer has the number of connections that this has ended. Waits; raises Unavailable,
        which says how far it was done."""
        one = self._table.following(ask.revocation, time.time())
        place = shelf(one, self._table.same(one))
        ended = self._tell(b"revoke", list(one))
        if self._router.history is not None:
            try:
                self._keep(one, place)
            except StoreFailed as error:
                raise Unavailable(
                    f"it holds on the nodes that run, but was not kept: try again ({error.detail})"
                ) from None
        return _answer(ended)

    def disconnect(self, ask: Disconnect) -> Json:
        """End what a subject has on all nodes; otherwise as `revoke`."""
        return _answer(self._tell(b"disconnect", list(ask)))

    def _tell(self, kind: bytes, argument: Any) -> int:
        backend = self._router.backend
        answers = to_workers(backend, kind, everywhere=True)([argument])[0]
        if len(answers) < backend.workers:
            raise Unavailable(
                f"{len(answers)} of {backend.workers} workers have done it, the others did not answer: try again"
            )
        return sum(answer for answer in answers if isinstance(answer, int))

    def _keep(self, one: Revocation, place: int | None) -> None:
        history = self._router.history
        assert history is not None
        done: AsyncResult[list[Appended] | Refusal] = AsyncResult()
        row = int(Kind.JSON), json_payload(dumps(list(one)))
        ttl = KEPT if place is None else 2.0**place
        history.append([Append(_channel(place), [row], size=ON_SHELF, ttl=ttl)], done.set)
        outcome = done.get()
        if isinstance(outcome, Refusal):
            raise outcome

    # What another worker asks for.

    def _take(self, row: Any) -> int:
        one = Revocation.of(row)
        return 0 if one is None else self._add([one])

    def _add(self, rows: list[Revocation]) -> int:
        """Take revocations; return the number of connections that they end."""
        now = time.time()
        new = [one for one in rows if self._table.add(one, now) and not one.is_over(now)]
        if not new:
            return 0
        self._forget()
        ended = 0
        for client, permit in self._permitted():
            if any(one.covers(permit.client) for one in new):
                client.over(REVOKED)
                ended += 1
        return ended + sum([end(lambda client: any(one.covers(client) for one in new)) for end in self.others])

    def _end(self, argument: Any) -> int:
        subject, channel = argument
        ended = 0
        for client, permit in self._permitted():
            if permit.client.subject == subject:
                client.over(DISCONNECTED) if channel is None else client.remove(channel)
                ended += 1
        return ended

    def _permitted(self) -> list[tuple[Ending, Permit]]:
        return [(client, found.permit) for found, client in self._clients() if found.permit is not None]

    def _part(self, argument: Any) -> Any:
        """One of some parts of the table; the number of its rows where no part is named."""
        if argument is None:
            return len(self._table)
        number, of = argument
        return [list(row) for row in self._table.part(int(number), max(1, int(of)))]

    # What was missed.

    def _follow(self) -> None:
        """Read the store, as soon as it can be read; then ask the workers of this node, and of each that has come."""
        while True:
            if self._table.known:
                pass
            elif self._router.history is not None:
                self._load(self._router.history)
            elif self._ask(everywhere=False):  # this worker may have been restarted
                self._is_known()
            rows = self._router.backend.nodes()[1:]
            nodes = {(row["id"], row["since"]) for row in rows if row["state"] == "connected"}
            if (self._asked and nodes <= self._nodes) or self._ask():
                self._nodes, self._asked = nodes, True
            gevent.sleep(LOOK if self._table.known else SOON)

    def _load(self, history: History) -> None:
        try:
            for number in (None, *SHELVES):
                channel, more = _channel(number), True
                place: Cursor | None = None
                while more:
                    page = history.after(channel, place, PAGE)
                    self._add([row for record in page.records if (row := _row(record.payload)) is not None])
                    more = page.more
                    place = page.messages(channel)[-1].cursor if more else None
        except StoreFailed as error:
            log.error("revocations are not known yet, so tokens are refused", extra={"reason": error.detail})
            return
        self._is_known()

    def _ask(self, *, everywhere: bool = True) -> bool:
        """Ask all workers, or those of this node, for their revocations, in parts; return whether all have answered."""
        backend = self._router.backend
        ask = to_workers(backend, b"revoked", everywhere=everywhere)
        counts = ask([None])[0]
        most = max([count for count in counts if isinstance(count, int)], default=0)
        heard = len(counts) >= (backend.workers if everywhere else backend.workers_here)
        parts = most // PAGE + 1
        for number in range(parts if most else 0):
            answers = ask([[number, parts]])[0]
            heard = heard and len(answers) >= len(counts)
            rows = [row for answer in answers if isinstance(answer, list) for row in answer]
            self._add([one for row in rows if (one := Revocation.of(row)) is not None])
        return heard


def _answer(ended: int) -> Json:
    return Json(200, b'{"ended":%d}' % ended)


def _channel(number: int | None) -> str:
    """The channel of a shelf in the store."""
    return CHANNEL if number is None else f"{CHANNEL}/{number}"


def _row(payload: bytes) -> Revocation | None:
    try:
        return Revocation.of(ujson.loads(payload))
    except ValueError:
        return None
