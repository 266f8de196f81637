"""A delegate over HTTP that takes its time, and the clients about which nobody is asked.

The bystanders (`benchmarks.bystanders`) publish and listen on channels that are for anyone. In the middle third of the
time other clients publish and poll on channels that the delegate decides, each answer of which takes ``--delay``. What
the bystanders wait must stay what it was; the echo beside them tells what the machine does.

    python benchmarks/delegate.py --seconds 10 --delay 0.2 --clients 50
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bystanders import KEPT, QUIET, Bystanders, Sample
from benchmarks.tables import print_rows
from benchmarks.tools import ROOT
from tests.application import Application
from tests.daemons import Daemon

OPEN = {"subscribe": "anyone", "publish": "anyone", "history": "anyone"}
PHASES = ("before", "asked", "after")


def application(delay: float) -> None:
    """Be the application, in a process of its own; its URL is printed."""

    def decide(_: object) -> dict[str, bool]:
        time.sleep(delay)
        return {"allow": True}

    with Application(decide) as found:
        print(found.url, flush=True)
        sys.stdin.read()


def ask(port: int, over: threading.Event, done: list[int], number: int) -> None:
    """Publish and poll on a channel that the delegate decides, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not over.is_set():
        for method, path, body in (("POST", f"/asked.{number}", "1"), ("GET", f"/asked.{number}?_wait=0", None)):
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            answer.read()
            done.append(answer.status)
    connection.close()


def measure(node: Daemon, seconds: float, clients: int) -> tuple[list[Sample], list[float], list[int]]:
    """The samples of the bystanders, the ends of the phases, and the statuses of what was asked about."""
    bystanders = Bystanders(node.port)
    ends: list[float] = []
    over, done = threading.Event(), list[int]()
    threads = [threading.Thread(target=ask, args=(node.port, over, done, number)) for number in range(clients)]
    time.sleep(seconds)
    ends.append(time.monotonic())
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    ends.append(time.monotonic())
    for thread in threads:
        thread.join()
    time.sleep(seconds)
    ends.append(time.monotonic())
    return bystanders.stop()[0], ends, done


def rows(samples: list[Sample], ends: list[float]) -> list[list[str]]:
    found: dict[str, list[list[float]]] = {}
    for kind, at, waited in samples:
        phase = sum(at > end for end in ends)
        if phase < len(PHASES):
            found.setdefault(kind, [[] for _ in PHASES])[phase].append(1000 * waited)
    return [
        [kind, *(f"{statistics.median(each):.2f} / {statistics.quantiles(each, n=100)[98]:.2f}" for each in phases)]
        for kind, phases in found.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0)
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
                channels={"*": {}, QUIET: {"history_size": 0, **OPEN}, KEPT: OPEN},
            )  # fmt: skip
            try:
                samples, ends, done = measure(node, options.seconds, options.clients)
            finally:
                node.stop()
    finally:
        asked.communicate()
    told = f"{len(done)} answers in {options.seconds:g} s, each of which asked for {1000 * options.delay:g} ms"
    print(f"{told}; refused: {sum(status >= 400 for status in done)}\n")
    print_rows(["ms: median / p99", *PHASES], rows(samples, ends))
    return 0


if __name__ == "__main__":
    sys.exit(main())
