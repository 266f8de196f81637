"""Questions to workers, or to the history, on behalf of many askers: one question of each kind is under way at a time.

A question takes time of all that answer it, and anybody can load a page that asks one. So all askers that come while
one is under way wait for the next, which asks for all of them at once. A question that is under way was sent before
they asked, so its answer may be too old for them: a client that has just subscribed wants to be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gevent
import ujson
from gevent.event import AsyncResult

from raiden.backend import Backend
from raiden.history.store import StoreFailed
from raiden.model.encoding import dumps
from raiden.model.refusals import Unavailable
from raiden.runtime.turns import pause

# Seconds that an asker waits: for the question under way, and for others before its own.
PATIENCE = 5.0
# Arguments that wait for their question.
MAX_WAITING = 1000


class TooManyQuestions(Unavailable):
    """This question does not get its turn, because others ask too much."""


# A call that asks about each of some arguments, and returns the answers about each. It waits, and may raise
# StoreFailed.
Ask = Callable[[Sequence[Any]], Sequence[list[Any]]]


def to_workers(backend: Backend, kind: bytes, *, everywhere: bool) -> Ask:
    """Questions of one ``kind`` (`raiden.router` answers them), to all workers of this node, or of all nodes if
    ``everywhere``; answers count that come within a second."""

    def ask(arguments: Sequence[Any]) -> Sequence[list[Any]]:
        answers: list[list[Any]] = []
        for text in backend.ask(kind + b" " + dumps(arguments), everywhere=everywhere):
            answers += _answers(text, len(arguments))
            pause()  # an answer may be long, and there may be many
        return [[answer[place] for answer in answers] for place in range(len(arguments))]

    return ask


class Questions:
    """Questions of one kind, by way of ``ask``. ``at_once`` arguments are asked for with one question."""

    def __init__(self, ask: Ask, *, at_once: int) -> None:
        self._ask = ask
        self._at_once = at_once
        # By argument: the results for the askers that wait for the next question about it.
        self._next: dict[Any, AsyncResult] = {}
        self._asking = False

    def ask(self, argument: Any = None) -> list[Any]:
        """Return the answers about ``argument``, which is hashable and can be written as JSON. Waits; raises
        TooManyQuestions, and the errors of asking."""
        result = self._next.get(argument)
        if result is None:
            if len(self._next) >= MAX_WAITING:
                raise TooManyQuestions("too many ask this at once: try again later")
            result = self._next[argument] = AsyncResult()
            if not self._asking:
                self._asking = True
                gevent.spawn(self._ask_all)
        try:
            said: list[Any] = result.get(timeout=PATIENCE)
        except gevent.Timeout:
            raise TooManyQuestions("too many ask this at once: try again later") from None
        return said

    def _ask_all(self) -> None:
        try:
            while self._next:
                asked = list(self._next)[: self._at_once]
                waiting = [self._next.pop(argument) for argument in asked]
                try:
                    said = self._ask(asked)
                except StoreFailed as error:
                    # Askers that wait for the next question would wait as long for the same.
                    for result in (*waiting, *self._next.values()):
                        result.set_exception(error)
                    self._next.clear()
                    continue
                for result, each in zip(waiting, said, strict=True):
                    result.set(each)
        finally:
            self._asking = False


def _answers(text: bytes, count: int) -> list[list[Any]]:
    """The answers of one worker to ``count`` arguments; an empty list where the text is no answer."""
    try:
        answer = ujson.loads(text)
    except ValueError:
        return []
    return [answer] if isinstance(answer, list) and len(answer) == count else []
