"""The order of the tests names tests that there are."""

from __future__ import annotations

import pytest

from tests.daemons import ROOT
from tests.schedule import FIRST, SINGLY


@pytest.mark.parametrize("begin", [*FIRST, *SINGLY])
def test_it_is_there(begin: str) -> None:
    path, _, function = begin.partition("::")
    assert (ROOT / path).exists() and (not function or f"def {function}(" in (ROOT / path).read_text())
