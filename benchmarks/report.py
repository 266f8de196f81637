"""Make docs/benchmarks.md and its plots of what compare.py has measured: ``benchmarks/report.py [--results FILE]
[--tables]``.

Whatever is told of figures stands here, beside the tables that are made of them; the document is not written by hand.
Where there are results of whole runs, those of quick ones are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plot
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.compare import RESULTS
from benchmarks.peers import BY_NAME, System
from benchmarks.tables import cell
from benchmarks.tools import ROOT
from benchmarks.workloads import CURVES, FIGURES, SECONDS, WORKLOADS, Curve, Figure, Workload

DOCUMENT = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "benchmarks"
DOORS = {
    "ws": "WebSocket", "sse": "event stream", "poll": "long-poll", "tcp": "TCP", "deflate": "WebSocket",
    "commands": "", "push": "", "fields": "no filter", "filter": "a filter", "cable": "Action Cable",
    "centrifuge": "Centrifuge", "pusher": "Pusher",
}  # fmt: skip
LIMIT = "*bare `send`*"
SHOWN = ("fan-out", "fan-out-20", "fan-out-10k", "many-channels")  # in the first plot
OWN, THEIRS, BARE = "#c2410c", "#64748b", "#111827"

HEAD = """
# Benchmarks

This document compares Raiden with servers that do the same work, on one machine, under the same load.
`benchmarks/report.py` makes it from the measurements of `benchmarks/compare.py`.
"""

HOW = """
## How it is measured

- **The load** (`benchmarks/load.c`) is one process that opens the subscribers, publishes, and looks for a marker with
  the time and a number in the bytes that each subscriber gets. So it measures every protocol the same way: which
  messages arrived, when, and which are missing. It shares the machine with the server.
- **The systems** (`benchmarks/peers.py`) are the released programs, on loopback, started anew for each run: one process
  or worker, or the threads that the program takes by itself (NATS and Centrifugo take all cores). Their settings let
  them go as fast as they can: no logs, nothing on disk unless it is history, connections stay open, no pings in
  between. The libraries have a small server each, in `benchmarks/servers`. Raiden is the wheel of `make wheel`, its
  inner modules compiled; some tables have the checkout, not compiled, too.
- **CPU** is user and system time of all processes of the server, by /proc, while messages are published. On loopback,
  delivering to the receiver's socket is part of the sender's time, so a bare loop of `send` (`benchmarks/sendloop.c`)
  stands in some tables: no server that sends each message by itself takes less.
- **Rounds** have every workload once, and in each the systems in turn. Tables have the median over the rounds, and
  where there are several the least and the most; `lost` is that of the worst round. **Raiden's to it** is Raiden's
  figure divided by that system's, taken within a round: of Raiden by the same door, else by WebSocket, and with its
  default history where the other keeps one. Below 1 is good for costs, above 1 for rates.
- Rows are ordered by the first figure. Latency is from when a message is handed to the kernel until the read that
  brought it; the load looks for deliveries every 0.2 ms at most. Where a system is saturated, it is the length of its
  queue.
"""

RERUN = """
## To repeat it

    make bench

installs what is missing (as root on Debian, its packages; from PyPI, npm and the Go module proxy into `build/`) and
measures all of it. A part:

    .venv/bin/python benchmarks/compare.py --only raiden,nchan --workload fan-out,idle --rounds 5
    .venv/bin/python benchmarks/report.py

Raiden by the protocols of other servers, all or some (`DIALECTS=cable,centrifuge,pusher`), as tables on the terminal:

    make bench-dialects

Results are added to `build/benchmarks.jsonl`, one line for each run; delete it to begin anew. How Raiden's own doors,
histories and clusters compare among themselves is in [zeromq.md](zeromq.md), [history.md](history.md) and
[cluster.md](cluster.md).
"""

# Under a table: what it does not say by itself.
REMARKS = {
    "fan-out": "A server below a bare `send` joins messages that wait for the same subscriber into one.",
    "publish": "Nchan without a buffer loses acknowledged messages once more come than it passes on.",
    "churn": "Raiden confirms a subscription when it is in force in the whole cluster, the others when they have noted "
    "it. Where there are two workers, each asks the backbone for that.",
    "slow": "Raiden cuts off a client for which more than `max_outbox` waits.",
    "dialects": "Action Cable runs in one process of Puma, soketi in one of Node; Centrifugo and sockudo take all "
    "cores. By the protocol of Action Cable a ping comes every 3 seconds.",
    "deflate": "Raiden compresses a message once for all its subscribers.",
}

# Under a curve that is neither flat nor straight: why.
REASONS = {
    "subscribers": "A publish costs the same for any number of subscribers; with few, few deliveries share the cost.",
    "channels": "With one channel, a commit changes one channel's row; with more, as many as it has messages, and that "
    "is all that grows, until a channel's data is in no cache of the processor any more.",
    "payload": "Up to some KiB a delivery costs as much as a `send`; above, as much as copying.",
    "nodes": "Each node takes a message from the backbone for itself; with more nodes, fewer subscribers share that "
    "cost.",
}


class Results(NamedTuple):
    """All that was measured: of each workload, system and door, the load generator's result in each round."""

    runs: Mapping[tuple[str, str, str], Mapping[str, Mapping[str, Any]]]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    missing: Mapping[str, str]
    failed: Sequence[str]
    when: str
    quick: bool

    def values(self, workload: str, system: str, door: str, figure: Figure) -> dict[str, float]:
        """By round; a result that does not have the figure is left out."""
        found = {}
        for round_, result in self.runs.get((workload, system, door), {}).items():
            try:
                value = figure.of(result)
            except KeyError:
                continue
            if math.isfinite(value):
                found[round_] = value
        return found


def read(file: Path) -> Results:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    heads = [line for line in lines if "machine" in line]
    results = [line for line in lines if "result" in line]
    quick = all(line["quick"] for line in results)
    runs: defaultdict[tuple[str, str, str], dict[str, Any]] = defaultdict(dict)
    for line in results:
        if line["quick"] == quick:
            runs[line["workload"], line["system"], line["door"]][line["round"]] = line["result"]
    versions = {name: version for head in heads for name, version in head["versions"].items()}
    missing = {label: why for head in heads for label, why in head["missing"].items()}
    failures = [line for line in lines if "failed" in line]
    failed = [f"{line['workload']}, {line['system']} {line['door']}: {line['failed']}" for line in failures]
    return Results(runs, heads[-1]["machine"], versions, missing, failed, heads[-1]["when"], quick)


# Tables.


class Row(NamedTuple):
    system: str
    door: str
    label: str


def label_of(system: System, door: str) -> str:
    return f"{system.label}, {DOORS[door]}" if DOORS[door] else system.label


def rows_of(results: Results, workload: Workload) -> list[Row]:
    """What was measured, the best first; where the workload has it so, the best of each door."""
    rows = [Row(system.name, door, label_of(system, door)) for system, door in workload.rows()]
    rows += [Row("sendloop", "", LIMIT)] if workload.limit else []
    first = FIGURES[workload.figures[0]]
    middle = {row: list(results.values(workload.name, row.system, row.door, first).values()) for row in rows}
    there = [row for row in rows if middle[row]]
    sign = 1 if first.less_is_better else -1
    return sorted(there, key=lambda row: (row.door if workload.by_door else "", sign * median(middle[row])))


def base_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """What of Raiden a system is compared with."""
    history = row.system in BY_NAME and BY_NAME[row.system].history
    of_raiden = {other.door: other for other in rows if other.system == ("raiden-history" if history else "raiden")}
    others = [other for other in rows if other.system.startswith("raiden") and not other.system.endswith("-source")]
    of_raiden = of_raiden or {other.door: other for other in others}
    base = of_raiden.get(row.door) or of_raiden.get("ws")
    return None if base == row else base


def table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---{'|--:' * (len(head) - 1)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def workload_table(results: Results, workload: Workload) -> Iterator[str]:
    rows = rows_of(results, workload)
    if not rows:
        return
    yield f"## {workload.title}"
    yield ""
    yield from paragraph(workload.about)
    figures = [FIGURES[name] for name in workload.figures]
    head = ["", figures[0].title, "Raiden's to it", *(figure.title for figure in figures[1:])]
    yield from table(head, (cells(results, workload, row, rows, figures) for row in rows))
    if remark := REMARKS.get(workload.name):
        yield from paragraph(remark)


def cells(
    results: Results, workload: Workload, row: Row, rows: Sequence[Row], figures: Sequence[Figure]
) -> Iterator[str]:
    def values(of: Row, figure: Figure) -> dict[str, float]:
        return results.values(workload.name, of.system, of.door, figure)

    first = values(row, figures[0])
    yield f"**{row.label}**" if row.system.startswith("raiden") else row.label
    yield cell(list(first.values()), figures[0].form)
    base = base_of(row, rows)
    of_base = values(base, figures[0]) if base else {}
    ratios = [of_base[round_] / value for round_, value in first.items() if round_ in of_base and value]
    yield f"{median(ratios):.2f}" if ratios else "-"
    for figure in figures[1:]:
        found = list(values(row, figure).values())
        yield figure.form.format(figure.of_rounds(found)) if found else "-"


def paragraph(text: str) -> Iterator[str]:
    yield from textwrap.wrap(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)
    yield ""


# Curves.

Line = dict[int, list[float]]  # for each x, a value of each round


def lines_of(results: Results, curve: Curve, figure: Figure) -> dict[str, Line]:
    """By what is told of it: all of Raiden's clusters are one line."""
    lines: dict[str, Line] = {}
    for point in curve.points:
        for system, door in point.rows():
            values = list(results.values(point.name, system.name, door, figure).values())
            label = re.sub(r", \d (nodes|workers)", "", label_of(system, door))
            if values:
                lines.setdefault(label, {})[point.x] = values
    return lines


def curve_section(results: Results, curve: Curve) -> Iterator[str]:
    figures = [FIGURES[name] for name in curve.figures]
    lines = {figure.title: lines_of(results, curve, figure) for figure in figures}
    if not any(lines.values()):
        return
    yield f"### {curve.title}"
    yield ""
    yield from paragraph(curve.about)
    if len(curve.points) > 2:
        yield f"![{curve.title}]({PLOTS.name}/{draw_curve(results, curve).name})"
        yield ""
    labels = list(lines[figures[0].title])
    columns = [(figure, label) for figure in figures for label in lines[figure.title]]
    if len(labels) > 1:  # the plot has the others
        columns = columns[: len(labels)]
        yield f"{figures[0].title}:"
        yield ""
    head = [curve.axis, *(label if len(labels) > 1 else figure.title for figure, label in columns)]
    rows = []
    for point in curve.points:
        row = [f"{point.x:,}"]
        for figure, label in columns:
            values = lines[figure.title][label].get(point.x)
            row.append(figure.form.format(figure.of_rounds(values)) if values else "-")
        rows.append(row)
    yield from table(head, rows)
    if reason := REASONS.get(curve.name):
        yield from paragraph(f"**Why:** {reason}")


# Plots.


def save(canvas: Canvas, name: str) -> Path:
    PLOTS.mkdir(parents=True, exist_ok=True)
    file = PLOTS / f"{name}.svg"
    canvas.savefig(file, metadata={"Date": None})
    plot.close(canvas)
    # matplotlib ends lines of paths with spaces.
    file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")
    return file


def logarithmic(panel: Axes, direction: Literal["x", "y"]) -> None:
    """With numbers as one writes them."""
    axis = panel.xaxis if direction == "x" else panel.yaxis
    (panel.set_xscale if direction == "x" else panel.set_yscale)("log")
    low, high = axis.get_data_interval()
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    axis.set_minor_locator(ticker.NullLocator())


def draw_curve(results: Results, curve: Curve) -> Path:
    canvas, panels = plot.subplots(1, len(curve.figures), figsize=(10, 4), layout="constrained", squeeze=False)
    growth = curve.points[-1].x / curve.points[0].x
    for panel, name in zip(panels[0], curve.figures, strict=True):
        for label, line in lines_of(results, curve, FIGURES[name]).items():
            middle = [median(values) for values in line.values()]
            own = label.startswith("Raiden")
            panel.plot(
                list(line), middle, label=label, marker="o", markersize=4,
                color=OWN if own else None, linewidth=2.5 if own else 1.2, zorder=3 if own else 2,
                linestyle="--" if "SQLite" in label else "-",
            )  # fmt: skip
        panel.set_xlabel(curve.axis)
        panel.set_title(FIGURES[name].title)
        if growth > 10:
            logarithmic(panel, "x")
            logarithmic(panel, "y")
        else:
            panel.set_ylim(bottom=0)
            panel.set_xticks([point.x for point in curve.points])
        panel.grid(True, alpha=0.25)
    panels[0][0].legend(frameon=False)
    return save(canvas, curve.name)


def draw_systems(results: Results) -> Path:
    """The CPU of a delivery by system, each by its best door."""
    workloads = [workload for workload in WORKLOADS if workload.name in SHOWN]
    canvas, panels = plot.subplots(2, 2, figsize=(11, 9), layout="constrained")
    for panel, workload in zip(panels.flat, workloads, strict=True):
        draw_workload(panel, results, workload)
    return save(canvas, "cpu")


def draw_workload(panel: Axes, results: Results, workload: Workload) -> None:
    best: dict[str, tuple[str, list[float]]] = {}
    for row in rows_of(results, workload):
        values = list(results.values(workload.name, row.system, row.door, FIGURES["cpu"]).values())
        label = BY_NAME[row.system].label if row.system in BY_NAME else LIMIT
        best.setdefault(row.system, (label.strip("*").replace("`", ""), values))
    for at, (system, (_, values)) in enumerate(reversed(best.items())):
        color = OWN if system.startswith("raiden") else THEIRS if system in BY_NAME else BARE
        panel.plot([min(values), max(values)], [at, at], color=color, linewidth=2, alpha=0.5)
        panel.plot([median(values)], [at], "o", color=color)
        panel.annotate(f"{median(values):.1f}", (max(values), at), (6, -3), textcoords="offset points", fontsize=8)
    panel.set_yticks(range(len(best)), [label for label, _ in reversed(best.values())])
    logarithmic(panel, "x")
    panel.margins(x=0.15)
    panel.grid(True, axis="x", alpha=0.25)
    panel.set_title(workload.title, fontsize=10)
    panel.set_xlabel(FIGURES["cpu"].title)


# The document.


def about_machine(results: Results) -> Iterator[str]:
    machine = results.machine
    yield "## The machine"
    yield ""
    rounds = max(len(rounds) for rounds in results.runs.values())
    length = (
        f"**A quick pass**, rounds: {rounds}, runs of a second: it shows that all of it works, not small differences."
        if results.quick
        else f"Rounds: {rounds}, runs of {SECONDS:g} seconds; of the growth curves, one round."
    )
    yield from paragraph(
        f"{machine['cpus']} cores ({machine['processor']}), {machine['memory_gb']} GB, {machine['kernel']}, "
        f"Python {machine['python']}; {results.when}. {length}"
    )
    of_systems = {BY_NAME[name].label: version for name, version in results.versions.items() if version}
    plain = {label: version for label, version in of_systems.items() if "," not in label}
    yield from paragraph("Versions: " + ", ".join(f"{label} {version}" for label, version in plain.items()) + ".")
    for label, why in results.missing.items():
        yield from paragraph(f"{label} was not measured: {why}.")
    if results.failed:
        yield "Runs that failed:"
        yield ""
        for failed in results.failed:
            yield f"- {failed.splitlines()[0]}"
        yield ""


def document(results: Results) -> Iterator[str]:
    yield from HEAD.strip().splitlines()
    yield ""
    if all((workload, "raiden", "ws") in results.runs for workload in SHOWN):
        yield f"![CPU of a delivery, by system]({PLOTS.name}/{draw_systems(results).name})"
        yield ""
        yield from paragraph("The dots are medians, each system's by its best door; the lines reach over all rounds.")
    yield from about_machine(results)
    yield from HOW.strip().splitlines()
    yield ""
    for workload in WORKLOADS:
        yield from workload_table(results, workload)
    yield "## Growth"
    yield ""
    for curve in CURVES:
        yield from curve_section(results, curve)
    yield from RERUN.strip().splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description="Make docs/benchmarks.md of what was measured.")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--tables", action="store_true", help="print the tables, and leave the document as it is")
    arguments = parser.parse_args()
    results = read(arguments.results)
    if arguments.tables:
        print("\n".join(line for workload in WORKLOADS for line in workload_table(results, workload)))
        return 0
    # Text stays text, and the same results make the same files.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "raiden", "font.family": "sans-serif"})
    DOCUMENT.write_text("\n".join(document(results)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
