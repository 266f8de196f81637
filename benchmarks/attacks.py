"""Measure what clients who try to take more than their share take of a node, and of its other clients' time:
``benchmarks/attacks.py [--quick] [--seconds N] [--first] [--json FILE] [--only NAME]...``. Prints tables in Markdown;
exit code 1 where a process took more memory than the documents say, or has ended.

**A node** is started for each attack, with the default settings but what `attackers.py` says there; two where it is
about a cluster. **The attacker** is one process with the least priority, so what it burns itself takes little from the
node; with ``--first`` it has the usual one, and the node and its clients come before all else on the machine. **The
others** (`bystanders.py`) publish and listen all the time; beside them a process that only echoes tells what the
machine adds. The first row is a control: nothing is sent, and a core is taken.

**Memory** is what is resident (RSS) of each process: when the attacker is ready, the most while it strikes (looked at
20 times a second), and 3 s after it has left. The bound is the growth that the table "What is bounded" of
docs/architecture.md comes to for this attack. It is exceeded where a process takes a quarter and 16 MB more: that much
is the heap's, and any process's that has been busy.

**Latency** is that of all publishes and deliveries of the others: in the seconds before, and from the first strike
until a second after the last. Those that took more than 100 ms are listed, with when that was, and how long the bare
echo took at its worst in that time: the machine's part of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.attack import Attack, Target
from benchmarks.attackers import ATTACKS
from benchmarks.bystanders import MACHINE, QUIET, Bystanders, Sample
from benchmarks.processes import cpu_of, stop_all, tree
from benchmarks.tables import print_rows
from benchmarks.tools import ROOT, Failed, write_json
from tests.daemons import Daemon, memory, wait_for
from tests.multiplex import has_a_peer

EVERY = 0.05  # seconds between looks at the memory
BEFORE = AFTER = 3.0  # seconds
PATIENCE = 60.0  # seconds for an attacker to get ready, or to be done after its time
MB = 1e6
# What a process may take besides a bound: once it has been busy, in MB, and for what its heap has no use for.
BUSY, GAPS = 16.0, 1.25
SOON = 100.0  # ms: the latency that no other client should exceed
MOST_LATE = 10  # rows for each attack


def before_others(pid: int) -> None:
    """Let a process, and all that it has started, come before what else wants a core; also before other sessions, if
    the kernel shares out cores among these (sched_autogroup)."""
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text("-8")
    for each in tree(pid):
        for thread in Path(f"/proc/{each}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), -15)


class Limited(Daemon):
    """A node with fewer descriptors."""

    descriptors = 0

    def command_line(self, argv: list[str]) -> list[str]:
        return ["sh", "-c", f'ulimit -n {self.descriptors}; exec "$@"', "sh", *argv]


@dataclass
class Memory:
    """Of a process, in MB."""

    before: float
    most: float
    after: float = 0.0


@dataclass
class Report:
    """What was measured of one attack. Latencies are ms, by the kind of client."""

    label: str
    bounds: Mapping[str, float]
    done: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    attacker_cpu: float = 0.0
    memory: dict[str, Memory] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)  # of a core
    waited: dict[str, float] = field(default_factory=dict)  # for a core, of the time
    before: dict[str, list[float]] = field(default_factory=dict)
    during: dict[str, list[float]] = field(default_factory=dict)
    # Those of `SOON` and more: the kind, the second in which it ended, ms, and what the echo took meanwhile.
    late: list[tuple[str, float, float, float]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def exceeded(self) -> list[str]:
        """The processes that took more than the bound."""
        return [name for name, most in self.bounds.items() if self.growth(name) > most * GAPS + BUSY]

    def growth(self, name: str) -> float:
        return self.memory[name].most - self.memory[name].before


# Nodes.


def start(stack: ExitStack, folder: Path, attack: type[Attack]) -> list[Daemon]:
    settings = {"drain_window": 0, **attack.settings}
    settings["channels"] = {"*": {}, QUIET: {"history_size": 0}, **settings.get("channels", {})}
    kind = type("Node", (Limited,), {"descriptors": attack.descriptors}) if attack.descriptors else Daemon
    nodes: list[Daemon] = []
    stack.callback(stop_all, nodes)
    for number in range(attack.nodes):
        peers = [backbone_of(nodes[0])] if nodes else []
        nodes.append(kind(folder / str(number), **settings, peers=peers))
    if len(nodes) > 1:
        for node in nodes:
            wait_for(partial(has_a_peer, node), "the nodes are connected")
    return nodes


def backbone_of(node: Daemon) -> str:
    address: str = node.json("/-/nodes")["nodes"][0]["address"]
    return address


def processes(nodes: Sequence[Daemon]) -> dict[str, int]:
    """Their pids by name; the second node's begin with its number."""
    found = dict(nodes[0].workers())
    for number, node in enumerate(nodes[1:], 2):
        found |= {f"{number}: {name}": pid for name, pid in node.workers().items()}
    return found


# Measuring.


def measure(name: str, seconds: float, *, first: bool) -> Report:
    attack = ATTACKS[name]
    report = Report(attack.label, attack.bounds)
    with tempfile.TemporaryDirectory(prefix="raiden-bench-") as folder, ExitStack() as stack:
        nodes = start(stack, Path(folder), attack)
        pids = processes(nodes)
        others = Bystanders(nodes[0].port)
        stack.callback(others.kill)
        for pid in (others.pid, *(node.pid for node in nodes)) if first else ():
            before_others(pid)
        least = [] if first else ["nice", "-n", "19"]
        command = [*least, sys.executable, "-m", "benchmarks.attackers", name, str(seconds)]
        attacker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        stack.callback(attacker.kill)
        target = Target([node.port for node in nodes], nodes[0].doors(), backbone_of(nodes[0]))
        tell(attacker, json.dumps(target._asdict()))
        hear(attacker)
        time.sleep(BEFORE)
        report.memory = {name: Memory(size, size) for name, size in sizes(pids).items()}
        cpu, waited = usage(pids)
        began = time.monotonic()
        tell(attacker, "strike")
        watch(report, attack, attacker, pids, began + seconds + PATIENCE)
        report.seconds = time.monotonic() - began
        then = usage(pids)
        report.cpu = {name: (then[0][name] - cpu[name]) / report.seconds for name in pids}
        report.waited = {name: (then[1][name] - waited[name]) / report.seconds for name in pids}
        told = json.loads(hear(attacker))
        report.done, report.attacker_cpu = told["done"], told["cpu"]
        time.sleep(AFTER)
        for process, size in sizes(pids).items():
            report.memory[process].after = size
        samples, refused = others.stop()
        report.before = by_kind(samples, began - BEFORE, began)
        report.during = by_kind(samples, began, began + report.seconds + 1.0)
        report.late = late(samples, began, began + report.seconds + 1.0)
        report.refused = [f"{at - began:.1f} s: {why}" for at, why in refused]
        for node in nodes:
            if "Traceback" in node.log():
                raise Failed(f"{name}: a traceback in the log: {node.log()[-2000:]}")
    return report


def tell(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin
    process.stdin.write(text.encode() + b"\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise Failed("the attacker failed")
    return line


def watch(
    report: Report, attack: type[Attack], attacker: subprocess.Popen[bytes], pids: dict[str, int], until: float
) -> None:
    """Look at the memory until the attacker is done."""
    assert attacker.stdout
    os.set_blocking(attacker.stdout.fileno(), False)
    resumes = time.monotonic() + attack.history_stops
    stopped = bool(attack.history_stops)
    if stopped:
        os.kill(pids["history"], signal.SIGSTOP)
    try:
        while not attacker.stdout.peek(1):  # type: ignore[attr-defined]
            if attacker.poll() is not None or time.monotonic() > until:
                raise Failed(f"{attack.label}: the attacker failed, or was not done in time")
            if stopped and time.monotonic() > resumes:
                os.kill(pids["history"], signal.SIGCONT)
                stopped = False
            for name, size in sizes(pids).items():
                report.memory[name].most = max(report.memory[name].most, size)
            time.sleep(EVERY)
    finally:
        os.set_blocking(attacker.stdout.fileno(), True)
        if stopped:
            os.kill(pids["history"], signal.SIGCONT)


def sizes(pids: Mapping[str, int]) -> dict[str, float]:
    try:
        return {name: memory(pid) / MB for name, pid in pids.items()}
    except OSError as error:
        raise Failed(f"a process of the node has ended: {error}") from None


def usage(pids: Mapping[str, int]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds that processes have run, and that their main threads have waited for a core."""
    waited = {name: int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9 for name, pid in pids.items()}
    return {name: cpu_of(pid) for name, pid in pids.items()}, waited


def by_kind(samples: Sequence[Sample], since: float, until: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for kind, at, seconds in samples:
        if since <= at < until:
            found[kind].append(seconds * 1000)
    return dict(found)


def late(samples: Sequence[Sample], since: float, until: float) -> list[tuple[str, float, float, float]]:
    """The samples of `SOON` and more, as a `Report` has them."""
    found = []
    for kind, at, seconds in samples:
        if kind != MACHINE and since <= at < until and seconds * 1000 > SOON:
            echo = max((each[2] for each in samples if each[0] == MACHINE and at - seconds < each[1] < at), default=0.0)
            found.append((kind, at - since, seconds * 1000, echo * 1000))
    return found


# Tables.


def latency(samples: Mapping[str, Sequence[float]], *kinds: str) -> str:
    """The median, the 99th percentile and the worst of the samples of some kinds, or of all but the machine's."""
    found = [ms for kind in kinds or samples.keys() - {MACHINE} for ms in samples.get(kind, ())]
    if len(found) < 2:
        return "-"
    p99 = statistics.quantiles(found, n=100)[98]
    return f"{statistics.median(found):.1f} / {p99:.1f} / {max(found):.0f}"


def print_memory(reports: Sequence[Report]) -> None:
    print("\n## Memory, MB\n")
    rows = []
    for report in reports:
        for name, found in report.memory.items():
            bound = report.bounds.get(name)
            if bound is None and report.growth(name) < BUSY:
                continue
            row = [report.label, name, *(f"{size:.0f}" for size in (found.before, found.most, found.after))]
            row.append(f"{report.growth(name):.0f}")
            row.append("-" if bound is None else f"{bound:.0f}{': exceeded' if name in report.exceeded() else ''}")
            rows.append(row)
    print_rows(("", "process", "before", "at its worst", "after", "growth", "bound"), rows)


def print_latency(reports: Sequence[Report]) -> None:
    print("\n## The others' latency, ms: median / p99 / worst\n")
    rows = []
    for report in reports:
        late = [kind for kind, values in report.during.items() if kind != MACHINE and max(values) > SOON]
        shares = {name: f"{share * 100:.0f} (+{report.waited[name] * 100:.0f})" for name, share in report.cpu.items()}
        cpu = ", ".join(f"{name} {shares[name]}" for name, share in report.cpu.items() if share >= 0.02)
        row = [report.label, latency(report.before), latency(report.during), ", ".join(late) or "-"]
        rows.append([*row, latency(report.during, MACHINE), str(len(report.refused)), cpu])
    print_rows(
        (
            "",
            "before",
            "during",
            "who waited",
            "a bare echo meanwhile",
            "refused",
            "CPU, % of a core (+ waiting for one)",
        ),
        rows,
    )


def print_late(reports: Sequence[Report]) -> None:
    """When the others waited: what is late by one event comes together."""
    print("\n## Who waited for more than 100 ms, when, and what the bare echo took meanwhile\n")
    rows = []
    for report in reports:
        for kind, at, ms, echo in sorted(report.late, key=lambda each: each[2], reverse=True)[:MOST_LATE]:
            rows.append([report.label, kind, f"{at:.2f}", f"{ms:.0f}", f"{echo:.0f}"])
    print_rows(("", "who", "s", "ms", "echo, ms"), rows)


def print_done(reports: Sequence[Report]) -> None:
    for report in reports:
        done = ", ".join(f"{what} {count:,}" for what, count in report.done.items())
        print(f"\n{report.label}: {done or '-'}; in {report.seconds:.0f} s.", end="")
        if report.refused:
            print(f" Refused: {report.refused[0]}", end="")
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what attackers take of a node.")
    parser.add_argument("--quick", action="store_true", help="two seconds each: does it work")
    parser.add_argument(
        "--first", action="store_true", help="let the node and its clients come before all else here; takes root"
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="of each attack; default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument(
        "--only", action="append", choices=list(ATTACKS), metavar="NAME", help=f"only these: {', '.join(ATTACKS)}"
    )
    arguments = parser.parse_args()
    seconds = 2.0 if arguments.quick else arguments.seconds
    reports = []
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in arguments.only or ATTACKS:
        print(f"\r\033[K{ATTACKS[name].label} ", end="", file=sys.stderr, flush=True)
        try:
            reports.append(measure(name, seconds, first=arguments.first))
        except (Failed, AssertionError, subprocess.SubprocessError, OSError) as error:
            print(f"\n{name}: {error or type(error).__name__}", file=sys.stderr)
            return 1
    print("\r\033[K", end="", file=sys.stderr)
    if arguments.json:
        write_json(arguments.json, quick=arguments.quick, reports=[dataclasses.asdict(report) for report in reports])
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; attacks of {seconds:g} s")
    print_memory(reports)
    print_latency(reports)
    print_late(reports)
    print_done(reports)
    return 1 if any(report.exceeded() for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
