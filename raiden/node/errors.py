"""The error of a node that can't start."""

from __future__ import annotations


class StartError(Exception):
    """The node can't start; the text is one line that says why and what to do."""
