"""Letters from one worker to another one, of any node: each worker hears those on a topic of its own."""

from __future__ import annotations

from collections.abc import Callable

from raiden.backbone import frames
from raiden.backbone.line import Line
from raiden.runtime import faults


class Mail:
    """The letters to and from the worker that is called ``worker`` (`frames.MAIL`). A letter is bytes, at most some
    megabytes. Letters of one worker to another one come in order, and may be lost, like messages."""

    def __init__(self, line: Line, *, worker: bytes) -> None:
        self._line = line
        self.topic = frames.MAIL + worker
        # Called with each letter that comes.
        self.heard: Callable[[bytes], None] | None = None
        # Those who are called instead with letters that begin with a byte of theirs.
        self.others: dict[int, Callable[[bytes], None]] = {}

    def send(self, worker: bytes, letter: bytes) -> None:
        """Send a letter to a worker; raises BackboneFull."""
        self._line.send(b"%b%b\0%b" % (frames.MAIL, worker, letter))

    def hear(self, topic: bytes, letter: bytes) -> bool:
        """Take a letter; False where the topic is another one."""
        if topic != self.topic:
            return False
        heard = self.others.get(letter[0], self.heard) if letter and self.others else self.heard
        if heard is not None:
            faults.call("a letter of another worker", heard, letter)
        return True
