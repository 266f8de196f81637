"""The streams that a client may follow, and where it may whisper and be present.

A signed name is the application's word that its bearer may follow the stream. Streams without a signature are for those
whose token lists them, and where `cable_public` is set for anyone. What the setting `channels` says of a channel counts
more than both: a channel for nobody is for nobody.
"""

from __future__ import annotations

from raiden.access.permit import Permit, Permits
from raiden.dialects.cable.streams import Stream
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.options import ANYONE, NOBODY, TOKEN


class Rights:
    """The rights of clients, by the policy of ``permits``. ``public``: streams need no signature; ``whispers``: clients
    may whisper and be present on signed streams, too."""

    def __init__(self, permits: Permits, *, public: bool, whispers: bool) -> None:
        self._permits = permits
        self._public = public
        self._whispers = whispers

    def follow(self, permit: Permit | None, stream: Stream) -> Filters | None:
        """The filters with which a client may follow a stream, and get its past; None: it may not."""
        said = self._permits.policy.said("subscribe", stream.name)
        if said == NOBODY:
            return None
        if stream.is_signed or said == ANYONE or (self._public and said != TOKEN):
            return NO_FILTERS
        if permit is None:
            return None
        if permit.client.may("subscribe").allows(stream.name):
            return NO_FILTERS
        return permit.client.filters("subscribe", stream.name)

    def whisper(self, stream: Stream) -> bool:
        """Whether those who follow a stream may whisper on it."""
        return self._reaches(stream) and self._permits.policy.said("publish", stream.name) != NOBODY

    def attend(self, stream: Stream) -> bool:
        """Whether those who follow a stream may be present at it, and hear who is."""
        return self._reaches(stream) and self._permits.policy.said("presence", stream.name) != NOBODY

    def _reaches(self, stream: Stream) -> bool:
        return self._whispers or not stream.is_signed
