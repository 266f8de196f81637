"""The way to the servers of one channel, as a worker with clients that ask them knows it. Pure."""

from __future__ import annotations

from collections import OrderedDict

from raiden.requests.asked import Request
from raiden.requests.letters import Report


class _Known:
    """A worker with servers, by its newest report, and by the requests that it was sent since."""

    __slots__ = ("idle", "least", "room", "servers")

    def __init__(self, report: Report) -> None:
        self.servers = report.servers
        self.least = report.least
        self.idle = report.idle
        self.room = report.room

    def sent(self) -> None:
        self.room -= 1
        self.idle -= 1
        if self.idle <= 0:
            self.least += 1
            self.idle = self.servers


class Route:
    """The workers with servers of a ``channel``, and the requests that wait until one has room, by their numbers.
    ``used`` is the time at which it was asked for last, ``asked`` that at which all workers were."""

    __slots__ = (
        "_serials", "_workers", "asked", "channel", "is_known", "refused", "seeking", "told", "used", "waiting",
    )  # fmt: skip

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.waiting: OrderedDict[int, Request] = OrderedDict()
        self.used = self.asked = 0.0
        # Whether all workers have said what servers they have; and whether they are being asked.
        self.is_known = self.seeking = False
        # Whether they could not be asked, so that the next look has time.
        self.refused = False
        # The workers that were told that requests wait, and have not called since.
        self.told: set[str] = set()
        self._workers: dict[str, _Known] = {}
        # The newest reports of workers: letters overtake the answers to a question.
        self._serials: dict[str, int] = {}

    @property
    def workers(self) -> list[str]:
        return list(self._workers)

    def take(self, report: Report) -> None:
        """Take a report, which replaces earlier ones of its worker."""
        if report.serial < self._serials.get(report.worker, 0):
            return
        self._serials[report.worker] = report.serial
        if not report.servers:
            self._workers.pop(report.worker, None)
            self.told.discard(report.worker)
            return
        self._workers[report.worker] = _Known(report)
        if report.room > 0:
            self.told.discard(report.worker)

    def forget(self, worker: str) -> None:
        """Forget a worker that has gone."""
        self._workers.pop(worker, None)
        self._serials.pop(worker, None)
        self.told.discard(worker)

    def best(self, own: str) -> str | None:
        """The worker whose servers have the fewest open requests, of those with room; None: none has any. Of equals it
        is ``own``, this worker, or the one that was used least recently."""
        best: str | None = None
        least = 0
        for worker, known in self._workers.items():
            if known.room > 0 and (best is None or known.least < least or (known.least == least and worker == own)):
                best, least = worker, known.least
        return best

    def is_idle(self, worker: str) -> bool:
        """Whether a server of this worker has no open request."""
        known = self._workers.get(worker)
        return known is not None and known.room > 0 and known.least == 0

    def sent(self, worker: str) -> None:
        """Note that a worker was sent a request."""
        known = self._workers.pop(worker, None)
        if known is not None:
            known.sent()
            self._workers[worker] = known  # behind its equals

    def block(self, worker: str) -> None:
        """Send a worker nothing until it reports again, or calls: nothing gets there now."""
        known = self._workers.get(worker)
        if known is not None:
            known.room = 0
