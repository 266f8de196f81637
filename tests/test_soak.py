"""The slope that a soak is judged by."""

from __future__ import annotations

import random

import pytest

from benchmarks.soak import BLOCKS, trend
from benchmarks.tools import Failed


def test_a_line_has_its_slope() -> None:
    found = trend([(x, 3.0 + 2.0 * x) for x in range(100)])
    assert found == pytest.approx((2.0, 2.0, 2.0))


def test_too_few_samples() -> None:
    with pytest.raises(Failed):
        trend([(x, 1.0) for x in range(2 * BLOCKS - 1)])


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_the_interval_holds_the_slope_19_times_in_20(memory: float) -> None:
    """Also where each sample is mostly the one before it."""
    chance, inside = random.Random(1), 0
    for _ in range(500):
        noise, points = 0.0, []
        for x in range(200):
            noise = memory * noise + chance.gauss(0.0, 1.0)
            points.append((x, 0.01 * x + noise))
        found = trend(points)
        inside += found.low <= 0.01 <= found.high
    assert 450 <= inside <= 490
