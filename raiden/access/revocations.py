"""Revocations: subjects and tokens that are not accepted any more. Pure.

A subject's revocation is of the tokens that were issued up to then (``iat``), and of those that don't say when they
were; so a subject can get another token, if its application makes one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from raiden.access.clients import Client
from raiden.model.refusals import Unavailable

# Revocations that hold at the same time.
MAX_REVOCATIONS: Final = 100_000
DAY: Final = 86400.0
# Bytes of a subject, and of a token's id.
MAX_BYTES: Final = 255


class Revocation(NamedTuple):
    """The revocation of a subject's tokens ("sub") or of one token ("jti"), made ``at`` a Unix time; it holds ``until``
    one (None: for good)."""

    claim: str
    value: str
    at: float
    until: float | None

    @classmethod
    def of(cls, row: Any) -> Revocation | None:
        """The revocation in a row of another worker, or of the store; None where it is none."""
        if not isinstance(row, list | tuple) or len(row) != 4:
            return None
        claim, value, at, until = row
        known = claim in ("sub", "jti") and isinstance(value, str) and isinstance(at, int | float)
        return cls(claim, value, at, until) if known and isinstance(until, int | float | None) else None

    def is_over(self, now: float) -> bool:
        return self.until is not None and now >= self.until

    def covers(self, client: Client) -> bool:
        """Whether it is of this client's token."""
        if self.claim == "jti":
            return client.id == self.value
        return client.subject == self.value and (client.issued is None or client.issued <= self.at)


# Shelves of the store by the time for which a revocation holds: up to 2 ** number seconds, which is an hour to 8 years.
# On a shelf, at most `ON_SHELF` are kept.
SHELVES: Final = range(12, 29)
ON_SHELF: Final = 2 * MAX_REVOCATIONS


def shelf(one: Revocation, before: Revocation | None) -> int | None:
    """The number of the shelf for a revocation, which follows the one ``before`` of the same; None: that for good. A
    shelf has what holds for about as long. So what finds no room there would be more than `MAX_REVOCATIONS` at a time,
    and many short ones push out none that is long. One that ends another is kept as long as that."""
    ends = [each.until for each in (one, before) if each is not None]
    if one.until is None or one.until <= one.at or None in ends:
        return None
    left = max([end for end in ends if end is not None]) - one.at
    return next((number for number in SHELVES if left <= 2**number), None)


class Revocations:
    """The revocations that hold, on one worker."""

    def __init__(self) -> None:
        self.known = True
        """Whether those that the store keeps are in here."""
        self._rows: dict[tuple[str, str], Revocation] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, one: Revocation, now: float) -> bool:
        """Take a revocation, unless a later one of the same is known; return whether it was taken. One that is over is
        remembered for a day, so that nobody brings back what it has ended. Raises Unavailable for more than
        `MAX_REVOCATIONS`."""
        key = one.claim, one.value
        known = self._rows.get(key)
        if known.at >= one.at if known is not None else one.is_over(now - DAY):
            return False
        if known is None:
            self._check_room(now)
        self._rows[key] = one
        return True

    def _check_room(self, now: float) -> None:
        if len(self._rows) >= MAX_REVOCATIONS:
            self._rows = {key: row for key, row in self._rows.items() if not row.is_over(now)}
        if len(self._rows) >= MAX_REVOCATIONS:
            raise Unavailable(f"{MAX_REVOCATIONS} revocations hold: give those to come a ttl")

    def following(self, one: Revocation, now: float) -> Revocation:
        """A revocation that counts after the known one of the same, whatever the clock of its maker said. Raises
        Unavailable where there is no room for it."""
        known = self.same(one)
        if known is None:
            self._check_room(now)
            return one
        return one._replace(at=max(one.at, known.at + 0.001))

    def of(self, client: Client, now: float) -> Revocation | None:
        """The revocation of a client's token, if it has one."""
        if not self._rows:
            return None
        for key in (("sub", client.subject), ("jti", client.id)):
            found = self._rows.get(key)  # type: ignore[arg-type]
            if found is not None and not found.is_over(now) and found.covers(client):
                return found
        return None

    def same(self, one: Revocation) -> Revocation | None:
        """The revocation of the same subject or token that is known."""
        return self._rows.get((one.claim, one.value))

    def part(self, number: int, of: int) -> list[Revocation]:
        """One ``of`` so many parts of all."""
        return [row for row in self._rows.values() if zlib.crc32(row.value.encode()) % of == number]


def asked(members: Mapping[str, Any], now: float) -> Revocation | str:
    """The revocation that a manager asks for, by ``sub`` or ``jti``, and a ``ttl`` in seconds (none: it holds for good;
    0: what was revoked is accepted again), or the reason why it is none."""
    claims = members.keys() & {"sub", "jti"}
    ttl = members.get("ttl")
    if len(claims) != 1:
        return 'the body must be like {"sub": "ann"} or {"jti": "..."}, and may have a ttl in seconds'
    claim = next(iter(claims))
    value = members[claim]
    if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "surrogatepass")) <= MAX_BYTES:
        return f"{claim} is a string of 1 to {MAX_BYTES} bytes"
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 <= ttl <= 1e10):
        return "ttl is a number of seconds"
    return Revocation(claim, value, now, None if ttl is None else now + ttl)
