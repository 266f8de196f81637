"""Clients between two long-polls: pure."""

from __future__ import annotations

from raiden.delivery.polled import MOST, NAMES, Answered, Polled


def test_clients_stay_for_a_while() -> None:
    linger = 60.0
    polled = Polled(lambda: linger)
    polled.note(("a", "b*"), [("connection", "client")])
    (found,) = polled.all()
    assert [found.brought(name) for name in ("a", "ab", "b", "bc", "c")] == [True, False, True, True, False]
    assert found.polls == [("connection", "client")]
    linger = 0.0
    assert polled.all() == []


def test_all_together_are_bounded() -> None:
    """By the clients, and by the names that they asked for: these take memory, and time to look at."""
    polled = Polled(lambda: 60.0)
    for number in range(MOST + 10):
        polled.note(("a",), [(number, None)])
    assert polled.all()[-1].polls == [(MOST + 9, None)]
    assert MOST * 0.9 < clients(polled.all()) <= MOST
    names = tuple(map(str, range(128)))
    for _ in range(MOST):
        polled.note(names, [(0, None)])
    assert sum([len(each.names) for each in polled.all()]) <= MOST * NAMES
    polled.note(names, [(number, None) for number in range(MOST + 1)])
    assert polled.all() == [], "too many at once"
    polled.note(names, [(0, None)])
    assert clients(polled.all()) == 1


def clients(found: list[Answered]) -> int:
    return sum([len(each.polls) for each in found])
