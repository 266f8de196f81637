"""A delegate over HTTP that takes its time, and the clients about which nobody is asked.

The bystanders (`benchmarks.bystanders`) publish and listen on channels that are for anyone. Beside them, in turns,

- nothing happens ("quiet"),
- other clients publish and poll on channels that are for anyone, and wait for ``--delay`` seconds each time ("paced"),
- they do so on channels that the delegate decides, each answer of which takes ``--delay`` ("asked").

What the bystanders wait must be the same in the last two. The echo beside them tells what the machine does.

    python benchmarks/delegate.py --rounds 5 --seconds 3 --delay 0.2 --clients 50
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bystanders import KEPT, QUIET, Bystanders, Sample
from benchmarks.tables import print_rows
from benchmarks.tools import ROOT
from tests.application import Application
from tests.daemons import Daemon

OPEN = {"subscribe": "anyone", "publish": "anyone", "history": "anyone"}
KINDS = ("quiet", "paced", "asked")


def application(delay: float) -> None:
    """Be the application, in a process of its own; its URL is printed."""

    def decide(_: object) -> dict[str, bool]:
        time.sleep(delay)
        return {"allow": True}

    with Application(decide) as found:
        print(found.url, flush=True)
        sys.stdin.read()


class Askers:
    """Clients that publish and poll, one after the other, on channels with a ``prefix``, and rest ``pause`` seconds
    each time, until `stop`."""

    def __init__(self, port: int, clients: int, prefix: str, pause: float) -> None:
        self._over = threading.Event()
        self.statuses: list[int] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(port, f"{prefix}.{number}", pause)) for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, port: int, channel: str, pause: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while not self._over.is_set():
            for method, path, body in (("POST", f"/{channel}", "1"), ("GET", f"/{channel}?_wait=0", None)):
                connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
                answer = connection.getresponse()
                answer.read()
                self.statuses.append(answer.status)
                time.sleep(pause)
        connection.close()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Phase(NamedTuple):
    """A time in which one kind of thing happened, and the statuses of what was asked for."""

    kind: str
    begin: float
    end: float
    statuses: list[int]


def measure(node: Daemon, options: argparse.Namespace) -> tuple[list[Sample], list[Phase]]:
    bystanders = Bystanders(node.port)
    phases = []
    for _ in range(options.rounds):
        for kind in KINDS:
            askers = None
            if kind != "quiet":
                prefix, pause = ("open", options.delay) if kind == "paced" else ("asked", 0.0)
                askers = Askers(node.port, options.clients, prefix, pause)
            begin = time.monotonic()
            time.sleep(options.seconds)
            end = time.monotonic()
            if askers is not None:
                askers.stop()
            phases.append(Phase(kind, begin, end, [] if askers is None else askers.statuses))
    return bystanders.stop()[0], phases


def rows(samples: Sequence[Sample], phases: Sequence[Phase]) -> list[list[str]]:
    found: dict[str, dict[str, list[float]]] = {}
    for kind, at, waited in samples:
        for phase in phases:
            if phase.begin + waited <= at < phase.end:
                found.setdefault(kind, {}).setdefault(phase.kind, []).append(1000 * waited)
    return [[kind, *(_told(by[each]) for each in KINDS)] for kind, by in found.items()]


def _told(waited: list[float]) -> str:
    hundredths = statistics.quantiles(waited, n=100)
    return f"{hundredths[49]:.2f} / {hundredths[89]:.2f} / {hundredths[98]:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--delay", type=float, default=0.2)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--application", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.application:
        application(options.delay)
        return 0
    command = [sys.executable, __file__, "--application", "--delay", str(options.delay)]
    asked = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert asked.stdout is not None
    try:
        with tempfile.TemporaryDirectory() as folder:
            node = Daemon(
                Path(folder), delegate={"url": asked.stdout.readline().strip(), "timeout": 30},
                channels={"*": {}, "open.*": OPEN, QUIET: {"history_size": 0, **OPEN}, KEPT: OPEN},
            )  # fmt: skip
            try:
                samples, phases = measure(node, options)
            finally:
                node.stop()
    finally:
        asked.communicate()
    for kind in KINDS[1:]:
        statuses = [status for phase in phases if phase.kind == kind for status in phase.statuses]
        refused = sum(status >= 400 for status in statuses)
        print(f"{kind}: {len(statuses) / options.rounds / options.seconds:.0f} answers/s, refused: {refused}")
    print()
    print_rows(["ms: median / p90 / p99", *KINDS], rows(samples, phases))
    return 0


if __name__ == "__main__":
    sys.exit(main())
