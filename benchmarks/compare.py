"""Measure Raiden beside other servers, on this machine: ``benchmarks/compare.py [--only SYSTEM,...]``
``[--workload NAME,...] [--door DOOR,...] [--rounds N] [--quick] [--results FILE]``.

peers.py has the systems, workloads.py what they are measured with, load.c is the load generator and sendloop.c the
limit of the kernel; report.py makes docs/benchmarks.md of the results.

A round has every workload once, and in each the systems in turn, each started anew for this run alone, so that what the
machine does meanwhile meets them alike; ratios are taken within a round. The results are kept line by line, as JSON,
in build/benchmarks.jsonl: those of a run that is cut off too, and later runs are added to them. A system that can't be
installed is left out and named; a run that fails is named too, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import DESCRIPTORS, LEFT_OUT, SYSTEMS, System, words
from benchmarks.processes import end
from benchmarks.tools import BUILD, Failed, compile_tools, run_load, run_tool
from benchmarks.workloads import CURVES, NAMES, QUICK_SECONDS, SECONDS, WORKLOADS, Workload

RESULTS = BUILD / "benchmarks.jsonl"
ROUNDS = 3
CURVE_ROUNDS = 1  # of growth, which has many points, unless it is asked for
PATIENCE = 60.0  # seconds for a run, besides those that messages are published for
COALESCE = 200  # microseconds: the load looks for deliveries so often, or both sides would wake up for each
CONNECTED_WITHIN = 3000  # milliseconds, that subscribers at other nodes are waited for

Run = tuple[Workload, System | None, str]  # a system by one of its doors; or none: the limit


def runs_of(only: Sequence[str], names: Sequence[str], doors: Sequence[str], *, curves: bool) -> list[Run]:
    """What a round measures, in order."""
    workloads = [workload for workload in WORKLOADS if workload.name in names]
    if curves:
        workloads += [point for curve in CURVES if curve.name in names for point in curve.points]
    runs: list[Run] = []
    for workload in workloads:
        rows = [(system, door) for system, door in workload.rows() if system.name in only]
        runs += [(workload, system, door) for system, door in rows if not doors or door in doors]
        if workload.limit:
            runs.append((workload, None, ""))
    return runs


# One run.


def measure(workload: Workload, system: System, door_name: str, seconds: float) -> dict[str, Any]:
    """What the load generator says of a system that is started for it."""
    timeout = seconds + PATIENCE
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="raiden-bench-"))
        running = stack.enter_context(system.start(Path(folder)))
        door = running.doors[door_name]
        load = [*door.options(workload.size), *workload.load(door, seconds)]
        load += words(coalesce=COALESCE, src_ips=4)
        here = [word for pid in running.pids for word in words(pid=pid)]
        listeners = []
        if running.elsewhere:
            share = words(subs=workload.subscribers // (1 + len(running.elsewhere)))
            here += [*share, *words(settle=CONNECTED_WITHIN)]
            there = [*share, *words(pub="none", seconds=0, drain=2 * CONNECTED_WITHIN)]
            for where in running.elsewhere:
                command = [str(BUILD / "load"), *load, *where, *there, *words(timeout=timeout)]
                listener = subprocess.Popen(command, stdout=subprocess.PIPE)
                stack.callback(end, listener)
                listeners.append(listener)
        result = run_load(*load, *here, timeout=timeout)
        for listener in listeners:
            elsewhere = json.loads(listener.communicate(timeout=timeout)[0])
            for count in ("ready", "expected", "delivered", "lost", "duplicates", "misrouted"):
                result[count] += elsewhere[count]
    if workload.subscribers and result["ready"] < workload.subscribers // (1 + len(listeners)) * (1 + len(listeners)):
        raise Failed(f"{result['ready']} of {workload.subscribers} subscribers are ready")
    return result


def measure_limit(workload: Workload, seconds: float) -> dict[str, Any]:
    """The same sends, by a loop that does nothing else (sendloop.c)."""
    sockets = min(workload.subscribers, DESCRIPTORS // 2 - 100)  # it has both ends
    rounds = max(int(workload.rate * seconds), 1)
    frame = workload.size + 4  # with a WebSocket's header
    command = [str(BUILD / "sendloop"), *map(str, (sockets, rounds, workload.rate, frame))]
    said = run_tool(command, seconds + PATIENCE)
    cpu = said["cpu_us_per_send"] * said["sends"] / 1e6
    return {"delivered": said["sends"], "expected": said["sends"], "lost": 0, "server_cpu_s": cpu}


# All of them.


def machine() -> dict[str, Any]:
    models = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "memory_gb": round(pages / 2**30),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def append(file: Path, **line: object) -> None:
    with open(file, "a") as results:
        results.write(json.dumps(line) + "\n")


def measure_all(rounds: Sequence[Sequence[Run]], results: Path, *, quick: bool) -> None:
    seconds = QUICK_SECONDS if quick else SECONDS
    total, done = sum(map(len, rounds)), 0
    began = time.monotonic()
    for number, runs in enumerate(rounds, 1):
        which = f"{int(time.time())}-{number}"
        for workload, system, door in runs:
            name = f"{system.name} {door}" if system else "sendloop"
            minutes = (time.monotonic() - began) / 60
            left = minutes / done * (total - done) if done else 0
            doing = f"round {number}: {workload.name}, {name}"
            print(f"[{minutes:4.1f} min, {left:3.0f} left; {done}/{total}] {doing}", file=sys.stderr, flush=True)
            line: dict[str, object] = {
                "workload": workload.name, "system": system.name if system else "sendloop", "door": door,
                "round": which, "quick": quick,
            }  # fmt: skip
            try:
                line["result"] = (
                    measure(workload, system, door, seconds) if system else measure_limit(workload, seconds)
                )
            except (Failed, AssertionError, subprocess.SubprocessError, OSError, ValueError) as error:
                line["failed"] = (str(error) or type(error).__name__)[:500]
                print(f"  failed: {line['failed']}", file=sys.stderr)
            append(results, **line)
            done += 1


def names_in(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def main() -> int:
    systems = [system.name for system in SYSTEMS]
    parser = argparse.ArgumentParser(description="Measure Raiden beside other servers on this machine.")
    parser.add_argument("--only", type=names_in(systems), default=systems, metavar="SYSTEM,...")
    parser.add_argument("--workload", type=names_in(NAMES), default=[], metavar="NAME,...")
    doors = sorted({door for system in SYSTEMS for door in system.doors})
    parser.add_argument("--door", type=names_in(doors), default=[], metavar="DOOR,...")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help=f"{ROUNDS}, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="short runs: does it work, roughly how fast")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="where the results are added")
    arguments = parser.parse_args()
    # Servers are started with what this process may open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        compile_tools("load", "sendloop")
    except (subprocess.SubprocessError, OSError) as error:
        print(f"this needs a C compiler: {error}", file=sys.stderr)
        return 1
    rounds = [
        runs_of(
            arguments.only,
            arguments.workload or NAMES,
            arguments.door,
            curves=bool(arguments.workload) or number < CURVE_ROUNDS,
        )
        for number in range(arguments.rounds or (1 if arguments.quick else ROUNDS))
    ]
    asked = {system.name: system for runs in rounds for _, system, _ in runs if system}
    missing = {system.label: why for system in asked.values() if (why := system.needs())}
    versions = {name: system.version() for name, system in asked.items() if system.label not in missing}
    append(
        arguments.results, machine=machine(), versions=versions, missing={**LEFT_OUT, **missing},
        when=time.strftime("%Y-%m-%d"),
    )  # fmt: skip
    possible = [[run for run in runs if run[1] is None or run[1].name in versions] for runs in rounds]
    measure_all(possible, arguments.results, quick=arguments.quick)
    for label, why in {**LEFT_OUT, **missing}.items():
        print(f"{label} was not measured: {why}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
