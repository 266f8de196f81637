"""A worker's calls of the history process: messages that wait for an answer, and values as they travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raiden.history.store import Append, Appended
from raiden.model.chain import Past
from raiden.model.message import Cursor
from raiden.model.page import Gap, Page, Record

Done = Callable[[str | None, Any], None]
Answer = tuple[str | None, Any]


class Asked:
    """A message that waits for its answer. It has its ``data`` until there is a process to give that to. ``done`` gets
    the answer, which is for ``count`` calls. An ``append`` that failed may have been done. A question for a ``page`` is
    ``held`` until its channel's turn."""

    __slots__ = ("append", "count", "data", "deadline", "done", "held", "number", "page", "size")

    def __init__(
        self, number: int, data: bytes, deadline: float, done: Done, *, count: int, size: int, page: bool, append: bool
    ) -> None:
        self.number = number
        self.data: bytes | None = data
        self.deadline = deadline
        self.done = done
        self.count = count
        self.size = size
        self.page = self.held = page
        self.append = append


def to_page(rows: Any, epoch: str, position: Any, gap: Any, more: bool, past: Past) -> Page:
    records = [Record(*row) for row in rows]
    return Page(records, epoch, position and Cursor(*position), gap and Gap(*gap), more, past)


def to_appended(epoch: str, first: int, end: int, repeated: bool, chain: str) -> Appended:
    return Appended(epoch, range(first, end), repeated, chain)


def plain(append: Append) -> tuple[Any, ...]:
    """The fields of an `Append`, in their order."""
    return (
        append.channel, append.messages, append.size, append.ttl, append.key, int(append.durability), append.retain,
        append.discard_new,
    )  # fmt: skip
