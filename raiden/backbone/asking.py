"""Asking other workers: a question goes to all workers of this node, or of all nodes, and their answers come back."""

from __future__ import annotations

import itertools
import time

from raiden.backbone import frames
from raiden.backbone.line import Line
from raiden.backbone.nodes import Nodes
from raiden.backbone.refusals import BackboneFull
from raiden.backbone.waiting import Waiting


class Question:
    """A question of a worker to others; answer it with `Asking.answer`."""

    __slots__ = ("reply_to", "text")

    def __init__(self, reply_to: bytes, text: bytes) -> None:
        self.reply_to = reply_to
        self.text = text


class Asking:
    """The questions of a worker, which is called ``worker`` in answers, and its answers to those of others; its node
    has ``workers`` of them. The worker hears them on `topics`."""

    def __init__(self, line: Line, nodes: Nodes, *, worker: bytes, workers: int) -> None:
        self._line = line
        self._nodes = nodes
        self._worker = worker
        self.workers_here = workers
        self._numbers = itertools.count(1)
        # The waiting asker, by the question's number.
        self._waiting: dict[bytes, Waiting] = {}
        self._everywhere, self._here = frames.ASK, frames.ASK + b" " + nodes.own
        self._answers = frames.ANSWER + worker
        self.topics = (self._everywhere, self._here, self._answers)

    def hear(self, topic: bytes, text: bytes) -> Question | None:
        """Take an answer, or return the question of another worker. Others' topics are ignored: a client's pattern may
        bring them."""
        if topic == self._answers:
            number, _, answer = text.partition(b"\0")
            waiting = self._waiting.get(number)
            if waiting is not None:
                waiting.hear(answer)
        elif topic in (self._everywhere, self._here):
            reply_to, _, question = text.partition(b"\0")
            return Question(reply_to, question)
        return None

    @property
    def workers(self) -> int:
        """The number of workers of all nodes that are not suspected."""
        return self.workers_here + self._nodes.workers_elsewhere()

    def ask(self, text: bytes, timeout: float = 1.0, *, everywhere: bool = False) -> list[bytes]:
        """Ask all workers of this node, this one included (``everywhere``: of all nodes), and return the answers that
        come within ``timeout`` seconds."""
        number = b"%d" % next(self._numbers)
        topic, expected = (self._everywhere, self.workers) if everywhere else (self._here, self.workers_here)
        deadline = time.monotonic() + timeout
        waiting = self._waiting[number] = Waiting()
        try:
            self._line.send(topic + b"\0" + self._worker + b" " + number + b"\0" + text)
            while len(waiting.answers) < expected and time.monotonic() < deadline:
                waiting.more.wait(deadline - time.monotonic())
                waiting.more.clear()
        except BackboneFull:
            pass  # nobody was asked
        finally:
            del self._waiting[number]
        return waiting.answers

    def answer(self, question: Question, text: bytes) -> None:
        asker, _, number = question.reply_to.partition(b" ")
        try:
            self._line.send(frames.ANSWER + asker + b"\0" + number + b"\0" + text)
        except BackboneFull:
            return  # the asker takes the answers that come in time

    def echo(self, timeout: float) -> bool:
        """Send an answer to this worker itself, and return whether it comes within ``timeout`` seconds. Raises
        BackboneFull."""
        number = b"echo %d" % next(self._numbers)
        waiting = self._waiting[number] = Waiting()
        try:
            self._line.send(self._answers + b"\0" + number + b"\0")
            return bool(waiting.more.wait(timeout))
        finally:
            del self._waiting[number]
