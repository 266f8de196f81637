"""Numbers that are given as text. Pure."""

from __future__ import annotations

import re
from typing import Final

from raiden.model.refusals import Invalid

SECONDS: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
"""The form of a number of seconds."""


def whole(name: str, text: str, most: int, least: int = 1) -> int:
    """A parameter's value that is a whole number from ``least`` to ``most``; raises Invalid."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise Invalid(f"{name} is a whole number from {least} to {most}, like {name}=10")
    return int(text)


def seconds(name: str, text: str, least: float, most: float) -> float:
    """A parameter's value that is a number of seconds, from ``least`` to ``most``; raises Invalid."""
    if not SECONDS.fullmatch(text) or not least <= float(text) <= most:
        raise Invalid(f"{name} is a number of seconds from {least:g} to {most:g}, like {name}=5")
    return float(text)
