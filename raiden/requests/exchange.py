"""The exchange of requests and answers: of this worker's clients with the servers of all workers.

`Asking` has the open requests of the clients here, `Serving` the servers here, and letters go between the workers
(`raiden.requests.letters`). The way of a request is one letter to the server's worker, and that of the answer one back;
on one worker there are none. Before a worker first asks for a channel, it asks all workers for their servers; a new
server is told to all workers before it has a reply.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import gevent

from raiden.backend import BackboneFull
from raiden.delivery.questions import Questions, to_workers
from raiden.model.message import Message
from raiden.model.refusals import NotFound, Refusal, Unavailable
from raiden.requests import letters
from raiden.requests.asked import Outcome, Request
from raiden.requests.asking import Asking
from raiden.requests.deadlines import TICK, Deadlines
from raiden.requests.letters import (
    Answered,
    Asked,
    Called,
    Dropped,
    Failed,
    Letter,
    Passed,
    Ping,
    Pong,
    Report,
    Returned,
    Settle,
    Settled,
    Told,
    Waits,
    Withdrawn,
    life_of,
    node_of,
    place_of,
    report_of,
    to_row,
)
from raiden.requests.refusals import Failure
from raiden.requests.servers import Server, Sink
from raiden.requests.serving import Serving
from raiden.router import Router
from raiden.runtime import faults
from raiden.runtime.service import Service

# Channels that are asked for, or told, with one question.
AT_ONCE: Final = 500
# Seconds for another worker to take an answer; answers that wait for that.
PATIENCE, MAX_SETTLING = 3.0, 10_000
# Seconds between two attempts to tell all workers that this one has come, and their number.
HELLO, HELLOS = 0.5, 10

_Settled: TypeAlias = Callable[[Refusal | None], None]


class Exchange(Service):
    """The exchange of a worker; its clients may have ``max_requests`` open requests."""

    def __init__(self, router: Router, *, max_requests: int = 10_000) -> None:
        super().__init__()
        backend = router.backend
        self.max_requests = max_requests
        self._backend = backend
        self._name = f"{backend.name}.{backend.life}"
        self._serving = Serving(self._name, self._post, time.monotonic)
        self._asking = Asking(
            self._name, self._post, self._serving.report, self._seek, time.monotonic, lambda: self.max_requests
        )
        self._seeking = Questions(to_workers(backend, b"servers", everywhere=True), at_once=AT_ONCE)
        self._telling = Questions(to_workers(backend, b"serves", everywhere=True), at_once=AT_ONCE)
        # Answers that other workers have still to take: whom to tell, and until when that is waited for.
        self._numbers = itertools.count(1)
        self._settling: dict[int, tuple[_Settled, float]] = {}
        self._deadlines: Deadlines[int] = Deadlines()
        self._rows: Any = None
        # Letters of this worker to itself, and whether one is being taken.
        self._own: deque[Letter] = deque()
        self._taking = False
        self._timer = gevent.get_hub().loop.timer(TICK, TICK)
        backend.mail.heard = self._hear
        router.answers.others.update({b"servers": self._answer, b"serves": self._note, b"arrived": self._came})

    def do_start(self) -> None:
        self.task(self._say_hello)

    def do_stop(self) -> None:
        self._backend.mail.heard = None
        self._timer.stop()
        self._timer.close()

    @property
    def asked(self) -> int:
        """The number of open requests of clients here."""
        return self._asking.open

    @property
    def served(self) -> int:
        """The number of requests that servers here have."""
        return self._serving.open

    # Clients.

    def ask(self, message: Message, timeout: float, *, again: bool, done: Callable[[Outcome], None]) -> Request:
        """As `Asking.ask`."""

        def finished(outcome: Outcome) -> None:
            faults.call("the outcome of a request", done, outcome)

        request = self._asking.ask(message, timeout, again=again, done=finished)
        self._wake()
        return request

    def cancel(self, request: Request) -> None:
        """As `Asking.cancel`."""
        self._asking.cancel(request)

    # Servers.

    def serves(self, channel: str) -> bool:
        """Whether a channel has a server here, or had one that will probably be back."""
        return self._serving.serves(channel)

    def add_server(self, channel: str, sink: Sink, holder: str, *, window: int, stays: bool = True) -> Server:
        """As `Serving.add`. Other workers hear of it by `announce`."""
        server = self._serving.add(channel, sink, holder, window=window, stays=stays)
        self._wake()
        return server

    def remove_server(self, server: Server, *, returns: bool = False) -> None:
        """As `Serving.remove`."""
        self._serving.remove(server, returns=returns)
        self._wake()

    def retire_server(self, server: Server) -> None:
        """As `Serving.retire`."""
        self._serving.retire(server)
        self._wake()

    def announce(self, channel: str) -> None:
        """Tell all workers of the servers of a channel here: whoever asks after this finds them. Waits; raises
        TooManyQuestions."""
        if self._backend.workers > 1:
            self._telling.ask(tuple(to_row(self._serving.report(channel))))

    def announce_soon(self, channel: str) -> None:
        """`announce`, and do not wait."""
        if self._backend.workers > 1:
            self.task(self._announce, channel)

    def _announce(self, channel: str) -> None:
        try:
            self.announce(channel)
        except Refusal:
            pass  # who asks for the channel asks all workers, again and again

    def settle(self, id: str, holder: str, outcome: Message | Failure) -> None:
        """As `Serving.settle`, for a server of this worker."""
        self._serving.settle(id, holder, outcome)

    def settle_anywhere(self, id: str, holder: str, outcome: Message | Failure, done: _Settled) -> bool:
        """`settle`, for a server whose request may be another worker's. Returns whether it is settled; if it is not,
        ``done`` is called later, with the refusal, if any. Raises Refusal."""
        life = letters.life_in(id)
        if life is None:
            raise NotFound("this is no id of a request: send it as it came (Raiden-Request)")
        if life == self._backend.life:
            self._serving.settle(id, holder, outcome)
            return True
        if len(self._settling) >= MAX_SETTLING:
            raise Unavailable("too many answers wait: try again later")
        number, until = next(self._numbers), time.monotonic() + PATIENCE
        if isinstance(outcome, Failure):
            letter = Settle(self._name, number, id, holder, 0, b"", outcome.code, outcome.message)
        else:
            letter = Settle(self._name, number, id, holder, outcome.kind, outcome.payload, 0, None)
        try:
            self._backend.mail.send(life.encode(), letters.to_bytes(letter))
        except BackboneFull:
            raise Unavailable("the backbone is full: try again later") from None
        self._settling[number] = done, until
        self._deadlines.add(number, until)
        self._wake()
        return False

    # Letters.

    def _post(self, worker: str, letter: Letter) -> bool:
        if worker == self._name:
            self._own.append(letter)
            if not self._taking:
                self._take_own()
            return True
        try:
            self._backend.mail.send(life_of(worker).encode(), letters.to_bytes(letter))
        except BackboneFull:
            return False
        return True

    def _take_own(self) -> None:
        """Take the letters of this worker to itself one after the other, and not within each other: one that is given a
        request, or has its answer, may make another one at once."""
        self._taking = True
        try:
            while self._own:
                faults.call("a letter to this worker itself", self._take, self._own.popleft())
        finally:
            self._taking = False

    def _hear(self, data: bytes) -> None:
        letter = letters.from_bytes(data)
        if letter is not None:
            self._take(letter)
            self._wake()

    def _take(self, letter: Letter) -> None:
        _TAKE[type(letter)](self, letter)

    def _answered(self, letter: Answered) -> None:
        self._asking.heard_of(letter.report.worker)
        answer = Message(letter.report.channel, letter.kind, letter.payload)
        self._asking.answered(letter.number, answer, letter.report)

    def _failed(self, letter: Failed) -> None:
        self._asking.heard_of(letter.report.worker)
        self._asking.answered(letter.number, Failure(letter.code, letter.message), letter.report)

    def _settle(self, letter: Settle) -> None:
        outcome: Message | Failure = Message("", letter.kind, letter.payload)
        if letter.message is not None:
            outcome = Failure(letter.code, letter.message)
        status, detail = 200, ""
        try:
            self._serving.settle(letter.request, letter.holder, outcome)
        except Refusal as refusal:
            status, detail = refusal.status, refusal.detail
        self._post(letter.asker, Settled(letter.number, status, detail))

    def _settled(self, letter: Settled) -> None:
        found = self._settling.pop(letter.number, None)
        if found is not None:
            done, until = found
            self._deadlines.remove(letter.number, until)
            refusal = None if letter.status == 200 else Refusal(letter.detail)
            if refusal is not None:
                refusal.status = letter.status
            done(refusal)

    def _pinged(self, letter: Ping) -> None:
        self._post(letter.asker, Pong(self._name))

    # Questions.

    def _seek(self, channel: str) -> None:
        if self._backend.workers > 1:
            self.task(self._ask_all, channel)
        else:
            gevent.get_hub().loop.run_callback(self._found, channel, [self._serving.report(channel)], None)

    def _ask_all(self, channel: str) -> None:
        refusal: Refusal | None = None
        found: list[Any] = []
        try:
            found = self._seeking.ask((channel, self._name))
        except Refusal as error:
            refusal = error
        reports = [report for report in map(report_of, found) if report is not None]
        # That of this worker is newer now.
        self._found(channel, [*reports, self._serving.report(channel)], refusal)

    def _found(self, channel: str, reports: list[Report], refusal: Refusal | None) -> None:
        faults.call("servers that were looked for", self._asking.found, channel, reports, refusal)

    def _answer(self, argument: Any) -> Any:
        """Another worker asks for the servers of a channel here."""
        channel, asker = map(str, argument)
        return to_row(self._serving.follow(channel, asker))

    def _note(self, argument: Any) -> int:
        """Another worker has servers of a channel."""
        report = report_of(argument)
        if report is not None:
            self._asking.told(report)
        return 0

    def _came(self, argument: Any) -> int:
        """Another worker has come: one that was at its place before has gone."""
        name = str(argument)
        self._gone(lambda worker: worker != name and place_of(worker) == place_of(name))
        return 0

    def _say_hello(self) -> None:
        ask = to_workers(self._backend, b"arrived", everywhere=True)
        for _ in range(HELLOS):
            if len(ask([self._name])[0]) >= self._backend.workers:
                return
            gevent.sleep(HELLO)

    # Time, and the nodes.

    def _wake(self) -> None:
        if not self._timer.active:
            self._timer.start(faults.call, "requests", self._tick)

    def _tick(self) -> None:
        rows = self._backend.nodes()
        if rows is not self._rows and rows:
            self._rows = rows
            alive = {row["id"] for row in rows if row["state"] != "suspected"}
            self._gone(lambda worker: node_of(worker) not in alive)
        self._asking.tick()
        self._serving.tick()
        for number in self._deadlines.due(time.monotonic()):
            done, _ = self._settling.pop(number)
            done(Unavailable("the worker that has this request does not answer: perhaps it has ended"))
        if not (self._asking.is_busy or self._serving.is_busy or self._settling):
            self._timer.stop()

    def _gone(self, is_gone: Callable[[str], bool]) -> None:
        self._serving.gone(is_gone)
        self._asking.gone(is_gone)


_TAKE: dict[type, Callable[[Exchange, Any], None]] = {
    Asked: lambda exchange, letter: exchange._serving.take(letter),
    Answered: Exchange._answered,
    Failed: Exchange._failed,
    Dropped: lambda exchange, letter: exchange._asking.dropped(letter.number, letter.report),
    Returned: lambda exchange, letter: exchange._asking.returned(letter.number, letter.report),
    Withdrawn: lambda exchange, letter: exchange._serving.withdraw(letter.asker, letter.number),
    Told: lambda exchange, letter: exchange._asking.told(letter.report),
    Waits: lambda exchange, letter: exchange._serving.wait(letter.asker, letter.channel),
    Called: lambda exchange, letter: exchange._asking.called(letter.report),
    Passed: lambda exchange, letter: exchange._serving.passed(letter.asker, letter.channel),
    Settle: Exchange._settle,
    Settled: Exchange._settled,
    Ping: Exchange._pinged,
    Pong: lambda exchange, letter: exchange._asking.heard_of(letter.worker),
}
