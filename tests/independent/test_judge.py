"""The judge can fail: logs by hand, in each of which one promise is broken, beside one in which none is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.independent.events import (
    Bad,
    Began,
    Done,
    Ended,
    Event,
    Fault,
    Got,
    Handed,
    Kept,
    Missed,
    Moved,
    Page,
    Published,
    Resumed,
)
from tests.independent.judge import judge

CHANNELS = {
    "a": Kept(100_000, 3600),
    "b": Kept(100_000, 3600),
    "few": Kept(2, 3600),
    "ttl": Kept(9, 2),
    "p": Kept(0, 0),
}
Log = list[Event]


def stored(channel: str, first: int, last: int, start: float = 0.0) -> Log:
    """Messages x.1, x.2, ... at their offsets, one a tenth of a second."""
    times = [(n, start + n / 10) for n in range(first, last + 1)]
    return [Published(t, t + 0.05, channel, (f"x.{n}",), "stored", (f"e:{n}:proof",), 1) for n, t in times]


def begun(channel: str = "a", asked: str | None = "e:0", cursor: str = "e:0", at: float = 0.0, **more: object) -> Began:
    recovered = None if asked is None else True
    return Began(at, at, "s", channel, 1, asked, cursor, recovered)._replace(**more)  # type: ignore[arg-type]


def got(*offsets: int, channel: str = "a", at: float = 2.0) -> Log:
    return [Got(at, "s", channel, f"e:{n}:proof", f"x.{n}") for n in offsets]


def gap(first: int, last: int, channel: str = "a", at: float = 2.0) -> Missed:
    return Missed(at, "s", channel, {"epoch": "e", "first": first, "last": last})


def taken(first: int, last: int, at: float = 1.0) -> Log:
    return [Published(at + n / 10, at + n / 10, "p", (f"x.{n}",), "taken", (), 1) for n in range(first, last + 1)]


def heard(*numbers: int) -> Log:
    return [Got(3, "s", "p", None, f"x.{n}") for n in numbers]


TRIMMED = begun("few", recovered=False, at=1.0)
REPEATED = begun(asked="e:3", cursor="e:1", repeats=True)
HANDED = Handed(1, "c", "a", "e:1", "x.1", 1)
PLAIN = begun("p", None, recovered=None, node=2)
FILTERED = begun(filtered=True)
PATTERN = Began(0.35, 0.36, "s", "a*", 1, pattern=True)
OTHER = Began(0.15, 0.16, "other", "a*", 1, pattern=True)
IN_F = Published(0.2, 0.25, "a", ("x.2",), "stored", ("f:2",), 1)
TOLD = [gap(1, 2, "few"), *got(3, 4, channel="few")]
CUT = Fault(0.5, 1.5, "cut node", frozenset({1}))
AWAY = Fault(0.5, 30, "stop Redis", frozenset(), 20)
LATE = Page(9, 9, "a", None, (("e:1", "x.1"), ("e:2", "x.2"), ("e:3", "x.3")), last=True)

GOOD: dict[str, Log] = {
    "all in order": [*stored("a", 1, 4), begun(), *got(1, 2, 3, 4)],
    "resumed": [*stored("a", 1, 4), begun(), *got(1, 2), Ended(2, "s"), begun(asked="e:2", cursor="e:2"), *got(3, 4)],
    "trimmed and told": [*stored("few", 1, 4), TRIMMED, gap(1, 2, "few"), *got(3, 4, channel="few")],
    "expired and told": [*stored("ttl", 1, 4), begun("ttl", recovered=False, at=5.0), gap(1, 4, "ttl", at=5.0)],
    "filters hide": [*stored("a", 1, 4), FILTERED, *got(1, 3), Moved(2, "s", "a", "e:4")],
    "a pattern begins": [*stored("a", 1, 6), PATTERN, *got(4, 5, 6)],
    "a pattern of others": [*stored("a", 1, 6), OTHER, PATTERN, *got(2, 3, 4, 5, 6)],
    "a pattern where others follow": [
        *[*stored("a", 1, 6), begun(asked=None, who="other", recovered=None), PATTERN],
        *got(2, 3, 4, 5, 6),
        *[event._replace(who="other") for event in got(1, 2, 3, 4, 5, 6) if isinstance(event, Got)],
    ],
    "a pattern where others followed": [
        *stored("a", 1, 6),
        begun(asked=None, who="other", recovered=None),
        Ended(0.3, "other"),
        PATTERN,
        *got(2, 3, 4, 5, 6),
        begun(who="other", node=2, at=1.0),
        *[event._replace(who="other") for event in got(1, 2, 3, 4, 5, 6) if isinstance(event, Got)],
    ],
    "what nobody saw": [
        *[*stored("ttl", 1, 1), *stored("ttl", 3, 3), begun("ttl", asked="e:1", recovered=False, at=0.25)],
        *[gap(2, 2, "ttl"), *got(3, channel="ttl")],
    ],
    "a new life of the store": [*stored("a", 1, 1), IN_F, begun(), *got(1), Got(2, "s", "a", "f:2", "x.2")],
    "cut off, and told later": [*stored("few", 1, 4), CUT, begun("few", at=1.0), *TOLD],
    "recovered while the store is just away": [*stored("a", 1, 2), AWAY, begun(asked="e:2", cursor="e:2", at=5.0)],
    "recovered when it is back": [*stored("a", 1, 2), AWAY, begun(asked="e:2", cursor="e:2", at=20.5)],
    "a session repeats": [*stored("a", 1, 4), begun(), *got(1, 2, 3), REPEATED, *got(2, 3, 4)],
    "handed out again": [
        *stored("a", 1, 1),
        Handed(1, "c", "a", "e:1", "x.1", 1),
        Handed(2, "d", "a", "e:1", "x.1", 2),
    ],
    "plain": [PLAIN, *taken(1, 3), *heard(1, 2, 3), Ended(30, "s")],
    "plain, lost by a fault": [PLAIN, Fault(0.5, 2, "cut", frozenset({2})), *taken(1, 3), *heard(3), Ended(30, "s")],
    "a page": [*stored("a", 1, 3), LATE],
}

BROKEN: dict[str, tuple[str, Log]] = {
    "dropped": ("sequence", [*stored("a", 1, 4), begun(), *got(1, 2, 4)]),
    "doubled": ("sequence", [*stored("a", 1, 4), begun(), *got(1, 2, 2, 3, 4)]),
    "reordered": ("sequence", [*stored("a", 1, 4), begun(), *got(1, 3, 2, 4)]),
    "the last dropped": ("end", [*stored("a", 1, 4), begun(), *got(1, 2, 3)]),
    "a gap not told": ("sequence", [*stored("few", 1, 4), begun("few", at=1.0), *got(3, 4, channel="few")]),
    "a gap of what is there": ("gap", [*stored("a", 1, 4), begun(recovered=False), gap(1, 2), *got(3, 4)]),
    "a gap that is too long": (
        "gap",
        [*stored("few", 1, 4), begun("few", recovered=False, at=1.0), gap(1, 3, "few"), *got(4, channel="few")],
    ),
    "a gap that is too short": (
        "sequence",
        [*stored("few", 1, 4), TRIMMED, gap(1, 1, "few"), *got(3, 4, channel="few")],
    ),
    "a gap without numbers": ("gap", [*stored("a", 1, 1), begun(), Missed(1, "s", "a", None), *got(1)]),
    "not recovered, and all is there": ("recovered", [*stored("a", 1, 2), begun(recovered=False, at=1.0), *got(1, 2)]),
    "recovered, and something is gone": (
        "recovered",
        [*stored("few", 1, 4), begun("few", at=1.0), gap(1, 2, "few"), *got(3, 4, channel="few")],
    ),
    "recovered without a store": ("recovered", [*stored("a", 1, 2), AWAY, begun(asked="e:2", cursor="e:2", at=6.0)]),
    "two at one place": ("order", [*stored("a", 1, 2), begun(), *got(1), Got(2, "s", "a", "e:2", "x.1")]),
    "one at two places": ("once", [*stored("a", 1, 2), Published(0, 1, "a", ("x.1",), "stored", ("e:3",), 1)]),
    "two epochs at one place": ("order", [*stored("a", 1, 2), begun(), *got(1), Got(3, "s", "a", "f:2", "x.2")]),
    "an epoch comes again": ("order", [*stored("a", 1, 1), IN_F, *stored("a", 3, 3), begun(), *got(1, 3)]),
    "acknowledged and gone": ("kept", [*stored("a", 1, 4), LATE]),
    "a page with a gap of what is there": (
        "gap",
        [*stored("a", 1, 3), Page(1, 1, "a", "e:0", (("e:3", "x.3"),), {"epoch": "e", "first": 1, "last": 2})],
    ),
    "a page with a hole": (
        "order",
        [*stored("a", 1, 3), Page(1, 1, "a", "e:0", (("e:1", "x.1"), ("e:3", "x.3")))],
    ),
    "half a batch": ("whole", [*stored("a", 1, 1), Published(0, 1, "a", ("x.1", "y.1"), "unknown")]),
    "in one of two channels": (
        "whole",
        [*stored("a", 1, 1), *[Published(0, 1, name, ("x.1",), "unknown") for name in "ab"]],
    ),
    "refused and there": (
        "refused",
        [Published(0, 1, "a", ("x.1",), "refused"), begun(), *got(1)],
    ),
    "begins in the past": ("begin", [*stored("a", 1, 4), begun(asked=None, cursor="e:2", at=25.0), *got(3, 4, at=26)]),
    "begins too late": ("begin", [*stored("a", 1, 4), begun(asked=None, cursor="e:2"), *got(3, 4)]),
    "what a filter hides": ("sequence", [*stored("a", 1, 3), FILTERED, *got(1, 2, 3)]),
    "a filter hides too much": ("sequence", [*stored("a", 1, 4), FILTERED, *got(1), Moved(2, "s", "a", "e:4")]),
    "a position ahead": ("sequence", [*stored("a", 1, 2), begun(), Moved(1, "s", "a", "e:1"), *got(2)]),
    "a position back": ("position", [*stored("a", 1, 2), begun(), *got(1, 2), Moved(2, "s", "a", "e:1")]),
    "a pattern in the past": ("pattern", [*stored("a", 1, 6), PATTERN, *got(2, 3, 4, 5, 6)]),
    "a pattern too late": ("pattern", [*stored("a", 1, 6), PATTERN, *got(5, 6)]),
    "a pattern with a hole": ("sequence", [*stored("a", 1, 6), PATTERN, *got(4, 6)]),
    "a session forgot": ("session", [Resumed(1, 2, "s", frozenset("ab"), frozenset("a"))]),
    "a session lost": ("session", [Resumed(1, 2, "s", frozenset("ab"), None)]),
    "never handed out": ("durable", [*stored("a", 1, 2), Handed(1, "c", "a", "e:1", "x.1", 1)]),
    "done and handed out": (
        "durable",
        [*stored("a", 1, 1), HANDED, Done(2, "a", "e:1", 1), HANDED._replace(at=3, attempt=2)],
    ),
    "plain, doubled": ("plain", [PLAIN, *taken(1, 3), *heard(1, 2, 2, 3), Ended(30, "s")]),
    "plain, reordered": ("plain", [PLAIN, *taken(1, 3), *heard(1, 3, 2), Ended(30, "s")]),
    "plain, lost": ("plain", [PLAIN, *taken(1, 3), *heard(1, 3), Ended(30, "s")]),
    "plain, lost beside a fault elsewhere": (
        "plain",
        [PLAIN, Fault(0.5, 2, "cut", frozenset({3})), *taken(1, 3), *heard(1, 3), Ended(30, "s")],
    ),
    "400": ("answer", [Bad(1, "s", "a", "400")]),
}  # fmt: skip


@pytest.mark.parametrize("log", GOOD.values(), ids=list(GOOD))
def test_what_is_promised_passes(log: Log) -> None:
    assert judge(CHANNELS, log) == []


@pytest.mark.parametrize(("guarantee", "log"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_found(guarantee: str, log: Log) -> None:
    assert guarantee in {violation.guarantee for violation in judge(CHANNELS, log)}


@pytest.mark.parametrize("mutate", [lambda log, n: log[:n] + log[n + 1 :], lambda log, n: log[: n + 1] + log[n:]])
def test_any_delivery_that_is_dropped_or_doubled_is_found(mutate: Callable[[Log, int], Log]) -> None:
    log = [*stored("a", 1, 20), begun(), *got(*range(1, 21))]
    for n in range(21, len(log)):
        assert judge(CHANNELS, mutate(log, n))


def test_a_client_that_comes_back_with_more_than_it_was_told_is_an_error() -> None:
    log = [*stored("a", 1, 4), begun(), *got(1), begun(asked="e:3", cursor="e:3"), *got(4)]
    with pytest.raises(ValueError, match="more than it was told"):
        judge(CHANNELS, log)
