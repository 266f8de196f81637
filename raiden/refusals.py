"""Why something that was asked for was not done, as a status (RFC 9110 section 15), whatever door it came in by."""

from __future__ import annotations

from raiden.auth import Forbidden
from raiden.backend import BackboneFull, NotInForce
from raiden.bell import TooManyConsumers
from raiden.filters import InvalidFilters
from raiden.history import StoreFailed, TooLargeToKeep
from raiden.message import InvalidChannel
from raiden.payload import TooLarge
from raiden.questions import TooManyQuestions
from raiden.strict_json import InvalidPayload
from raiden.table import TooManyChannels

_STATUS: dict[type[Exception], int] = {
    InvalidChannel: 400, InvalidFilters: 400, InvalidPayload: 400, TooLarge: 413, Forbidden: 403, BackboneFull: 503,
    NotInForce: 503, StoreFailed: 503, TooLargeToKeep: 413, TooManyChannels: 503, TooManyConsumers: 503,
    TooManyQuestions: 503,
}  # fmt: skip
# What can be refused so; the text says what to do.
REFUSALS = tuple(_STATUS)


def status_of(error: Exception) -> int:
    """The status of one of the `REFUSALS`."""
    return _STATUS[type(error)]
