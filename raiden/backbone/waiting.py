"""Waiting for answers: an asker sleeps until another answer is there."""

from __future__ import annotations

from gevent.event import Event


class Waiting:
    """A waiting asker: the answers so far, and `more`, which is set when there is another one."""

    __slots__ = ("answers", "more")

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.more = Event()

    def hear(self, answer: bytes) -> None:
        self.answers.append(answer)
        self.more.set()
