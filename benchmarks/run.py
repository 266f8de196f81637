"""Measure a real node and, in the same run, the limit of the machine: ``benchmarks/run.py [--quick] [--json FILE]``.

load.c is the load and sendloop.c the limit, both compiled into build/. Each round has every measurement once, each
with a daemon of its own; the table has the medians over the rounds. No history is kept; history.py says what that
costs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tools import BUILD, ROOT, Failed, check_delivered, compile_tools, run_load, run_tool, write_json

SUBSCRIBERS = 1000
RATE = 200
BYTES = 128
FRAME_BYTES = BYTES + 4  # with a WebSocket header
Numbers = dict[str, float]

# What a greenlet that waits would cost by itself, for comparison with an idle subscriber.
GREENLETS = """
import gevent, gevent.event
def pss():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Pss:"))
event, before = gevent.event.Event(), pss()
waiting = [gevent.spawn(event.wait) for _ in range(10_000)]
gevent.sleep(0.1)
print((pss() - before) / 10_000)
"""


class Daemon:
    """A node with one worker, on a port of the kernel's choice; a context that ends with it."""

    def __init__(self, **changed: object) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="raiden-bench-"))
        # No keep-alives in between.
        settings = {"http_port": 0, "backend_port": 0, "workers": 1, "data_dir": str(self._folder)}
        settings |= {"keepalive": 600.0, "store": "none", **changed}
        options = [word for name, value in settings.items() for word in ("-X", f"{name} = {value!r}")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAIDEN_")}
        self._log = self._folder / "output"
        with open(self._log, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "raiden", *options],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
                env={**environment, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Daemon:
        try:
            deadline = time.monotonic() + 20
            while "ready" not in self._log.read_text():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"the daemon did not start: {self._log.read_text()}")
                time.sleep(0.02)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", self._log.read_text())
            assert found, "the daemon says where it is"
            self.port = int(found.group(1))
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            self.forwarders, self.worker = map(int, children)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def load(self, *options: str, memory_of: int | None = None, **numbers: float) -> dict[str, Any]:
        """Put a load on the node; measure it, or one process of it."""
        at, post = f"127.0.0.1:{self.port}", ("--pub-header", "Content-Type: application/json", "--pub-body", '"{msg}"')
        options = (*options, "--pipeline", "--sub-addr", at, "--pub", "http", "--pub-addr", at, *post)
        result = run_load(*options, "--pid", str(memory_of or self.pid), size=BYTES - 2, **numbers)
        if result["published"]:
            check_delivered(result, in_order=numbers.get("pubs", 1) == 1)
        return result


def paced(messages: int) -> Numbers:
    """(a) and the limit: the CPU of a delivery at a pace, and of a bare send."""
    with Daemon() as daemon:
        result = daemon.load(subs=SUBSCRIBERS, msgs=messages, rate=RATE)
        worker = result["server_cpu_by_pid"][str(daemon.worker)]
        forwarders = result["server_cpu_by_pid"][str(daemon.forwarders)]
    command = [str(BUILD / "sendloop"), str(SUBSCRIBERS), str(messages), str(RATE), str(FRAME_BYTES)]
    limit = run_tool(command, messages / RATE + 60)["cpu_us_per_send"]
    us = 1e6 / result["delivered"]
    return {
        "paced_cpu_us_per_delivery": result["server_cpu_s"] * us,
        "paced_worker_cpu_us_per_delivery": worker * us,
        "paced_forwarders_cpu_us_per_delivery": forwarders * us,
        "sendloop_cpu_us_per_send": limit,
        "paced_ratio_to_sendloop": result["server_cpu_s"] * us / limit,
        "paced_publishes_per_s": result["pub_per_s"],
        "paced_p50_ms": result["latency_us"]["p50"] / 1000,
        "paced_p99_ms": result["latency_us"]["p99"] / 1000,
    }


def full_speed(messages: int, single: int) -> Numbers:
    """(b): deliveries a second with 64 publishes outstanding, and with one whose fan-out ends before the next.

    For the latter the node does not gather: else it would wait for messages that can't come."""
    with Daemon() as daemon:
        many = daemon.load(subs=SUBSCRIBERS, msgs=messages, window=64)
    with Daemon(max_gather=0.0) as daemon:
        one = daemon.load(subs=SUBSCRIBERS, msgs=single, inflight=1)
    return {
        "full_deliveries_per_s": many["deliveries_per_s"],
        "full_publishes_per_s": many["pub_per_s"],
        "full_cpu_us_per_delivery": many["cpu_us_per_delivery"],
        "full_p50_ms": many["latency_us"]["p50"] / 1000,
        "full_p99_ms": many["latency_us"]["p99"] / 1000,
        "single_deliveries_per_s": one["deliveries_per_s"],
        "single_cpu_us_per_delivery": one["cpu_us_per_delivery"],
        "single_p50_ms": one["latency_us"]["p50"] / 1000,
        "full_ratio_to_single": many["deliveries_per_s"] / one["deliveries_per_s"],
    }


def idle(subscribers: int) -> Numbers:
    """(c): the memory of subscribers that get nothing, by transport, and of bare greenlets."""
    numbers: Numbers = {}
    events = ("--sub", "http", "--sub-header", "Accept: text/event-stream")
    for transport, options in (("sse", events), ("ws", ())):
        with Daemon() as daemon:
            result = daemon.load(*options, memory_of=daemon.worker, subs=subscribers, settle=1000)
        before, after = result["pss_before_kb"], result["pss_after_kb"]
        numbers[f"idle_{transport}_pss_before_mb"] = before / 1024
        numbers[f"idle_{transport}_pss_after_mb"] = after / 1024
        numbers[f"idle_{transport}_kb_per_subscriber"] = (after - before) / subscribers
        numbers[f"idle_{transport}_connects_per_s"] = result["connects_per_s"]
    numbers["greenlet_kb"] = run_tool([sys.executable, "-c", GREENLETS], 60)
    return numbers


def publishing(messages: int) -> Numbers:
    """(d): publishes on 16 connections, one outstanding on each, to 10 subscribers."""
    with Daemon() as daemon:
        result = daemon.load(subs=10, msgs=messages, pubs=16)
    return {
        "publish_per_s": result["pub_per_s"],
        "publish_cpu_us": result["cpu_us_per_publish"],
        "publish_worker_cpu_us": result["server_cpu_by_pid"][str(daemon.worker)] * 1e6 / messages,
        "publish_p50_ms": result["latency_us"]["p50"] / 1000,
        "publish_p99_ms": result["latency_us"]["p99"] / 1000,
    }


TABLE: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        f"(a) {SUBSCRIBERS:,} WebSockets, {RATE} messages/s of {BYTES} bytes",
        [
            ("server CPU per delivery", "paced_cpu_us_per_delivery", "{:.2f} us"),
            ("  of that, the worker", "paced_worker_cpu_us_per_delivery", "{:.2f} us"),
            ("CPU per send of sendloop", "sendloop_cpu_us_per_send", "{:.2f} us"),
            ("server / sendloop", "paced_ratio_to_sendloop", "{:.2f}"),
            ("latency, median", "paced_p50_ms", "{:.1f} ms"),
            ("latency, 99th percentile", "paced_p99_ms", "{:.1f} ms"),
        ],
    ),
    (
        f"(b) {SUBSCRIBERS:,} WebSockets, as fast as 64 outstanding publishes allow",
        [
            ("deliveries", "full_deliveries_per_s", "{:,.0f} /s"),
            ("server CPU per delivery", "full_cpu_us_per_delivery", "{:.2f} us"),
            ("latency, median", "full_p50_ms", "{:.1f} ms"),
            ("deliveries, one message per send", "single_deliveries_per_s", "{:,.0f} /s"),
            ("  server CPU per delivery", "single_cpu_us_per_delivery", "{:.2f} us"),
            ("ratio", "full_ratio_to_single", "{:.1f}"),
        ],
    ),
    (
        "(c) idle subscribers of one worker",
        [
            ("event stream: worker's PSS before", "idle_sse_pss_before_mb", "{:.1f} MB"),
            ("  and after", "idle_sse_pss_after_mb", "{:.1f} MB"),
            ("  per subscriber", "idle_sse_kb_per_subscriber", "{:.2f} KB"),
            ("WebSocket: worker's PSS before", "idle_ws_pss_before_mb", "{:.1f} MB"),
            ("  and after", "idle_ws_pss_after_mb", "{:.1f} MB"),
            ("  per subscriber", "idle_ws_kb_per_subscriber", "{:.2f} KB"),
            ("a bare greenlet, for comparison", "greenlet_kb", "{:.2f} KB"),
        ],
    ),
    (
        "(d) publishing on 16 connections to 10 WebSockets",
        [
            ("publishes", "publish_per_s", "{:,.0f} /s"),
            ("server CPU per publish", "publish_cpu_us", "{:.1f} us"),
            ("  of that, the worker", "publish_worker_cpu_us", "{:.1f} us"),
            ("latency, median", "publish_p50_ms", "{:.2f} ms"),
        ],
    ),
]


def print_table(medians: Numbers, samples: list[Numbers]) -> None:
    for title, rows in TABLE:
        print(f"\n{title}")
        for label, name, form in rows:
            if name in medians:
                values = [numbers[name] for numbers in samples]
                spread = f"{form.format(min(values))} .. {form.format(max(values))}" if len(values) > 1 else ""
                print(f"  {label:<36} {form.format(medians[name]):>16}   {spread}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a node on this machine.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work, roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    measurements: list[Callable[[], Numbers]] = [
        lambda: paced(RATE * (2 if quick else 10)),
        lambda: full_speed(1000 if quick else 5000, 50 if quick else 300),
        lambda: publishing(4000 if quick else 50_000),
        lambda: idle(2000 if quick else 10_000),
    ]
    rounds = 1 if quick else 3
    samples: list[Numbers] = []
    try:
        compile_tools("load", "sendloop")
        for number in range(rounds):
            sample: Numbers = {}
            for measure in measurements:
                sample.update(measure())
                print(f"\rround {number + 1} of {rounds}: {len(sample)} numbers ", end="", file=sys.stderr, flush=True)
            samples.append(sample)
    except (Failed, subprocess.SubprocessError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    medians = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    print_table(medians, samples)
    if arguments.json:
        write_json(arguments.json, quick=quick, medians=medians, rounds=samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
