"""Where each microsecond of a node goes: ``benchmarks/profile.py [--root DIR] [WORKLOAD]...``. Prints Markdown.

A node is put under one load at a time, and py-spy samples its worker's stacks, native frames included, while the
kernel's clock tells what each of its processes takes. A sample counts for the system call at its end, or else for the
innermost Python code: a file of Raiden's, or a library. What a library does in C for a file of Raiden's counts for that
file, as does what the interpreter does. ``--root`` is another checkout of Raiden to measure, one of an earlier time,
say; the same load is put on it. A profiler takes time itself: compare shares, and the whole with benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import Meter, tree
from benchmarks.tables import print_rows
from benchmarks.tools import ROOT, Failed, compile_tools, run_load
from tests.daemons import Daemon

SECONDS = 5.0
RATE = 500  # samples a second
# The innermost of these in a stack says which system call it is.
CALLS = {"send": "send", "recv": "recv", "epoll_wait": "epoll_wait", "accept4": "accept", "close": "close",
         "poll": "poll", "write": "write", "read": "read"}  # fmt: skip
LIBRARIES = re.compile(r"^(gevent|greenlet|zmq|webob|websockets|httptools|msgspec|sqlite3)\b")
SMALLEST = 0.01  # share of a row of its own


class Workload(NamedTuple):
    """What is done, what is counted as one of it, and with what options of load; ``{port}`` is the node's. Samples are
    taken when ``connecting`` seconds have passed."""

    title: str
    unit: str
    options: str
    store: str = "none"
    connecting: float = 0.0


SUBSCRIBE = "--sub ws --sub-addr 127.0.0.1:{port} --sub-path /{{ch}}"
POLL = SUBSCRIBE.replace("ws", "http --longpoll --cursor-header Raiden-Cursor=Last-Event-ID") + "?_wait=60"
PUBLISH = "--pub http --pub-addr 127.0.0.1:{port} --pub-path /{{ch}} --pub-header Content-Type:application/json"
WORKLOADS = {
    "publish": Workload(
        "Publishing on 16 connections to 10 WebSockets", "published", f"{SUBSCRIBE} --subs 10 {PUBLISH} --pubs 16"
    ),
    "store": Workload(
        "The same with history, SQLite", "published", f"{SUBSCRIBE} --subs 10 {PUBLISH} --pubs 16", "sqlite"
    ),
    "deliver": Workload(
        "1,000 WebSockets, 200 messages/s", "delivered",
        f"{SUBSCRIBE} --subs 1000 {PUBLISH} --pubs 4 --window 16 --rate 200", connecting=1.5,
    ),
    "poll": Workload(
        "1,000 long-polls, 5 messages/s", "delivered", f"{POLL} --subs 1000 {PUBLISH} --pubs 1 --rate 5", "sqlite", 1.5
    ),
    "connect": Workload(
        "WebSockets that connect, subscribe and leave", "connects",
        f"{SUBSCRIBE} --subs 1000 --pub none --storm {SECONDS}",
    ),
}  # fmt: skip


def measure(workload: Workload, root: Path, folder: Path) -> tuple[dict[str, float], Counter[str]]:
    """The microseconds that each process takes for one, and the samples of the worker by where they were taken."""
    daemon = Daemon(folder / "node", root=root, workers=1, store=workload.store, keepalive=600.0)
    try:
        processes = daemon.workers()
        options = workload.options.format(port=daemon.port).split()
        if "--storm" not in options:
            options += ["--seconds", str(SECONDS), "--msgs", "1000000", "--pub-body", '"{msg}"']
        meter = Meter({name: tree(pid) for name, pid in processes.items()})
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(run_load, *options, "--coalesce", "200")
            time.sleep(workload.connecting)
            spy = spy_on(processes["worker 0"], folder / "samples")
            result = loading.result()
        taken = meter.taken()
        spy.wait(30)
    finally:
        daemon.stop()
    return {name: taken[name] / result[workload.unit] * 1e6 for name in processes}, samples(folder / "samples")


def spy_on(pid: int, file: Path) -> subprocess.Popen[bytes]:
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise Failed("this needs py-spy: pip install py-spy")
    command = [program, "record", "--pid", str(pid), "--native", "--rate", str(RATE), "--format", "raw"]
    return subprocess.Popen(
        [*command, "--duration", str(int(SECONDS)), "--output", str(file)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def samples(file: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        found[place(stack.split(";"))] += int(count)
    return found


def place(stack: Sequence[str]) -> str:
    """Where a sample was taken. Frames are like ``Router._put (raiden/router.py:446)`` and ``send (libc.so.6)``."""
    call = CALLS.get(stack[-1].partition(" (")[0])
    if call and "(lib" in stack[-1]:
        return f"kernel: {call}"
    for frame in reversed(stack):
        file = frame.rpartition("(")[2]
        if file.startswith("raiden/"):
            return file.partition(":")[0].rstrip(")")
        library = LIBRARIES.search(file)
        if library:
            return library.group(1)
    return "the interpreter"


def print_tables(workload: Workload, processes: dict[str, float], places: Counter[str]) -> None:
    print(f"\n## {workload.title}\n")
    print_rows(("process", f"CPU, us/{workload.unit}"), [(name, f"{us:.1f}") for name, us in processes.items()])
    whole, worker = sum(places.values()), processes["worker 0"]
    shares = {name: count / whole for name, count in places.most_common()}
    rows = [(name, share) for name, share in shares.items() if share >= SMALLEST]
    rows.append(("all else", 1 - sum(share for _, share in rows)))
    print()
    print_rows(("in the worker", "share, %", "us"), [(n, f"{100 * s:.0f}", f"{s * worker:.2f}") for n, s in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description="Where the time of a node goes.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout of Raiden to measure")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    arguments = parser.parse_args()
    try:
        compile_tools("load")
        for name in arguments.workloads or WORKLOADS:
            with tempfile.TemporaryDirectory(prefix="raiden-profile-") as folder:
                print_tables(WORKLOADS[name], *measure(WORKLOADS[name], arguments.root, Path(folder)))
    except (Failed, subprocess.SubprocessError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
