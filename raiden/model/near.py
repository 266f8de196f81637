"""The known name that an unknown one was perhaps meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The end of a sentence that refuses ``name``: the nearest of the known names; where none is near, ``otherwise``,
    or else all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name[:100], known, 1, 0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(known)}" if otherwise is None else otherwise
