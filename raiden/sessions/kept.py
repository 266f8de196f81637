"""The kept session of a ``/-/websocket``: the store has its subscriptions, and the places up to which the client has
surely got everything.

One socket holds a session, and only that one changes it in the store. A socket that brings the session back takes it
from its holder, in one step, wherever both are: whatever the old holder asks the store to keep after that is refused,
however long it was on its way."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gevent
import ujson
from gevent.event import AsyncResult
from gevent.lock import Semaphore

from raiden.history.client import History
from raiden.history.store import MAX_KEPT, StoreFailed, TooLargeToKeep
from raiden.model.filters import Filters
from raiden.model.message import Cursor
from raiden.model.names import check_subscription
from raiden.model.refusals import Refusal
from raiden.model.thinning import Thinning

log = logging.getLogger(__name__)

# Bytes that a cursor may have, written with all three parts.
MAX_CURSOR = 64


class Row(NamedTuple):
    """A subscription as it is kept; ``place`` is None without a history."""

    filters: Filters
    place: Cursor | None


class Taken(NamedTuple):
    """A session that was taken, by its id: its subscriptions, by name, and its holder before."""

    session: str
    rows: dict[str, Row]
    before: str


class Held:
    """The session of a socket: ``id`` is None until it has one, and once another socket has taken it. ``history`` is
    where it is kept. Only sockets of its ``owner`` can take it: for others there is no such session."""

    __slots__ = (
        "_history", "_holder", "_keeping", "_next", "_opening", "_owner", "_rows", "_seconds", "id",
    )  # fmt: skip

    def __init__(self, history: History, owner: str) -> None:
        self._history = history
        self._owner = owner
        self._holder = secrets.token_urlsafe(6)
        self.id: str | None = None
        # The rows to keep next, and the result for which their askers wait.
        self._rows: Mapping[str, Row] = {}
        self._seconds = 0.0
        self._next: AsyncResult[None] | None = None
        self._keeping = False
        self._opening = Semaphore(1)

    def open(self, rows: Callable[[], Mapping[str, Row]], seconds: float) -> str:
        """Return the id of the present session, or of a new one, which is kept with its rows for ``seconds``; raises
        StoreFailed. Those that ask at the same time get the same one."""
        with self._opening:
            while True:
                session = self.id or secrets.token_urlsafe(18)
                if self._keep(session, rows(), seconds):
                    self.id = session
                    return session
                self.id = None

    def keep(self, rows: Mapping[str, Row], seconds: float) -> None:
        """Keep the session's rows, if there is a session, for ``seconds``; raises StoreFailed. All rows are kept each
        time, so callers that come while that is under way wait for the next time, which serves all of them."""
        self._ask(rows, seconds).get()

    def _ask(self, rows: Mapping[str, Row], seconds: float) -> AsyncResult[None]:
        # Nothing may yield between the making of the rows and this: the last caller has the newest.
        self._rows, self._seconds = rows, seconds
        if self._next is None:
            self._next = AsyncResult()
            if not self._keeping:
                self._keeping = True
                gevent.spawn(self._keep_for_all)
        return self._next

    def _keep_for_all(self) -> None:
        while self._next is not None:
            result, self._next = self._next, None
            try:
                session = self.id
                if session is not None and not self._keep(session, self._rows, self._seconds) and self.id == session:
                    self.id = None
            except Exception as error:  # any exception: those that wait must hear
                result.set_exception(error)
            else:
                result.set()
        self._keeping = False

    def try_to_keep(self, rows: Mapping[str, Row], seconds: float) -> None:
        """`keep`; where that fails, the log says so."""
        _log_failure(self._ask(rows, seconds))

    def keep_soon(self, rows: Mapping[str, Row], seconds: float) -> None:
        """`try_to_keep`, without waiting for it."""
        gevent.spawn(_log_failure, self._ask(rows, seconds))

    def take(self, session: str) -> Taken | None:
        """Hold a session from now on; None where there is none. It is the socket's only once its id is ``id``. Raises
        StoreFailed."""
        found = self._history.take(self._name(session), self._holder)
        rows = _rows(found[0]) if found else None
        return Taken(session, rows, found[1]) if found and rows is not None else None

    def give_back(self, taken: Taken) -> None:
        """Give a session back that was not brought back: its holder before holds it again, unless another one has taken
        it."""
        try:
            self._history.take(self._name(taken.session), taken.before, only_from=self._holder)
        except StoreFailed as error:
            log.warning("a session was not given back", extra={"reason": str(error)})

    def check(self, rows: Mapping[str, Row]) -> None:
        """Raise TooLargeToKeep where the session could not be kept with these rows, whatever places they get to. All
        that ask to keep rows at the same time would be refused then."""
        if self.id is not None:
            _check_size(len(_written(rows)) + MAX_CURSOR * len(rows))

    def _name(self, session: str) -> str:
        of = f" {hashlib.sha256(self._owner.encode()).hexdigest()[:32]}" if self._owner else ""
        return f"session {session}{of}"

    def _keep(self, session: str, rows: Mapping[str, Row], seconds: float) -> bool:
        value = _written(rows)
        _check_size(len(value))
        return self._history.keep(self._name(session), value, seconds, self._holder)


def _log_failure(result: AsyncResult[None]) -> None:
    try:
        result.get()
    except StoreFailed as error:
        log.warning("a session was not kept", extra={"reason": str(error)})


def _written(rows: Mapping[str, Row]) -> bytes:
    kept = {
        name: {
            "filters": row.filters.pairs(),
            "cursor": None if row.place is None else str(row.place),
            **({} if row.filters.thinning is None else {"thinning": row.filters.thinning}),
        }
        for name, row in rows.items()
    }
    return ujson.dumps({"subscriptions": kept}).encode()


def _check_size(size: int) -> None:
    if size > MAX_KEPT:
        raise TooLargeToKeep(f"a session has at most {MAX_KEPT} bytes: use fewer or shorter names and filters")


def _rows(value: bytes) -> dict[str, Row] | None:
    """Read the rows of a kept value; None where `keep` did not write it."""
    try:
        rows: dict[str, Any] = ujson.loads(value)["subscriptions"]
        return {
            check_subscription(name): Row(
                Filters([(str(key), None if text is None else str(text)) for key, text in row["filters"]]).thinned(
                    Thinning(*row["thinning"]) if "thinning" in row else None
                ),
                Cursor.parse(row["cursor"]) if row["cursor"] else None,
            )
            for name, row in rows.items()
        }
    except (Refusal, ValueError, TypeError, KeyError, AttributeError):
        return None
