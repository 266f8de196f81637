"""A client's request, at the worker that it came in at. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from raiden.model.message import Message
from raiden.model.refusals import Refusal

Outcome: TypeAlias = "Message | Refusal"
"""The answer, or the reason why there is none."""


class Request:
    """A request that is open. ``worker`` has it ("": it waits for one), under ``number``, until ``deadline``, a
    monotonic time. ``again``: where its server goes, another one may do the work again. ``done`` is called with the
    outcome, once. ``lost``: a server that had it has gone."""

    __slots__ = ("again", "deadline", "done", "lost", "message", "number", "size", "worker")

    def __init__(
        self, number: int, message: Message, deadline: float, *, again: bool, done: Callable[[Outcome], None]
    ) -> None:  # fmt: skip
        self.number = number
        self.message = message
        self.deadline = deadline
        self.again = again
        self.done = done
        self.worker = ""
        self.lost = False
        self.size = len(message.payload)

    def finish(self, outcome: Outcome) -> None:
        """Tell the client the outcome."""
        done = self.done
        self.forget()
        done(outcome)

    def forget(self) -> None:
        """Let go of the client: it knows the request, and would wait for the garbage collector."""
        self.done = _nothing


def _nothing(outcome: Outcome) -> None:
    """Stand in for a client that has gone."""
