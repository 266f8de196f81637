"""The subscribers of channels and patterns in the whole cluster, counted by asking all workers.

Subscribers are added up over the workers of all nodes; each worker that carries a channel saw all of its messages. A
worker that doesn't answer within a second is left out.
"""

from __future__ import annotations

from typing import Any

from raiden.backend import Backend
from raiden.delivery.questions import Questions, to_workers
from raiden.delivery.table import MAX_ROWS

# Channels that are counted with one question.
NAMES = 500


class Census:
    """The counts of subscribers of channels and patterns. `row` and `page` wait for answers; they raise
    TooManyQuestions."""

    def __init__(self, backend: Backend) -> None:
        self._rows = Questions(to_workers(backend, b"channel", everywhere=True), at_once=NAMES)
        self._pages = Questions(to_workers(backend, b"channels", everywhere=True), at_once=1)

    def row(self, name: str) -> dict[str, int]:
        """The counts of one channel or pattern."""
        total = {"subscribers": 0, "messages": 0}
        for row in self._rows.ask(name):
            total = _added(total, row)
        return total

    def page(self, prefix: str = "", after: str = "", limit: int = MAX_ROWS) -> dict[str, Any]:
        """The counts of channels and patterns that begin with ``prefix``, come behind ``after`` in the order of their
        names in UTF-8, and have subscribers: ``channels`` has at most ``limit``, and ``next``, where there may be more,
        is the name to go on with as ``after``."""
        total: dict[bytes, dict[str, int]] = {}
        ends: list[bytes] = []
        for rows, end in self._pages.ask((prefix, after, limit)):
            for name, row in rows.items():
                key = name.encode()
                total[key] = _added(total[key], row) if key in total else row
            ends += [] if end is None else [end.encode()]
        # Behind the end of the first worker's answer, there may be names of that worker which are not told here.
        end = min(ends, default=None)
        names = sorted([name for name in total if end is None or name <= end])
        found: dict[str, Any] = {"channels": {name.decode(): total[name] for name in names[:limit]}}
        if len(names) > limit:
            found["next"] = names[limit - 1].decode()
        elif end is not None:
            found["next"] = end.decode()
        return found


def _added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {
        "subscribers": one["subscribers"] + other["subscribers"],
        "messages": max(one["messages"], other["messages"]),
    }
