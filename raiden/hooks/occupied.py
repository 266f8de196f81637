"""The channels that have subscribers in the whole cluster, as one worker sees them, and the changes that webhooks are
told. Pure.

Workers answer with their changes (`raiden.delivery.occupancy`). A channel is told as occupied as soon as any worker has
a subscriber of it, and as vacated when no worker had one for ``settle`` seconds. What was told is kept elsewhere
(`raiden.hooks.journal`), and outlives this worker. So one that takes over knows channels that are told as occupied, and
has no subscribers yet: for these it waits longer, ``patience`` seconds, for their clients to come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# Channels that are told as occupied, and bytes of their names in UTF-8; channels that are told at once.
MAX_CHANNELS: Final = 100_000
MAX_BYTES: Final = 8 << 20
AT_ONCE: Final = 500


class _Worker:
    """A worker's channels, as they were at the ``version`` of its ``life``."""

    __slots__ = ("life", "names", "version")

    def __init__(self) -> None:
        self.life = ""
        self.version = 0
        self.names: set[str] = set()


class Occupied:
    """``told`` are the channels that were told as occupied by the time ``now`` (monotonic seconds, as all times here).
    Only channels that are ``wanted`` are looked at."""

    def __init__(
        self, told: Iterable[str], wanted: Callable[[str], bool], *, settle: float, patience: float, now: float
    ) -> None:
        self.told = set(told)
        self._wanted = wanted
        self.settle = settle
        self._bytes = sum([len(name.encode()) for name in self.told])
        self._workers: dict[str, _Worker] = {}
        self._counts: dict[str, int] = {}  # workers that have the channel
        # Channels that are to be told as occupied; channels told so that nobody has, with the times of telling.
        self._new: dict[str, None] = {}
        self._missing: dict[str, float] = dict.fromkeys(self.told, now + patience)
        self._said = Seldom()

    def known(self) -> dict[str, tuple[str, int]]:
        """The life and the version up to which each worker's changes are known."""
        return {name: (worker.life, worker.version) for name, worker in self._workers.items()}

    def hear(self, name: str, answer: dict[str, Any], now: float) -> None:
        """Take the changes of a worker."""
        worker = self._workers.setdefault(name, _Worker())
        if answer["full"]:
            for each in worker.names - set(answer["on"]):
                self._lose(worker, each, now)
        worker.life, worker.version = answer["life"], answer["version"]
        for each in answer["on"]:
            if each not in worker.names and self._wanted(each):
                worker.names.add(each)
                self._counts[each] = self._counts.get(each, 0) + 1
                self._missing.pop(each, None)
                if each not in self.told:
                    self._new[each] = None
        for each in answer["off"]:
            if each in worker.names:
                self._lose(worker, each, now)

    def only(self, names: Collection[str], now: float) -> None:
        """Forget the workers that are not among ``names``: they are gone, with their clients."""
        for name in self._workers.keys() - set(names):
            worker = self._workers.pop(name)
            for each in list(worker.names):
                self._lose(worker, each, now)

    def _lose(self, worker: _Worker, channel: str, now: float) -> None:
        worker.names.discard(channel)
        self._counts[channel] -= 1
        if not self._counts[channel]:
            del self._counts[channel]
            self._new.pop(channel, None)
            if channel in self.told:
                self._missing[channel] = now + self.settle

    def knows(self, names: Iterable[str]) -> bool:
        """Whether the channels of all these workers are known."""
        return self._workers.keys() >= set(names)

    def occupied(self) -> list[str]:
        """Channels to tell as occupied now."""
        found: list[str] = []
        size = self._bytes
        for name in self._new:
            size += len(name.encode())
            if len(found) == AT_ONCE:
                break
            if len(self.told) + len(found) >= MAX_CHANNELS or size > MAX_BYTES:
                if self._said.may_say("full"):
                    log.error(
                        "too many channels are occupied: webhooks are not told of more until some are vacated; list "
                        "fewer in their channels", extra={"channels": len(self.told)},
                    )  # fmt: skip
                break
            found.append(name)
        return found

    def vacated(self, now: float) -> list[str]:
        """Channels to tell as vacated now."""
        return [name for name, due in self._missing.items() if due <= now][:AT_ONCE]

    def tell(self, occupied: Sequence[str], vacated: Sequence[str]) -> None:
        """Note that these were told; nothing was heard since they were asked for."""
        for name in occupied:
            del self._new[name]
            self.told.add(name)
            self._bytes += len(name.encode())
        for name in vacated:
            del self._missing[name]
            self.told.discard(name)
            self._bytes -= len(name.encode())
