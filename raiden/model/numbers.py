"""Numbers that are given as text. Pure."""

from __future__ import annotations

from raiden.model.refusals import Invalid


def whole(name: str, text: str, most: int, least: int = 1) -> int:
    """A parameter's value that is a whole number from ``least`` to ``most``; raises Invalid."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise Invalid(f"{name} is a whole number from {least} to {most}, like {name}=10")
    return int(text)
