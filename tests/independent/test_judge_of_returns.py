"""The judge of returns can fail: logs by hand, in each of which one promise is broken, beside one in which none is.

In most of them life 0 has stored a.1 to a.4 as e:1 to e:4. Its data were copied when a.1 and a.2 were there; it fell at
10, and since 11 life 1 goes on with the copy: a.5 and a.6 are f:3 and f:4.
"""

from __future__ import annotations

import pytest

from tests.independent.events import (
    Bad,
    Began,
    Done,
    Ended,
    Event,
    Got,
    Handed,
    Missed,
    Moved,
    Page,
    Published,
    WentBack,
)
from tests.independent.judge_of_returns import judge

CHECK = 2.0  # seconds of position_check
Log = list[Event]


def stored(at: float, number: int, cursor: str, begun: float | None = None) -> Published:
    return Published(at if begun is None else begun, at, "a", (f"a.{number}",), "stored", (cursor,), 1)


def page(at: float, *messages: str) -> Page:
    """All there is: "e:1 1" is a.1 at e:1."""
    pairs = [tuple(each.split()) for each in messages]
    return Page(at, at, "a", None, tuple((cursor, f"a.{number}") for cursor, number in pairs), last=True)


def begun(
    at: float, asked: str | None, cursor: str | None = None, recovered: bool | None = True, **more: object
) -> Began:
    return Began(at, at, "s", "a", 1, asked, cursor or asked, recovered)._replace(**more)  # type: ignore[arg-type]


def got(at: float, *messages: str, who: str = "s") -> Log:
    pairs = [each.split() for each in messages]
    return [Got(at, who, "a", cursor, f"a.{number}") for cursor, number in pairs]


OLD = ("e:1:p1 1", "e:2:p2 2", "e:3:p3 3", "e:4:p4 4")
NEW = ("e:1:p1 1", "e:2:p2 2", "f:3:q3 5", "f:4:q4 6")
HEAD: Log = [stored(1, 1, "e:1:p1"), stored(2, 2, "e:2:p2"), stored(4, 3, "e:3:p3"), stored(5, 4, "e:4:p4")]
FELL: Log = [page(9, *OLD), WentBack(10, 11, "snapshot", 3.0), page(11.5, "e:1:p1 1", "e:2:p2 2")]
TAIL: Log = [stored(12, 5, "f:3:q3"), stored(13, 6, "f:4:q4")]
END: Log = [page(90, *NEW)]
GAP, CUT = Missed(14, "s", "a", None), WentBack(10, 11, "wal-cut", None)


def story(*events: Event | Log, fell: Log = FELL, tail: Log = TAIL, end: Log = END) -> Log:
    """With these after all was published."""
    return [
        *HEAD,
        *fell,
        *tail,
        *[each for some in events for each in (some if isinstance(some, list) else [some])],
        *end,
    ]


FOUND, FOLLOWS, LATER = got(6, *OLD), got(14, *NEW[2:]), got(21, *NEW[2:])
# The copy of life 0 is put back again in life 2, which lost f:3; life 3 lost nothing.
AGAIN = WentBack(18, 19, "old-copy", 17.5)
TWICE: Log = [
    *HEAD,
    *FELL,
    stored(12, 5, "f:3:q3"),
    stored(12.5, 7, "f:4:q7"),
    stored(12.7, 8, "f:5:q8"),
    page(13, "e:1:p1 1", "e:2:p2 2", "f:3:q3 5", "f:4:q7 7", "f:5:q8 8"),
    WentBack(14, 15, "old-copy", 3.0),
    stored(16, 6, "g:3:r3"),
    page(17, "e:1:p1 1", "e:2:p2 2", "g:3:r3 6"),
    AGAIN,
    stored(20, 9, "h:4:s4"),
    stored(20, 10, "h:5:s5"),
]
LAST = page(90, "e:1:p1 1", "e:2:p2 2", "g:3:r3 6", "h:4:s4 9", "h:5:s5 10")
# The same, and f was followed by i, which is lost as well.
THRICE: Log = [
    *HEAD,
    *FELL,
    stored(12, 5, "f:3:q3"),
    page(12.4, *OLD[:2], "f:3:q3 5"),
    WentBack(12.5, 12.6, "wal-cut", None),
    stored(12.7, 7, "i:4:q7"),
    stored(12.7, 8, "i:5:q8"),
    page(13, *OLD[:2], "f:3:q3 5", "i:4:q7 7", "i:5:q8 8"),
    *TWICE[TWICE.index(WentBack(14, 15, "old-copy", 3.0)) :],
]
LATE = Missed(21, "s", "a", None)
KNOWS = stored(12, 9, "f:5:q5")
NUMBERED = {"epoch": "f", "first": 3, "last": 3}
BEHIND = Moved(22, "s", "a", "f:3")
HANDED = Handed(6, "c", "a", "e:1", "a.1", 1)
ALL_HANDED: Log = [Handed(20, "c", "a", each.split()[0], f"a.{each.split()[1]}", 1) for each in NEW]

GOOD: dict[str, Log] = {
    "nobody": story(),
    "connected, and told": story(begun(0.5, None, "0:0", None), FOUND, GAP, FOLLOWS),
    "connected at what is there": story(begun(0.5, None, "0:0", None), got(3, *OLD[:2]), FOLLOWS),
    "back with what is lost": story(begun(14, "e:4:p4", "f:2", False), Moved(14, "s", "a", "f:2"), GAP, FOLLOWS),
    "back with what is there": story(begun(14, "e:2:p2"), FOLLOWS),
    "back before anything was published": story(begun(14, "e:4:p4", "e:2:p2", False), GAP, Ended(15, "s")),
    "true of a node that does not know yet": story(begun(12, "e:4:p4"), GAP, FOLLOWS),
    "true, and what was known then comes yet": story(begun(12, "e:3:p3"), got(12, OLD[3]), GAP, FOLLOWS),
    "true before it fell": story(begun(9.9, "e:4:p4"), GAP, FOLLOWS),
    "a client that asks itself": story(begun(20, "e:4", "e:4", None), LATE, LATER),
    "gone before the last one comes": story(begun(0.5, None, "0:0", None), FOUND, GAP, got(14, NEW[2]), Ended(16, "s")),
    "gone before it is told": story(begun(0.5, None, "0:0", None), FOUND, Ended(14, "s")),
    "a lost message arrives late": story(begun(0.5, None, "0:0", None), got(12, *OLD), GAP, FOLLOWS),
    "filtered": story(begun(0.5, None, "0:0", None, filtered=True), got(6, OLD[0], OLD[2]), GAP, got(14, NEW[2]),
                      Moved(15, "s", "a", "f:4:q4")),
    "a session repeats": story(begun(14, "e:4:p4", "e:1", True, repeats=True), got(14, *NEW[1:])),
    "published again under a key": story(stored(13.5, 4, "f:5:q5"), end=[page(90, *NEW, "f:5:q5 4")]),
    "a store that is new": [*HEAD, page(9, *OLD), CUT, page(11.5), stored(12, 5, "x:1:y"),
                            begun(14, "e:4:p4", "x:0", False), GAP, *got(14, "x:1:y 5"), page(90, "x:1:y 5")],
    "nothing is lost": [*HEAD, page(9, *OLD), CUT, page(11.5, *OLD), stored(12, 5, "f:5:q"),
                        begun(9, "e:4:p4"), *got(14, "f:5:q 5"), page(90, *OLD, "f:5:q 5")],
    "an epoch that no page has": [*HEAD[:2], page(3, *OLD[:2]), WentBack(4, 5, "wal-cut", None), page(5.5, *OLD[:2]),
                                  stored(6, 5, "f:3:q3"), begun(5, "e:2:p2"), *got(6, "f:3:q3 5"),
                                  WentBack(7, 8, "wal-cut", None), Missed(8, "s", "a", None), page(90, *OLD[:2])],
    "twice back, and all that follows": [*TWICE, begun(21, "f:5:q8", "g:2", False), LATE,
                                         *got(21, "g:3:r3 6", "h:4:s4 9", "h:5:s5 10"), LAST],
    "two epochs lost, and a later one is taken": [*THRICE, begun(21, "i:5:q8", "h:3", False), LATE,
                                                  *got(21, "h:4:s4 9", "h:5:s5 10"), LAST],
    "two epochs lost, and one that begins yet is taken": [
        *THRICE[: THRICE.index(AGAIN) + 1], begun(20, "i:5:q8", "g:3:r3", False),
        Moved(20, "s", "a", "g:3:r3"), Missed(20, "s", "a", None), page(90, "e:1:p1 1", "e:2:p2 2", "g:3:r3 6"),
    ],
    "a later life than the one that lost it": [*TWICE, begun(0.5, None, "0:0", None), *FOUND, GAP._replace(at=11.5),
                                               *got(17, "g:3:r3 6"), Ended(22, "s"), LAST],
    "handed out": story(HANDED, Done(7, "a", "e:1", 1, 6.5), ALL_HANDED),
    "an acknowledgement that was lost": story(HANDED, Done(7, "a", "e:1", 1, 6.5), HANDED._replace(at=13.0),
                                              ALL_HANDED),
}  # fmt: skip

BROKEN: dict[str, tuple[str, Log]] = {
    "told that it is recovered": ("recovered", story(begun(20, "e:4:p4"), GAP._replace(at=20.1), LATER)),
    "told that it is recovered, soon": ("recovered", story(begun(14.5, "e:4:p4"), GAP._replace(at=14.6), LATER)),
    "told that it is recovered by a node that knows": ("recovered", story(
        KNOWS, begun(13.6, "e:4:p4"), GAP, LATER, end=[page(90, *NEW, "f:5:q5 9")])),
    "told false, and nothing is lost": ("recovered", story(begun(20, "e:2:p2", "e:2", False), GAP, LATER)),
    "connected, and untold": ("sequence", story(begun(0.5, None, "0:0", None), FOUND, FOLLOWS)),
    "connected, untold, and beyond": ("sequence", story(begun(0.5, None, "0:0", None), FOUND, got(14, "f:5:q5 9"),
                                                        tail=[*TAIL, stored(13.5, 9, "f:5:q5")],
                                                        end=[page(90, *NEW, "f:5:q5 9")])),
    "connected, untold, and nothing comes": ("told", story(begun(0.5, None, "0:0", None), FOUND, Ended(30, "s"))),
    "told, and nothing comes": ("reached", story(begun(0.5, None, "0:0", None), FOUND, GAP, Ended(30, "s"))),
    "the last one does not come": ("reached", story(begun(14, "e:2:p2"), got(14, NEW[2]), Ended(30, "s"))),
    "back, untold, and nothing comes": ("recovered", story(begun(30, "e:4:p4"))),
    "told, and not all follows": ("sequence", story(begun(20, "e:4:p4", "f:3", False), GAP, got(21, NEW[3]))),
    "told, and a position that skips": ("sequence", story(begun(20, "e:4:p4", "f:3", False), BEHIND)),
    "told, and a later life follows": ("sequence", [*TWICE, begun(21, "f:5:q8", "h:3", False), LATE,
                                                    *got(21, "h:4:s4 9", "h:5:s5 10"), LAST]),
    "told, two epochs lost, and not all of one follows": ("sequence", [*THRICE, begun(21, "i:5:q8", "h:4", False), LATE,
                                                                       *got(21, "h:5:s5 10"), LAST]),
    "told, and what it had comes again": ("sequence", story(begun(20, "e:4:p4", "e:1", False), GAP, got(21, *NEW[1:]))),
    "not told, and what it had comes again": ("sequence", story(begun(20, "e:2:p2"), got(21, *NEW[1:]))),
    "twice": ("sequence", story(begun(20, "e:2:p2"), got(21, NEW[2], NEW[2], NEW[3]))),
    "a message is left out": ("sequence", story(begun(20, "e:1:p1"), LATER)),
    "what is lost comes later": ("sequence", story(begun(20, "e:2:p2"), got(21, NEW[2], "e:4:p4 4"))),
    "a filter hides what it must not": ("sequence", story(begun(20, "e:2:p2", filtered=True), BEHIND)),
    "a filter lets pass what it must not": ("sequence", story(begun(20, "e:2:p2", filtered=True), LATER)),
    "a position that goes back": ("sequence", story(begun(20, "e:2:p2"), LATER, BEHIND)),
    "a gap of nothing": ("gap", story(begun(20, "e:2:p2"), GAP._replace(at=21.0), LATER)),
    "a gap of nothing, to a client that asks itself": ("gap", story(begun(20, "e:2", "e:2", None), LATE, LATER)),
    "a gap twice, to a client that asks itself": ("gap", story(begun(20, "e:4", "e:4", None), LATE, LATE, LATER)),
    "a gap twice": ("gap", story(begun(0.5, None, "0:0", None), FOUND, GAP, got(14, NEW[2]), GAP._replace(at=15.0),
                                 got(15, NEW[3]))),
    "a gap with numbers": ("gap", story(begun(20, "e:2:p2"), GAP._replace(missing=NUMBERED), got(21, NEW[3]))),
    "a cursor of two": ("order", story(tail=[stored(12, 5, "e:3:q3"), stored(13, 6, "e:4:q4")],
                                       end=[page(90, *OLD[:2], "e:3:q3 5", "e:4:q4 6")])),
    "a proof of two": ("order", story(got(14, "f:3:other 5"))),
    "a life that goes on in an epoch that ended": (
        "order",
        [*HEAD, page(9, *OLD), WentBack(10, 11, "snapshot", 3.0), page(11.5, *OLD[:2]), stored(12, 5, "f:3:q3"),
         page(13, *OLD[:2], "f:3:q3 5"), WentBack(14, 15, "snapshot", 3.0), stored(20, 6, "f:4:q4"),
         page(90, *OLD[:2], "f:3:q3 5", "f:4:q4 6")],
    ),
    "a hole": ("order", story(end=[page(90, NEW[0], NEW[1], NEW[3])])),
    "an epoch that begins anew": ("order", story(page(15, *NEW), end=[page(90, *OLD[:3], NEW[3])])),
    "stored twice": ("once", story(end=[page(90, *NEW, "f:5:q5 6")])),
    "stored twice in one history": ("once", story(stored(14, 6, "f:5:q5"), end=[page(90, *NEW, "f:5:q5 6")])),
    "acknowledged and gone": ("kept", story(end=[page(90, *NEW[:3])])),
    "in the data and gone": ("kept", story(tail=[], end=[page(90, NEW[0])])),
    "more than the data had": (
        "prefix",
        [*TWICE, page(21, "e:1:p1 1", "e:2:p2 2", "f:3:q3 5"), page(90, "e:1:p1 1", "e:2:p2 2", "f:3:q3 5")],
    ),
    "half a batch": ("whole", story(Published(12, 13, "a", ("a.5", "a.7"), "unknown"))),
    "refused and there": ("refused", story(Published(12, 13, "a", ("a.6",), "refused"))),
    "never published": ("sequence", story(got(14, "f:4:q4 77"))),
    "what is lost is acknowledged": ("durable", story(HANDED, Done(21, "a", "e:4", 1, 20.0), ALL_HANDED)),
    "what is lost is handed out": ("durable", story(Handed(21, "c", "a", "e:4", "a.4", 1), ALL_HANDED)),
    "done and handed out again": ("durable", story(ALL_HANDED, Done(21, "a", "f:3", 1, 20.5),
                                                   Handed(22, "c", "a", "f:3", "a.5", 2))),
    "never handed out": ("durable", story(ALL_HANDED[:3])),
    "400": ("answer", story(Bad(1, "s", "a", "400"))),
}  # fmt: skip


@pytest.mark.parametrize("log", GOOD.values(), ids=list(GOOD))
def test_what_is_promised_passes(log: Log) -> None:
    assert judge(["a"], log, CHECK).violations == []


@pytest.mark.parametrize(("promise", "log"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_found(promise: str, log: Log) -> None:
    assert promise in {violation.guarantee for violation in judge(["a"], log, CHECK).violations}


def test_what_was_lost_is_counted() -> None:
    assert judge(["a"], story(), CHECK).counts["acknowledged, and lost by the store"] == 2
    assert judge(["a"], [*TWICE, LAST], CHECK).counts["acknowledged, and lost by the store"] == 5


def test_a_return_that_was_taken_for_another_is_counted() -> None:
    log = GOOD["two epochs lost, and a later one is taken"]
    assert judge(["a"], log, CHECK).counts["went on with a later life than the loss"] == 1
