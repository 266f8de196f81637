"""This node's workers, as they report to its roster."""

from __future__ import annotations

import time

import gevent

from raiden.backbone.roster import Beat, Report

KNOWN_TO_WORKERS = 2.0  # seconds


class Workers:
    """The last report of each worker of the node whose beat is ``own``."""

    def __init__(self, own: Beat) -> None:
        self._own = own
        self._reports: dict[int, Report] = {}

    def hear(self, report: Report, serial: int) -> bool:
        """Take a report; return whether its worker goes by an older state than ``serial``, and must be told again."""
        if report.worker >= self._own.workers:
            return False
        self._reports[report.worker] = report
        return report.serial < serial

    def sum_up(self) -> None:
        """Let the beat have the sums of all workers' figures."""
        for name in ("connections", "channels", "messages_in", "messages_out"):
            setattr(self._own, name, sum(getattr(report, name) for report in self._reports.values()))

    def wait_for(self, serial: int) -> bool:
        """Wait until all workers go by this state, for `KNOWN_TO_WORKERS` seconds; False if they don't in time."""
        deadline = time.monotonic() + KNOWN_TO_WORKERS
        while time.monotonic() < deadline:
            known = [report.serial >= serial for report in self._reports.values()]
            if len(known) >= self._own.workers and all(known):
                return True
            gevent.sleep(0.002)
        return False
