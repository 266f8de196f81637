"""The one who asks a node's store, for all its workers.

Workers connect (`raiden.history.client`) and send lists of calls; each list is answered by a list, in the order they
came. What waits at the same time, from whichever worker, is one group for the store: one commit, one round
trip. So while a commit takes its time the next group gathers. When nothing waits, and at least once a second, the store
is tidied. One process writes because SQLite's writers sleep while they wait for each other (`raiden.history.sqlite`).

Calls and answers are marshalled: both ends are forked by one supervisor, and the folder of the socket is its user's
alone. A call is ``(name, arguments)``, its answer ``(None, result)`` or ``(why it failed, None)``.
"""

from __future__ import annotations

import logging
import marshal
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from raiden.history import Append, Claimed, Page, Store, StoreFailed
from raiden.history.pipe import Closed, Pipe
from raiden.message import Cursor

logger = logging.getLogger(__name__)

TIDY_ROWS = 1000
TIDY_EVERY, TIDY_TIME = 1.0, 0.02  # seconds

Call = tuple[str, Sequence[Any]]
Answer = tuple[str | None, Any]


class Server:
    """Answers the workers that connect at ``listener``, a Unix socket, with ``store``."""

    def __init__(self, store: Store, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._store = store
        self._listener = listener
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._pipes: dict[int, Pipe] = {}
        self._failed = False
        self._tidied = time.monotonic()

    def serve_until(self, end: socket.socket) -> None:
        """Answer all that comes, until ``end`` is closed at its other end."""
        self._poll.register(end, select.EPOLLIN)
        more = False
        while True:
            waiting: list[tuple[Pipe, int, list[Call]]] = []
            for fd, event in self._poll.poll(0 if more else TIDY_EVERY):
                if fd == end.fileno():
                    return
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    waiting += self._take(self._pipes[fd], event)
            if waiting:
                self._serve(waiting)
            more = self._tidy()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it is gone already
        pipe = self._pipes[sock.fileno()] = Pipe(sock)
        self._poll.register(pipe, select.EPOLLIN)

    def _take(self, pipe: Pipe, event: int) -> list[tuple[Pipe, int, list[Call]]]:
        if event & select.EPOLLOUT:
            pipe.flush()
            self._watch(pipe)
        if event == select.EPOLLOUT:
            return []
        try:
            return [(pipe, *marshal.loads(data)) for data in pipe.receive()]
        except Closed:
            del self._pipes[pipe.fileno()]
            pipe.close()
            return []

    def _watch(self, pipe: Pipe) -> None:
        self._poll.modify(pipe, select.EPOLLIN | (select.EPOLLOUT if pipe.waits else 0))

    def _serve(self, waiting: list[tuple[Pipe, int, list[Call]]]) -> None:
        # Appends first, all of them in one group; each list is answered as soon as it can be.
        appends = [Append(*values) for _, _, calls in waiting for name, group in calls if name == "append"
                   for values in group]  # fmt: skip
        appended: list[Answer] | None = None
        why = ""
        if appends:
            try:
                appended = [(None, (epoch, offsets.start, offsets.stop, repeated))
                            for epoch, offsets, repeated in self._store.append(appends)]  # fmt: skip
                self._note(None)
            except StoreFailed as error:
                why = str(error)
                self._note(error)
        at = 0
        for pipe, number, calls in waiting:
            answers: list[Answer] = []
            for name, arguments in calls:
                if name != "append":
                    answers.append(self._answer(name, arguments))
                elif appended is None:
                    answers.append((why, None))
                else:
                    answers.append((None, [done for _, done in appended[at : at + len(arguments)]]))
                    at += len(arguments)
            pipe.send(marshal.dumps((number, answers)))
            if pipe.waits:
                self._watch(pipe)

    def _tidy(self) -> bool:
        """Remove some of what has expired, if it is time; whether there is more."""
        started = time.monotonic()
        if started - self._tidied < TIDY_EVERY:
            return False
        try:
            while self._store.tidy(TIDY_ROWS) >= TIDY_ROWS:
                if time.monotonic() - started > TIDY_TIME:
                    return True
        except StoreFailed as error:
            self._note(error)
        self._tidied = time.monotonic()
        return False

    def _answer(self, name: str, arguments: Sequence[Any]) -> Answer:
        try:
            return None, _CALLS[name](self._store, *arguments)
        except StoreFailed as error:
            return str(error), None

    def _note(self, error: StoreFailed | None) -> None:
        """Log that the store fails, and that it works again, once."""
        if error is not None and not self._failed:
            logger.error("the history can't be written", extra={"reason": str(error)})
        elif error is None and self._failed:
            logger.info("the history can be written again")
        self._failed = error is not None


def _cursor(cursor: tuple[str, int] | None) -> Cursor | None:
    return Cursor(*cursor) if cursor else None


def _plain(page: Page) -> tuple[Any, ...]:
    """A page of plain tuples, which can be marshalled."""
    position, gap = page.position and tuple(page.position), page.gap and tuple(page.gap)
    return [tuple(record) for record in page.records], page.epoch, position, gap, page.more


def _claimed(claimed: Claimed) -> tuple[Any, ...]:
    records, epoch, gap = claimed
    return [(tuple(record), attempt) for record, attempt in records], epoch, gap and tuple(gap)


_CALLS: dict[str, Callable[..., Any]] = {
    "after": lambda store, channel, cursor, limit: _plain(store.after(channel, _cursor(cursor), limit)),
    "before": lambda store, channel, cursor, limit: _plain(store.before(channel, _cursor(cursor), limit)),
    "positions": lambda store, channels: {n: tuple(c) for n, c in store.positions(channels).items()},
    "clear": lambda store, channel: store.clear(channel),
    "claim": lambda store, channel, durable, limit, wait, since: _claimed(
        store.claim(channel, durable, limit, wait, _cursor(since))
    ),
    "acknowledge": lambda store, channel, durable, epoch, claims: store.acknowledge(channel, durable, epoch, claims),
    "release": lambda store, channel, durable, epoch, claims: store.release(channel, durable, epoch, claims),
    "forget": lambda store, channel, durable: store.forget(channel, durable),
    "keep": lambda store, name, value, ttl, holder: store.keep(name, value, ttl, holder),
    "take": lambda store, name, holder, only_from: store.take(name, holder, only_from),
    "check": lambda store: store.check(),
    "size": lambda store: store.size(),
}
