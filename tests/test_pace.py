"""When messages wait for each other."""

from __future__ import annotations

import pytest

from raiden.delivery.pace import Pace


def run(pace: Pace, *, every: float, takes: float, turns: int = 100, start: float = 1000.0) -> list[float]:
    """Messages come ``every`` so often, and a turn takes so long however many it brings; the last delays."""
    came, now, delays = start, start, list[float]()
    for _ in range(turns):
        now = max(now, came) + pace.wait()
        # All that have come by now; one that comes at this very moment, too.
        messages = 1 + int((now - came) / every + 1e-9)
        pace.turn(now, now + takes, messages)
        now += takes
        delays += [now - came - number * every for number in range(messages)]
        came += messages * every
    return delays[-50:]


def test_with_time_to_spare_nothing_waits() -> None:
    pace = Pace(0.02)
    assert max(run(pace, every=0.05, takes=0.02)) == pytest.approx(0.02, rel=0.01)
    assert pace.wait() == 0


def test_a_busy_worker_lets_the_next_message_come() -> None:
    pace = Pace(0.02)
    delays = run(pace, every=0.005, takes=0.003)
    # Two at a time: the first waits for the second.
    assert max(delays) == pytest.approx(1.1 * 0.005 + 0.003, rel=0.01)
    assert sorted(delays)[20] < 0.006
    assert run(Pace(0.0), every=0.005, takes=0.003) == pytest.approx([0.003] * 50)


def test_under_more_load_turns_take_half_of_the_time() -> None:
    pace = Pace(0.02)
    run(pace, every=0.0001, takes=0.004)
    assert pace.wait() == pytest.approx(0.004, rel=0.01)


def test_the_wait_has_a_bound() -> None:
    pace = Pace(0.02)
    run(pace, every=0.05, takes=0.05)
    assert pace.wait() == 0.02


def test_short_turns_wait_for_nothing() -> None:
    pace = Pace(0.02)
    run(pace, every=0.0005, takes=0.0004)
    assert pace.wait() == 0


def test_a_pause_is_forgotten_in_a_few_turns() -> None:
    pace = Pace(0.02)
    run(pace, every=0.005, takes=0.003)
    assert pace.wait() > 0
    pace.turn(2000.0, 2000.003, 1)
    assert pace.wait() == 0
    run(pace, every=0.005, takes=0.003, start=2000.005)
    assert pace.wait() > 0
