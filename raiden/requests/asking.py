"""The requests of a worker's clients that are open, and the ways to the servers that get them. Pure.

    ask ──▶ a worker whose servers have room? ──▶ Asked ──▶ Answered, Failed: done
     ▲         │ none is known   │ none has any       ├──▶ Returned: it waits
     │         ▼                 ▼                    └──▶ Dropped, or the worker has gone: lost
     │      seek: all are asked  wait ──Called──▶ Asked               │ again
     └────────────────────────────────────────────────────────────────┘

Each request has one outcome: it leaves the table with that, and letters about numbers that are not in the table count
for nothing. Each server that is tried gets another number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

from raiden.model.message import Message
from raiden.model.refusals import Refusal
from raiden.requests.asked import Outcome, Request
from raiden.requests.deadlines import Deadlines
from raiden.requests.letters import Asked, Letter, Passed, Ping, Report, Waits, Withdrawn
from raiden.requests.refusals import Full, Late, Lost, Nobody
from raiden.requests.routes import Route

# Requests of one channel that may wait for servers with room; bytes of all that are open.
MAX_WAITING: Final = 1000
MAX_BYTES: Final = 64 << 20
# Ways to servers that are remembered; seconds for which one is that nobody asks for.
MAX_ROUTES: Final = 10_000
UNUSED: Final = 30.0
# Seconds between two questions to all workers about the servers of a channel that is asked for.
AGAIN: Final = 5.0
# Seconds between two signs of life of a worker that has requests; without one for so long it counts as gone.
BEAT, SILENT = 1.0, 10.0


class Asking:
    """The open requests of the worker that is called ``worker``, at most ``most()`` of them. ``post`` sends a letter to
    a worker, and returns False where the backbone takes no more. ``report`` tells the servers of a channel on this
    worker itself; ``seek`` asks all workers for theirs, soon, and their reports go to `found`. ``clock`` tells the
    monotonic time."""

    def __init__(
        self, worker: str, post: Callable[[str, Letter], bool], report: Callable[[str], Report],
        seek: Callable[[str], None], clock: Callable[[], float], most: Callable[[], int],
    ) -> None:  # fmt: skip
        self._worker = worker
        self._post = post
        self._report = report
        self._seek = seek
        self._clock = clock
        self._most = most
        self._numbers = itertools.count(1)
        self._open: dict[int, Request] = {}
        self._bytes = 0
        self._deadlines: Deadlines[Request] = Deadlines()
        self._routes: dict[str, Route] = {}
        # When other workers with requests of ours were last heard of, and when they are asked for a sign of life.
        self._heard: dict[str, float] = {}
        self._next_beat = 0.0

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether `tick` has something to do in time."""
        return bool(self._open or self._routes)

    def ask(self, message: Message, timeout: float, *, again: bool, done: Callable[[Outcome], None]) -> Request:
        """Ask one server of the message's channel, and call ``done`` with the outcome within ``timeout`` seconds.
        ``again``: where that server goes, ask another one. Raises Full."""
        if len(self._open) >= self._most():
            raise Full(f"this worker has {len(self._open)} open requests: try again later (max_requests)")
        if self._bytes + len(message.payload) > MAX_BYTES:
            raise Full(f"the open requests of this worker have {self._bytes} bytes: try again later")
        route = self._route(message.channel)
        if len(route.waiting) >= MAX_WAITING:
            raise Full(f"{MAX_WAITING} requests wait for servers of {message.channel!r}: try again later")
        now = self._clock()
        request = Request(next(self._numbers), message, now + timeout, again=again, done=done)
        self._open[request.number] = request
        self._bytes += request.size
        self._deadlines.add(request, request.deadline)
        route.used = now
        route.take(self._report(message.channel))
        route.waiting[request.number] = request
        self._go_on(route)
        return request

    def cancel(self, request: Request) -> None:
        """The client of a request has gone; one that is done is ignored."""
        if self._open.get(request.number) is request:
            self._take(request)
            request.forget()
            if request.worker:
                self._post(request.worker, Withdrawn(self._worker, request.number))

    # Letters.

    def answered(self, number: int, outcome: Outcome, report: Report) -> None:
        """A server has answered, or failed."""
        request = self._open.get(number)
        if request is not None:
            self._finish(request, outcome)
        self.told(report)

    def dropped(self, number: int, report: Report) -> None:
        """The server that had a request has gone."""
        self._note(report)
        request = self._open.get(number)
        if request is not None:
            self._lose(request)

    def returned(self, number: int, report: Report) -> None:
        """No server of a worker has taken a request."""
        self._note(report)
        route, request = self._routes.get(report.channel), self._open.get(number)
        if route is not None and report.servers:
            route.told.add(report.worker)  # it calls when there is room
        if request is not None:
            self._put_first(request)

    def called(self, report: Report) -> None:
        """A worker keeps room for one request that waits."""
        self._note(report)
        route = self._routes.get(report.channel)
        if route is None or not route.waiting:
            self._post(report.worker, Passed(self._worker, report.channel))
            return
        route.told.discard(report.worker)
        self._give(route, report.worker, called=True)
        self._go_on(route)

    def told(self, report: Report) -> None:
        """The servers of a worker have changed."""
        self._note(report)
        route = self._routes.get(report.channel)
        if route is not None and route.waiting:
            self._go_on(route)

    def found(self, channel: str, reports: Sequence[Report], refusal: Refusal | None = None) -> None:
        """All workers were asked for the servers of a channel, or (``refusal``) can't be."""
        route = self._routes.get(channel)
        if route is None:
            return
        route.seeking, route.refused = False, refusal is not None
        route.is_known = route.is_known or refusal is None
        for report in reports:
            self._note(report)
        if not route.workers:
            route.refused = False
            for request in list(route.waiting.values()):
                self._finish(request, refusal or (Lost(tried=True) if request.lost else Nobody(channel)))
        self._go_on(route)

    def heard_of(self, worker: str) -> None:
        """A worker has given a sign of life."""
        if worker in self._heard:
            self._heard[worker] = self._clock()

    def gone(self, is_gone: Callable[[str], bool]) -> None:
        """Workers have ended, with their servers."""
        for route in list(self._routes.values()):
            for worker in route.workers:
                if is_gone(worker):
                    route.forget(worker)
        for worker in [worker for worker in self._heard if is_gone(worker)]:
            del self._heard[worker]
        for request in [request for request in self._open.values() if request.worker and is_gone(request.worker)]:
            if self._open.get(request.number) is request:
                self._lose(request)
        for route in [route for route in self._routes.values() if route.waiting]:
            self._go_on(route)

    def tick(self) -> None:
        """Do what is due."""
        now = self._clock()
        for request in self._deadlines.due(now):
            why = "the server did not answer" if request.worker else "no server had room for the request"
            self._finish(request, Late(why))
        if now >= self._next_beat:
            self._beat(now)
            self._next_beat = now + BEAT

    # The table.

    def _finish(self, request: Request, outcome: Outcome) -> None:
        if self._open.get(request.number) is request:
            self._take(request)
            request.finish(outcome)

    def _take(self, request: Request) -> None:
        """Take a request out of the table."""
        del self._open[request.number]
        self._bytes -= request.size
        self._deadlines.remove(request, request.deadline)
        if not request.worker:
            self._routes[request.message.channel].waiting.pop(request.number, None)

    def _lose(self, request: Request) -> None:
        request.lost = True
        if request.again:
            self._put_first(request)
        else:
            self._finish(request, Lost(tried=False))

    def _put_first(self, request: Request) -> None:
        """Let a request that came back wait before all others, under another number."""
        del self._open[request.number]
        request.number, request.worker = next(self._numbers), ""
        self._open[request.number] = request
        route = self._route(request.message.channel)
        route.waiting[request.number] = request
        route.waiting.move_to_end(request.number, last=False)
        self._go_on(route)

    # The ways.

    def _route(self, channel: str) -> Route:
        route = self._routes.get(channel)
        if route is None:
            if len(self._routes) >= MAX_ROUTES:
                self._forget_unused(0.0)
            route = self._routes[channel] = Route(channel)
        return route

    def _note(self, report: Report) -> None:
        route = self._routes.get(report.channel)
        if route is not None:
            route.take(report)

    def _go_on(self, route: Route) -> None:
        """Send requests that wait to servers with room. Where there are no servers, look for some; where none has room,
        let their workers call."""
        while route.waiting:
            worker = self._best(route)
            if worker is None:
                break
            self._give(route, worker)
        if not route.waiting:
            return
        if not route.is_known or not route.workers:
            if not (route.refused and route.workers):
                self._look_for(route)
            return
        for worker in route.workers:
            if worker not in route.told:
                route.told.add(worker)
                self._post(worker, Waits(self._worker, route.channel))

    def _best(self, route: Route) -> str | None:
        """The worker with the server for the next request; None: there is none now."""
        if route.is_known:
            return route.best(self._worker)
        return self._worker if route.is_idle(self._worker) else None

    def _give(self, route: Route, worker: str, *, called: bool = False) -> None:
        """Send the first request that waits to a worker."""
        number, request = next(iter(route.waiting.items()))
        del route.waiting[number]
        now = self._clock()
        request.worker = worker
        route.sent(worker)
        if worker != self._worker:
            self._heard.setdefault(worker, now)
        message, left = request.message, max(0.0, request.deadline - now)
        letter = Asked(self._worker, number, message.channel, message.kind, message.payload, left, called)
        if not self._post(worker, letter):
            request.worker = ""
            route.waiting[number] = request
            route.waiting.move_to_end(number, last=False)
            route.block(worker)

    def _look_for(self, route: Route) -> None:
        if not route.seeking:
            route.seeking, route.asked = True, self._clock()
            self._seek(route.channel)

    # Time.

    def _beat(self, now: float) -> None:
        """Look at the workers with requests, and at the ways that are used."""
        if now - self._next_beat > 2 * BEAT:
            # This worker itself stood still: what the others have sent meanwhile is not heard yet.
            self._heard = dict.fromkeys(self._heard, now)
        busy = {request.worker for request in self._open.values()}
        for worker in [worker for worker in self._heard if worker not in busy]:
            del self._heard[worker]
        for worker in self._heard:
            self._post(worker, Ping(self._worker))
        silent = {worker for worker, heard in self._heard.items() if now - heard > SILENT}
        if silent:
            self.gone(silent.__contains__)
        for route in list(self._routes.values()):
            if now - route.asked >= AGAIN and (route.waiting or route.used > route.asked):
                self._look_for(route)
            if route.waiting:
                route.told.clear()  # a letter may have been lost
                route.refused = False
                self._go_on(route)
        self._forget_unused(UNUSED)

    def _forget_unused(self, seconds: float) -> None:
        now = self._clock()
        for channel, route in list(self._routes.items()):
            if not route.waiting and not route.seeking and now - route.used >= seconds:
                del self._routes[channel]
