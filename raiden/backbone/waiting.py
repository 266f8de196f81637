"""Waiting for answers: who has asked something sleeps until another answer is there."""

from __future__ import annotations

from gevent.event import Event


class Waiting:
    """One who has asked something: the answers so far, and `more`, which is set when there is another one."""

    __slots__ = ("answers", "more")

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.more = Event()

    def hear(self, answer: bytes) -> None:
        self.answers.append(answer)
        self.more.set()
