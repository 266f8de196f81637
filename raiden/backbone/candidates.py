"""Addresses where there may be a node, each with the time until which it is tried."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from raiden.backbone.discovery import Address

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 1000


class Candidate:
    """An address where there may be a node. It is tried until ``until`` (monotonic seconds), and as long as a source
    names it. ``key`` is the node's public key, if anybody told it; ``said`` has the texts that were logged already."""

    __slots__ = ("address", "key", "said", "until")

    def __init__(self, address: str, key: str, until: float) -> None:
        self.address = address
        self.key = key
        self.until = until
        self.said: set[str] = set()

    def say(self, level: int, text: str) -> None:
        """Log a text about the address, once until a node is linked there."""
        if text not in self.said:
            self.said.add(text)
            logger.log(level, text, extra={"peer": self.address})


class Candidates:
    """At most `MAX_ADDRESSES` candidates; ``own`` is this node's own address, which is never one."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._listed: dict[str, set[str]] = {}
        self._known: dict[str, Candidate] = {}

    def list(self, source: str, addresses: Iterable[str]) -> None:
        """Note the addresses that a source names now, instead of those that it named before."""
        self._listed[source] = set(addresses)

    def want(self, address: str, key: str, holds: float) -> Candidate | None:
        """Try an address for ``holds`` seconds, and as long as a source names it. Returns the candidate if it is new;
        None where the address is tried already. Raises ValueError for a text that is no address."""
        candidate = self._known.get(address)
        until = time.monotonic() + holds
        if candidate is not None:
            candidate.until = max(candidate.until, until)
            candidate.key = key or candidate.key
        elif address != self._own and len(self._known) < MAX_ADDRESSES:
            Address.parse(address)
            found = self._known[address] = Candidate(address, key, until)
            return found
        return None

    def is_wanted(self, candidate: Candidate) -> bool:
        listed = any(candidate.address in addresses for addresses in self._listed.values())
        return listed or time.monotonic() < candidate.until

    def drop(self, candidate: Candidate) -> None:
        del self._known[candidate.address]
