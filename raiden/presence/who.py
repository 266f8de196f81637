"""The members of a channel in the whole cluster: all workers are asked, and nothing is kept in a store.

A worker can't be asked that does not answer, or whose node is suspected. The members of its last answer are told as
unsure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from raiden.backend import Backend
from raiden.delivery.questions import Questions, to_workers
from raiden.model.encoding import dumps
from raiden.presence.members import Part, Remembered, answer
from raiden.protocols.limits import PresenceLimits
from raiden.runtime.turns import pause

KIND: Final = b"present"
# Channels that are asked about with one question.
AT_ONCE: Final = 16
# Seconds for which the last answer of a worker is told that can't be asked; bytes of all of those that are kept.
REMEMBER: Final = 60.0
REMEMBERED: Final = 16 << 20


class Who:
    """The questions of a worker who is at channels. `of` waits for answers, and raises TooManyQuestions."""

    def __init__(self, backend: Backend, limits: PresenceLimits, kind: bytes = KIND) -> None:
        self._backend = backend
        self._limits = limits
        self._ask_workers = to_workers(backend, kind, everywhere=True)
        self._questions = Questions(self._ask, at_once=AT_ONCE)
        self._remembered = Remembered(seconds=REMEMBER, most=REMEMBERED)

    def of(self, channel: str) -> bytes:
        """The members of a channel, as clients are told of them in JSON."""
        told: bytes
        (told,) = self._questions.ask(channel)
        return told

    def _ask(self, channels: Sequence[str]) -> list[list[bytes]]:
        """The answers about channels, each made once for all that have asked."""
        return [
            [self._answer(channel, said)] for channel, said in zip(channels, self._ask_workers(channels), strict=True)
        ]

    def _answer(self, channel: str, said: Sequence[Any]) -> bytes:
        parts = {}
        for worker, value in said:
            parts[str(worker)] = Part.of(value)
            pause()  # an answer may be long, and there may be many
        workers = self._backend.all_workers()
        now = time.time()
        missing = [worker for worker in workers if worker not in parts]
        told = {worker: part if workers.get(worker, True) else part.unsure() for worker, part in parts.items()}
        told |= self._remembered.missing(channel, missing, now)
        self._remembered.note(channel, parts, workers, now)
        return dumps(answer(channel, told.values(), most=self._limits.max_presence, complete=not missing))
