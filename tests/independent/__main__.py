"""Trials with one seed after another until the time is over, or of a store that goes back so many times; a table of
what they saw; 1 if a promise was broken."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.network import missing
from tests.independent.events import Event, Violation
from tests.independent.trial import Outcome, trial
from tests.independent.trial_of_returns import KINDS
from tests.independent.trial_of_returns import trial as trial_of_returns

TRIAL = 150.0  # seconds of faults in a trial; its beginning and its end come on top
AROUND = 3.0  # seconds


def show(seed: int, violation: Violation) -> None:
    print(f"\nseed {seed}: {violation.guarantee}, {violation.channel} at {violation.at:.3f}: {violation.text}")


def context(events: Sequence[Event], violation: Violation) -> None:
    """The events of the channel around it."""
    for event in events:
        concerned = violation.channel == "" or getattr(event, "channel", "") in (violation.channel, "")
        if concerned and abs(event.at - violation.at) < AROUND:
            print("   ", event)


def table(outcomes: list[Outcome], minutes: float) -> None:
    counts = sum((outcome.counts for outcome in outcomes), Counter[str]())
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    print(f"\n{len(outcomes)} trials, {minutes:.0f} minutes, seeds {[outcome.seed for outcome in outcomes]}")
    for name, number in sorted(counts.items()):
        print(f"  {name:24} {number:9,}")
    print("\n  fault                    times   longest time without a success of a publisher, s")
    for name, number in sorted(faults.items()):
        print(f"  {name:24} {number:5}   {max(outcome.outages.get(name, 0) for outcome in outcomes):8.1f}")
    print(f"\n{sum(len(outcome.violations) for outcome in outcomes)} violations")


def going_back(kinds: Sequence[str], times: int, seed: int, folder: Path) -> bool:
    """The store of one trial of each kind goes back so many times; whether all promises were kept."""
    kept = True
    for kind in kinds:
        begun = time.monotonic()
        outcome = trial_of_returns(kind, times, seed, folder / kind)
        for violation in outcome.violations[:20]:
            show(seed, violation)
        for violation in outcome.violations[:3]:
            context(outcome.events, violation)
        print(f"\n{kind}, {times} times, seed {seed}, {time.monotonic() - begun:.0f} s")
        for name, number in sorted(outcome.counts.items()):
            print(f"  {name:40} {number:9,}")
        print(f"{len(outcome.violations)} violations", flush=True)
        if outcome.violations:
            kept = False
            (folder / kind / "events").write_text("\n".join(map(repr, outcome.events)))
            (folder / kind / "logs").write_text(outcome.logs)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--kind", choices=[*KINDS, "all"], help="how the store goes back; without it no store does")
    parser.add_argument("--times", type=int, default=50)
    arguments = parser.parse_args()
    if (why := missing()) or (why := None if shutil.which("redis-server") else "there is no redis-server"):
        print(why)
        return 2
    begun, outcomes = time.monotonic(), list[Outcome]()
    folder = Path(tempfile.mkdtemp(prefix="raiden-verify-"))
    if arguments.kind:
        kinds = KINDS if arguments.kind == "all" else [arguments.kind]
        return ended(folder, going_back(kinds, arguments.times, arguments.seed, folder))
    while (left := arguments.seconds - (time.monotonic() - begun)) > 0:
        seed = arguments.seed + len(outcomes)
        outcome = trial(min(TRIAL, left), seed, folder / str(seed))
        outcomes.append(outcome)
        for violation in outcome.violations[:20]:
            show(seed, violation)
        for violation in outcome.violations[:3]:
            context(outcome.events, violation)
        print(
            f"seed {seed}: {len(outcome.violations)} violations, {outcome.counts['deliveries']:,} deliveries",
            flush=True,
        )
        if outcome.violations:
            (folder / str(seed) / "events").write_text("\n".join(map(repr, outcome.events)))
        else:
            outcomes[-1] = outcome._replace(events=[], logs="")
            shutil.rmtree(folder / str(seed))
    table(outcomes, (time.monotonic() - begun) / 60)
    return ended(folder, not any(outcome.violations for outcome in outcomes))


def ended(folder: Path, kept: bool) -> int:
    """The program's exit code."""
    if not kept:
        print(f"what they logged is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
