"""The delegate: the application is asked whether a client may do something.

Questions are asked in the greenlet of whoever needs the answer. Those under way are bounded, and equal ones about
subscribing are asked once. An answer that says for how long it holds is kept so long. Where the application fails
several times in a row, nothing is asked for a while (`raiden.hooks.breaker`). Without an answer nothing is allowed.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

import gevent
from gevent.event import AsyncResult

from raiden.hooks.breaker import PAUSE, Breaker
from raiden.hooks.question import Question
from raiden.hooks.verdict import Verdict
from raiden.model.refusals import Unavailable
from raiden.runtime import faults
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# Questions under way, and bytes of these.
MAX_QUESTIONS: Final = 1000
MAX_BYTES: Final = 16 << 20
# Bytes of answers that are kept.
MAX_KEPT: Final = 8 << 20


class DelegateFailed(Exception):
    """The application gave no answer that can be used. The text is the reason, for the log: it has nothing of the
    question, nor of the answer."""


class DelegateAway(Unavailable):
    """The application can't be asked now: try again later."""


class Way(Protocol):
    """A way to ask: a Python object, or a URL. ``events`` are those that it knows, ``headers`` the names, in lower
    case, of the header fields that it takes, and ``name`` is for the log."""

    events: frozenset[str]
    headers: tuple[str, ...]
    name: str

    def ask(self, question: Question) -> Verdict:
        """The answer. Waits for a bounded time; raises DelegateFailed, and Refusal where it is a method that failed."""

    def close(self) -> None:
        """Give back what it holds."""


class Delegate:
    """The delegate of a worker. ``way`` is how it is asked now."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self._breaker = Breaker()
        self._kept: dict[bytes, tuple[float, Verdict]] = {}
        self._kept_bytes = 0
        # The questions about subscribing that are under way, by their keys.
        self._same: dict[bytes, AsyncResult[Verdict]] = {}
        self._count = self._bytes = 0
        self._seldom = Seldom()

    def become(self, way: Way) -> None:
        """Ask in another way from now on, and forget the answers."""
        self.way.close()
        self.way = way
        self._breaker = Breaker()
        self._kept.clear()
        self._kept_bytes = 0

    def handles(self, event: str) -> bool:
        return event in self.way.events

    @property
    def reads_authorization(self) -> bool:
        """Whether it takes the field Authorization, and may judge what that shows."""
        return "authorization" in self.way.headers

    def ask(self, question: Question) -> Verdict:
        """The answer to a question, which may be a refusal. Waits; raises DelegateAway, and Fault where the
        application's method failed."""
        key = question.key
        kept = self._kept.get(key)
        if kept is not None:
            if time.monotonic() < kept[0]:
                return kept[1]
            self._forget(key)
        if question.event != "subscribe":
            return self._ask(question, key)
        same = self._same.get(key)
        if same is not None:
            return same.get()
        self._same[key] = result = AsyncResult()
        try:
            verdict = self._ask(question, key)
        except BaseException as error:  # raised again: also where this greenlet ends, the others must hear
            result.set_exception(error if isinstance(error, Exception) else _away())
            raise
        finally:
            del self._same[key]
        result.set(verdict)
        return verdict

    def tell(self, question: Question) -> None:
        """Tell the application of what has happened, without waiting. Where it can't be told, the log says so."""
        if self.handles(question.event):
            gevent.spawn(faults.call, "telling the delegate", self._tell, question)

    def _tell(self, question: Question) -> None:
        try:
            self._asked(question)
        except DelegateAway:
            if self._seldom.may_say("told"):
                log.warning("the delegate was not told of the end of a subscription or connection")

    def _ask(self, question: Question, key: bytes) -> Verdict:
        verdict = self._asked(question)
        # An answer that changes a message is for that one.
        if verdict.ttl and verdict.data is None:
            self._keep(key, verdict)
        return verdict

    def _asked(self, question: Question) -> Verdict:
        size = question.size
        if self._count >= MAX_QUESTIONS or self._bytes + size > MAX_BYTES:
            raise DelegateAway("too many questions to the application are under way: try again later")
        breaker, way = self._breaker, self.way
        if not breaker.admit():
            raise _away()
        self._count += 1
        self._bytes += size
        try:
            verdict = way.ask(question)
        except DelegateFailed as failure:
            self._failed(breaker, str(failure))
            raise _away() from None
        finally:
            self._count -= 1
            self._bytes -= size
        if breaker.is_open:
            log.warning("the delegate answers again", extra={"delegate": way.name})
        breaker.succeeded()
        return verdict

    def _failed(self, breaker: Breaker, reason: str) -> None:
        told = {"delegate": self.way.name, "reason": reason}
        if breaker.failed():
            log.error("the delegate fails again and again: it is not asked for %g s", PAUSE, extra=told)
        elif self._seldom.may_say(reason):
            log.error("the delegate gave no answer", extra=told)

    def _keep(self, key: bytes, verdict: Verdict) -> None:
        self._forget(key)
        self._kept[key] = time.monotonic() + verdict.ttl, verdict
        self._kept_bytes += verdict.size
        while self._kept_bytes > MAX_KEPT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._kept_bytes -= kept[1].size


def _away() -> DelegateAway:
    return DelegateAway("the application that decides this does not answer: try again later")
