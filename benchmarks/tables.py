"""Tables in Markdown: medians over a benchmark's rounds, with their spread."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

Samples = defaultdict[str, list[float]]  # of each figure, by its name: one in each round


def cell(values: Sequence[float], form: str) -> str:
    """The median, and with more than one value the spread."""
    text = form.format(statistics.median(values))
    least, most = form.format(min(values)), form.format(max(values))
    return text if len(values) == 1 else f"{text} ({least} .. {most})"


def ratios(samples: Samples, above: str, below: str) -> list[float]:
    return [a / b for a, b in zip(samples[above], samples[below], strict=True)]


def print_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(head)} |\n|---{'|--:' * (len(head) - 1)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
