"""The journal of the channels that were told as occupied: messages of an internal channel of the store. A change is
appended together with its events, all or none, so that none is told twice or forgotten, whichever worker goes on. When
it has grown, all channels are written anew, in one append that replaces what was there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import ujson

from raiden.history.store import Append
from raiden.model.encoding import dumps
from raiden.model.message import Kind

CHANNEL: Final = "-/webhooks/occupied"
# Seconds for which an entry is kept: it is written anew long before that, by each worker that takes over.
_KEPT: Final = 366 * 86400.0
# Channels of one entry; entries after which all is written anew, or as many as there are channels.
_NAMES: Final = 1000
_GROWN: Final = 1000


class Journal:
    """The journal, as far as it was `read`; then its ``told`` are the channels that are told as occupied."""

    def __init__(self) -> None:
        self.told: set[str] = set()
        self._entries = 0

    def read(self, payloads: Iterable[bytes]) -> None:
        """Take the next entries; raises ValueError where they are none."""
        for payload in payloads:
            entry = ujson.loads(payload)
            if entry.get("anew"):
                self.told.clear()
            self.told.update(entry["on"])
            self.told.difference_update(entry["off"])
            self._entries += 1

    def change(self, occupied: Sequence[str], vacated: Sequence[str]) -> Append:
        """The append of a change."""
        self._entries += 1
        entry = dumps({"on": occupied, "off": vacated})
        return Append(CHANNEL, [(Kind.JSON, entry)], size=self._entries, ttl=_KEPT)

    def anew(self, told: Iterable[str]) -> Append:
        """The append that writes these channels anew, in place of all entries."""
        names = list(told)
        pieces = [names[at : at + _NAMES] for at in range(0, len(names), _NAMES)] or [[]]
        entries = [dumps({"on": piece, "off": [], "anew": at == 0}) for at, piece in enumerate(pieces)]
        self._entries = len(entries)
        return Append(CHANNEL, [(Kind.JSON, entry) for entry in entries], size=len(entries), ttl=_KEPT)

    def has_grown(self, told: int) -> bool:
        """Whether it is time to write it anew, with ``told`` channels."""
        return self._entries > max(_GROWN, told)
