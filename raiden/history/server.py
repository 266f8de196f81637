"""The history process's server: it alone calls a node's store, for all its workers.

Workers connect (`raiden.history.client`) and send messages: appends, or one question. Appends that wait at the same
time, from whichever worker, are one group for the store: one commit, one round trip. So while a commit takes its time
the next group gathers. Questions are answered one by one, each worker's in their order and the workers in turn, for
`SLICE` at a time: then appends have their turn again. A worker that does not take its answers is not read from any
more, and its questions wait. When nothing waits, and at least once a second, the store is tidied. One process writes
because SQLite's writers sleep while they wait for each other (`raiden.history.sqlite`).

Messages are marshalled: both ends are forked by one supervisor, and the folder of the socket is its user's alone. A
message is ``(number, deadline, name, arguments)``, its answer ``(number, None, result)`` or ``(number, why it failed,
None)``. A call that was not begun by its deadline (seconds of CLOCK_MONOTONIC, which all processes of a machine share)
is not done any more. Each answer also has the store's life, and the time when the store last answered. The arguments of
``append`` are a list of calls, and its result has an ``(why it failed, result)`` for each; the reason is a text, or the
condition that did not hold (`raiden.history.conditions`).
"""

from __future__ import annotations

import logging
import marshal
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from raiden.history import calls
from raiden.history.pipe import Closed, Pipe
from raiden.history.store import (
    Append,
    Appended,
    Claimed,
    FiguresAsked,
    FiguresPage,
    GiveUp,
    Store,
    StoreFailed,
    TooLargeToKeep,
)
from raiden.history.streams import plain_page
from raiden.model.message import Cursor
from raiden.model.page import Page, Stand
from raiden.runtime import faults

logger = logging.getLogger(__name__)

TIDY_ROWS: Final = 1000
TIDY_EVERY: Final = 1.0
TIDY_TIME: Final = 0.02  # seconds
SLICE: Final = 0.005  # seconds that questions are answered before appends have their turn

LATE = "the history had too much to do, and nothing was done: try again later"
FAULT = "the history failed; its log says why"

Answer = tuple[Any, Any]


class _Worker:
    """A worker's pipe, and its questions that wait: number, deadline, name and arguments."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.questions: deque[tuple[int, float, str, Sequence[Any]]] = deque()
        self.watched = select.EPOLLIN

    @property
    def asks(self) -> bool:
        """Whether it has questions, and takes their answers."""
        return bool(self.questions) and not self.pipe.full


class Server:
    """A server for the workers that connect at ``listener``, a Unix socket; ``store`` gives the answers."""

    def __init__(self, store: Store, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._store = store
        self._listener = listener
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._workers: dict[int, _Worker] = {}
        self._turns: deque[_Worker] = deque()
        # Appends that have come and are not done: the worker, the number, the deadline, and the calls.
        self._appends: list[tuple[_Worker, int, float, list[list[Any]]]] = []
        # The uses ("read", "written") that fail now, as the log says.
        self._failing: set[str] = set()
        # The time when the store last answered (CLOCK_MONOTONIC).
        self._answered_at = 0.0
        self._tidied = time.monotonic()

    def look(self) -> None:
        """Log if the store can't be used now: it may come later, and a node starts without it."""
        self._answer("check", ())

    def serve_until(self, end: socket.socket) -> None:
        """Answer all messages, until ``end`` is closed at its other end."""
        self._poll.register(end, select.EPOLLIN)
        more = False
        while True:
            for fd, event in self._poll.poll(0 if more else TIDY_EVERY):
                if fd == end.fileno():
                    return
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    self._take(self._workers[fd], event)
            if self._appends:
                self._append()
            more = self._answer_some()
            more = self._tidy() or more

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it is gone already
        worker = self._workers[sock.fileno()] = _Worker(Pipe(sock))
        self._turns.append(worker)
        self._poll.register(worker.pipe, worker.watched)

    def _take(self, worker: _Worker, event: int) -> None:
        """Send the answers that wait, and receive the messages that have come."""
        if event & select.EPOLLOUT:
            worker.pipe.flush()
        if event != select.EPOLLOUT:
            try:
                messages = worker.pipe.receive()
            except Closed:
                self._leave(worker)
                return
            for data in messages:
                number, deadline, name, arguments = marshal.loads(data)
                if name == "append":
                    self._appends.append((worker, number, deadline, arguments))
                else:
                    worker.questions.append((number, deadline, name, arguments))
        self._watch(worker)

    def _leave(self, worker: _Worker) -> None:
        del self._workers[worker.pipe.fileno()]
        self._turns.remove(worker)
        worker.questions.clear()
        worker.pipe.close()

    def _watch(self, worker: _Worker) -> None:
        """Watch a worker's pipe for messages while it takes its answers, and for room while some wait."""
        pipe = worker.pipe
        events = (0 if pipe.full else select.EPOLLIN) | (select.EPOLLOUT if pipe.waits else 0)
        if events != worker.watched:
            worker.watched = events
            self._poll.modify(pipe, events)

    def _send(self, worker: _Worker, number: int, why: str | None, result: Any) -> None:
        if worker.pipe.fileno() >= 0:  # else it left
            worker.pipe.send(marshal.dumps((number, why, result, self._store.life, self._answered_at)))
            self._watch(worker)

    # Appends.

    def _append(self) -> None:
        """Append all that has come, in one group."""
        now = time.monotonic()
        asked, self._appends = self._appends, []
        due: list[tuple[_Worker, int, list[list[Append]]]] = []
        for worker, number, deadline, asked_for in asked:
            if deadline <= now:
                self._send(worker, number, LATE, None)
            else:
                due.append((worker, number, [[calls.to_append(*values) for values in group] for group in asked_for]))
        refused = self._refused([append for _, _, groups in due for group in groups for append in group])
        answers: list[tuple[_Worker, int, list[tuple[str | None, int]]]] = []
        appends: list[Append] = []
        for worker, number, groups in due:
            told: list[tuple[str | None, int]] = []
            for group in groups:
                # A call is appended as a whole: it is refused if one of its channels is.
                why = (
                    next((refused[each.channel] for each in group if each.channel in refused), None)
                    if refused
                    else None
                )
                told.append((why, len(group)))
                if why is None:
                    appends += group
            answers.append((worker, number, told))
        failed, rows = self._store_all(appends, [size for _, _, told in answers for why, size in told if why is None])
        at = 0
        for worker, number, told in answers:
            results: list[Answer] = []
            for why, size in told:
                if why is None and failed is None:
                    unmet = rows[at].unmet
                    if unmet is None:
                        results.append((None, [calls.plain_appended(appended) for appended in rows[at : at + size]]))
                    else:
                        results.append((calls.plain_unmet(unmet), None))
                    at += size
                else:
                    results.append((why or failed, None))
            self._send(worker, number, None, results)

    def _refused(self, appends: list[Append]) -> dict[str, str]:
        try:
            return self._store.refused([append.channel for append in appends]) if appends else {}
        except StoreFailed:
            return {}  # the append will fail, too

    def _store_all(self, appends: list[Append], sizes: list[int]) -> tuple[str | None, list[Appended]]:
        """Append all, and return why that failed, or the place of each. ``sizes`` gives the number of appends in each
        call."""
        if not appends:
            return None, []
        try:
            rows = self._store.append(appends, sizes)
        except StoreFailed as error:
            self._note("written", error)
            return error.detail, []
        except Exception:  # a fault of one group must not stop all others
            faults.report("an append")
            return FAULT, []
        self._note("written", None)
        return None, rows

    # Questions.

    def _answer_some(self) -> bool:
        """Answer questions for a while, the workers in turn; return whether there are more."""
        until = time.monotonic() + SLICE
        idle = 0
        while idle < len(self._turns):
            worker = self._turns[0]
            self._turns.rotate(-1)
            if not worker.asks:
                idle += 1
                continue
            idle = 0
            number, deadline, name, arguments = worker.questions.popleft()
            now = time.monotonic()
            why, result = (LATE, None) if deadline <= now else self._answer(name, arguments)
            self._send(worker, number, why, result)
            if now > until:
                return True
        return False

    def _answer(self, name: str, arguments: Sequence[Any]) -> Answer:
        use = _USES.get(name, "written")
        try:
            result = _CALLS[name](self._store, *arguments)
        except TooLargeToKeep as error:
            return str(error), None
        except StoreFailed as error:
            self._note(use, error)
            return error.detail, None
        except Exception:  # a fault of one question must not stop all others
            faults.report(f"a question for {name}")
            return FAULT, None
        self._note(use, None)
        return None, result

    def _tidy(self) -> bool:
        """Remove some expired rows, if it is time; return whether there are more."""
        started = time.monotonic()
        if started - self._tidied < TIDY_EVERY:
            return False
        if self._failing == {"written"}:
            self.look()  # it answers, and so that the log says it when it can be written again
        try:
            while self._store.tidy(TIDY_ROWS) >= TIDY_ROWS:
                if time.monotonic() - started > TIDY_TIME:
                    return True
        except StoreFailed as error:
            self._note("written", error)
        self._tidied = time.monotonic()
        return False

    def _note(self, use: str, error: StoreFailed | None) -> None:
        """Note that the store was "read" or "written", or failed: log once that it fails, and once that it works
        again."""
        if not use:
            return
        if error is None:
            self._answered_at = time.monotonic()
            if use in self._failing:
                self._failing.remove(use)
                logger.info(f"the history can be {use} again")
        elif use not in self._failing:
            self._failing.add(use)
            logger.error(f"the history can't be {use}", extra={"reason": str(error)})


def _cursor(cursor: tuple[str, int, str] | None) -> Cursor | None:
    return Cursor(*cursor) if cursor else None


def _plain(page: Page) -> tuple[Any, ...]:
    """A page of plain tuples, which can be marshalled."""
    position, gap = page.position and tuple(page.position), page.gap and tuple(page.gap)
    return [tuple(record) for record in page.records], page.epoch, position, gap, page.more, page.past, page.ended


def _claimed(claimed: Claimed) -> tuple[Any, ...]:
    records, epoch, gap, past, letters, ended, more = claimed
    found = [(tuple(record), attempt) for record, attempt in records]
    dead = letters and (calls.plain_appended(letters.appended), letters.payloads)
    return found, epoch, gap and tuple(gap), past, dead, ended, more


def stands(store: Store, channels: Sequence[str]) -> dict[str, Stand]:
    """Where each channel stands; of one without a history, its place before the first message."""
    found = store.positions(channels)
    new = [name for name in channels if name not in found]
    if not new:
        return found
    begun = {name: Stand(place) for name, place in store.begin(new).items()}
    left = [name for name in new if name not in begun]  # whose histories have begun meanwhile
    return found | begun | (stands(store, left) if left else {})


def _figures(page: FiguresPage) -> tuple[Any, ...]:
    return [tuple(row) for row in page.rows], page.next


def _give_up(attempts: int, letters: tuple[Any, ...] | None) -> GiveUp:
    return GiveUp(attempts, calls.to_append(*letters) if letters else None)


# The calls that show that the store can be "read", or ("") show nothing; all others show that it can be "written".
_USES = {
    "after": "read",
    "before": "read",
    "positions": "read",
    "open": "read",
    "figures": "read",
    "stream": "read",
    "now": "read",
    "size": "",
}
_CALLS: dict[str, Callable[..., Any]] = {
    "after": lambda store, channel, cursor, limit: _plain(store.after(channel, _cursor(cursor), limit)),
    "before": lambda store, channel, cursor, limit: _plain(store.before(channel, _cursor(cursor), limit)),
    "positions": lambda store, channels: {n: (tuple(c), over) for n, (c, over) in store.positions(channels).items()},
    "open": lambda store, channels: {n: (tuple(c), over) for n, (c, over) in stands(store, channels).items()},
    "clear": lambda store, channel: store.clear(channel),
    "stream": lambda store, channel, place, limit, touch: plain_page(
        store.stream(channel, _cursor(place), limit, touch=touch)
    ),
    "delete": lambda store, channel: store.delete(channel),
    "claim": lambda store, channel, durable, limit, wait, since, give_up, make: _claimed(
        store.claim(channel, durable, limit, wait, _cursor(since), _give_up(*give_up), make=make)
    ),
    "acknowledge": lambda store, channel, durable, epoch, claims, proofs: store.acknowledge(
        channel, durable, epoch, claims, proofs
    ),
    "release": lambda store, channel, durable, epoch, claims, delay, proofs: store.release(
        channel, durable, epoch, claims, delay, proofs
    ),
    "forget": lambda store, channel, durable: store.forget(channel, durable),
    "figures": lambda store, asked: _figures(store.figures(FiguresAsked(*asked))),
    "keep": lambda store, name, value, ttl, holder: store.keep(name, value, ttl, holder),
    "take": lambda store, name, holder, only_from: store.take(name, holder, only_from),
    "now": lambda store: store.now(),
    "check": lambda store: store.check(),
    "size": lambda store: store.size(),
}
