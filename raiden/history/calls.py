"""A worker's calls of the history process: messages that wait for an answer, and values as they travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raiden.history.conditions import Unmet
from raiden.history.store import Append, Appended, Claimed, Letters, StoreFailed
from raiden.history.streams import plain_outcome, plain_terms, to_outcome, to_terms
from raiden.model.chain import Past
from raiden.model.message import Cursor
from raiden.model.page import Gap, Page, Record, Stand
from raiden.model.refusals import Refusal

# A call's answer: why it failed, and its result. The reason is a text, or the condition of an append that did not hold.
Done = Callable[[Any, Any], None]
Answer = tuple[Any, Any]


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


def to_page(rows: Any, epoch: str, position: Any, gap: Any, more: bool, past: Past, ended: bool) -> Page:
    records = [Record(*row) for row in rows]
    return Page(records, epoch, position and Cursor(*position), gap and Gap(*gap), more, past, ended)


def to_claimed(rows: Any, epoch: str, gap: Any, past: Past, dead: Any, ended: bool, more: bool) -> Claimed:
    letters = Letters(to_appended(*dead[0]), dead[1]) if dead else None
    records = [(Record(*row), attempt) for row, attempt in rows]
    return Claimed(records, epoch, gap and Gap(*gap), past, letters, ended, more)


def to_stands(found: dict[str, Any]) -> dict[str, Stand]:
    return {name: Stand(Cursor(*place), ended) for name, (place, ended) in found.items()}


def to_refusal(why: Any) -> Refusal:
    """The refusal of an append that failed for this reason."""
    if isinstance(why, str):
        return StoreFailed(why)
    what, channel, size, position, outcome = why
    return Unmet(what, channel, size, Cursor(*position), to_outcome(outcome)).refusal()


def plain_unmet(unmet: Unmet) -> tuple[Any, ...]:
    """The fields of an `Unmet`, as plain values."""
    what, channel, size, position, outcome = unmet
    return what, channel, size, tuple(position), plain_outcome(outcome)


def to_appended(epoch: str, first: int, end: int, repeated: bool, chain: str, outcome: Any = None) -> Appended:
    return Appended(epoch, range(first, end), repeated, chain, None, to_outcome(outcome))


def plain_appended(appended: Appended) -> tuple[Any, ...]:
    """The fields of an `Appended` whose condition holds, as plain values."""
    epoch, offsets, repeated, chain, _, outcome = appended
    plain = epoch, offsets.start, offsets.stop, repeated, chain
    return plain if outcome is None else (*plain, plain_outcome(outcome))


def plain(append: Append) -> tuple[Any, ...]:
    """The fields of an `Append`, in their order."""
    return (
        append.channel, append.messages, append.size, append.ttl, append.key, int(append.durability), append.retain,
        append.discard_new, append.at and tuple(append.at), append.ends, append.hollow, plain_terms(append.terms),
    )  # fmt: skip


def to_append(*fields: Any) -> Append:
    """An `Append` of its fields, in their order."""
    append = Append(*fields)
    if append.at is not None:
        append.at = Cursor(*append.at)
    if append.terms is not None:
        append.terms = to_terms(fields[-1])
    return append
