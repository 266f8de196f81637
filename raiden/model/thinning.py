"""Thinning: what a subscription gets that asks for the newest messages rather than for all. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from raiden.model.refusals import Invalid
from raiden.model.strict_json import is_unicode
from raiden.model.subjects import Subject

# Messages a second that a subscription may ask for.
MIN_RATE: Final = 0.01
MAX_RATE: Final = 1000.0
# Bytes of the name of a key.
MAX_KEY: Final = 255


class Thinning(NamedTuple):
    """What a subscription gets of its messages: at most ``rate`` a second (0: as many as there are), by the values of
    ``key``, if there is one, of each so many. ``latest``: while the client reads too slowly, it gets the newest
    instead of all."""

    rate: float = 0.0
    key: str = ""
    latest: bool = False

    @property
    def every(self) -> float:
        """The seconds between two messages, of each value of the key."""
        return 1 / self.rate if self.rate else 0.0

    @property
    def subject(self) -> Subject | None:
        """The key, as it is looked up in a message."""
        return Subject(self.key) if self.key else None


def of(rate: Any, key: Any, slow: Any, prefix: str = "") -> Thinning | None:
    """The thinning that a client asks for; None where it says nothing of it. ``prefix`` stands before the names of
    these in error texts. Raises Invalid for a rate below `MIN_RATE` or above `MAX_RATE`, a key that names no field or
    has nothing to tell apart, and what is none of them."""
    if rate is None and key is None and slow is None:
        return None
    if rate is not None and (
        isinstance(rate, bool) or not isinstance(rate, int | float) or not MIN_RATE <= rate <= MAX_RATE
    ):
        raise Invalid(f"{prefix}rate is a number of messages a second from {MIN_RATE:g} to {MAX_RATE:g}")
    if slow not in (None, "latest"):
        raise Invalid(f"{prefix}slow is 'latest': who reads too slowly gets the newest, instead of being closed")
    if key is None:
        return Thinning(float(rate or 0), "", slow is not None)
    if rate is None and slow is None:
        raise Invalid(f"{prefix}key goes with {prefix}rate, or {prefix}slow: so many messages of each of its values")
    if not isinstance(key, str) or not is_unicode(key) or len(key.encode()) > MAX_KEY:
        raise Invalid(f"{prefix}key is the name of a field, or a path like order.status, of at most {MAX_KEY} bytes")
    return Thinning(float(rate or 0), Subject(key).text, slow is not None)
