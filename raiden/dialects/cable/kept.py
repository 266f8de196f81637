"""Sessions of clients that were lost, which come back within a while, on any node: the store has the identifiers of
their subscriptions. A client whose session is not there subscribes anew, and misses nothing either."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence

import ujson

from raiden.history.client import History
from raiden.history.store import MAX_KEPT, StoreFailed
from raiden.model.encoding import dumps

log = logging.getLogger(__name__)


class Kept:
    """The sessions that ``history`` keeps, for ``seconds``."""

    def __init__(self, history: History, seconds: float) -> None:
        self._history = history
        self._seconds = seconds

    def keep(self, sid: str, owner: str, identifiers: Sequence[str]) -> None:
        """Keep a session of this owner, unless it is too large. Waits; where it fails, the log says so."""
        value = dumps(identifiers)
        if len(value) > MAX_KEPT:
            return
        try:
            self._history.keep(_name(sid, owner), value, self._seconds, _HOLDER)
        except StoreFailed as error:
            log.warning("a session was not kept", extra={"reason": str(error)})

    def find(self, sid: str, owner: str) -> list[str]:
        """The identifiers of an owner's session; []: there is none. Waits; raises StoreFailed."""
        found = self._history.take(_name(sid, owner), _HOLDER)
        value = [] if found is None else ujson.loads(found[0])
        return [each for each in value if isinstance(each, str)]


# A session is kept once, and only read after that: one holder will do.
_HOLDER = "cable"


def new_part() -> str:
    """The part of a session's id that nobody can guess, besides its connection's id: 96 random bits."""
    return secrets.token_hex(12)


def _name(sid: str, owner: str) -> str:
    return f"cable {sid} {hashlib.sha256(owner.encode()).hexdigest()[:32]}"
