"""A worker's answers to the questions of others: its figures, and its part of the table of channels."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import gevent
import ujson

from raiden.backend import Backend, Question
from raiden.delivery.table import MAX_ROWS, Table
from raiden.model.encoding import dumps
from raiden.runtime import faults
from raiden.runtime.stats import Stats

# Questions about connections to end (`raiden.http.revoking`).
ENDING = (b"revoke", b"disconnect", b"revoked")
# The beginning of questions of a dialect: a worker that does not speak it has nothing to do with them.
DIALECT: Final = b"dialect."
# Seconds for which an asker waits (`Backend.ask`).
TIMEOUT: Final = 1.0


class Answers:
    """Answers of one worker (`raiden.delivery.questions` asks)."""

    def __init__(self, backend: Backend, table: Table, stats: Stats) -> None:
        self._backend = backend
        self._table = table
        self._stats = stats
        # Further questions: the functions that answer one, about one argument. A worker that has nothing to do with one
        # says so, or its asker would wait for it.
        self.others: dict[bytes, Callable[[Any], Any]] = dict.fromkeys(ENDING, _nothing)
        # Those among them whose functions may wait, since they take long: a greenlet answers one after the other. Each
        # question waits with the time at which it came.
        self.long: set[bytes] = set()
        self._waiting: deque[tuple[float, Question]] = deque()

    def answer(self, question: Question) -> None:
        """Answer a question of another worker, or of this one, for each of its arguments: now, or soon."""
        if question.text.partition(b" ")[0] not in self.long:
            self._answer(question)
            return
        self._waiting.append((time.monotonic(), question))
        if len(self._waiting) == 1:
            gevent.spawn(self._answer_waiting)

    def _answer_waiting(self) -> None:
        while self._waiting:
            came, question = self._waiting[0]
            # The asker of an older one has given up, and perhaps asked again: with all of these answered, a worker that
            # can't keep up would be ever further behind.
            if time.monotonic() - came < TIMEOUT:
                faults.call("an answer to a worker", self._answer, question)
            self._waiting.popleft()

    def _answer(self, question: Question) -> None:
        kind, _, text = question.text.partition(b" ")
        try:
            arguments = ujson.loads(text) if text else [None]
            answers = [self._tell(kind, argument) for argument in arguments]
        except (ValueError, TypeError, AttributeError, LookupError):
            answers = []  # of another release, or of a part that this worker has not: its asker need not wait for it
        self._backend.answer(question, dumps(answers))

    def _tell(self, kind: bytes, argument: Any) -> Any:
        if kind == b"stats":
            return self._stats.snapshot()
        if kind == b"channel":
            return self._table.row(str(argument))
        if kind == b"channels":
            prefix, after, limit = argument
            return self._table.page(str(prefix), str(after), min(int(limit), MAX_ROWS))
        if kind == b"reached":
            return True
        if kind in self.others:
            return self.others[kind](argument)
        if kind == b"occupied":
            known = argument.get(self._backend.name, ("", 0))
            return self._backend.name, self._table.follow().since(str(known[0]), int(known[1]))
        if kind.startswith(DIALECT):
            return 0  # this worker does not speak it
        raise ValueError(f"an unknown question: {kind!r:.100}")


def _nothing(argument: Any) -> int:
    return 0
