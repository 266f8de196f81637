"""The streams that a client may follow, and where it may whisper and be present.

A signed name is the application's word that its bearer may follow the stream, and read its past. Streams without a
signature are for those whose token lists them, and where `cable_public` is set for anyone. What the setting `channels`
says of a channel counts more than both: a channel for nobody is for nobody.
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
        """The filters with which a client may follow a stream; None: it may not."""
        return self._reads("subscribe", permit, stream)

    def past(self, permit: Permit | None, stream: Stream) -> Filters | None:
        """The filters with which a client may get what came before on a stream; None: it may not."""
        return self._reads("history", permit, stream)

    def _reads(self, action: str, permit: Permit | None, stream: Stream) -> Filters | None:
        policy = self._permits.policy
        said = policy.said(action, stream.name)
        if said == NOBODY:
            return None
        if stream.is_signed or said == ANYONE or (self._public and said != TOKEN):
            return NO_FILTERS
        if permit is None or not policy.leaves_open(permit.client, action, stream.name):
            return None
        return permit.filters(action, stream.name)

    def whisper(self, permit: Permit | None, stream: Stream) -> bool:
        """Whether a client that follows a stream may whisper on it."""
        return self._may("publish", permit, stream)

    def attend(self, permit: Permit | None, stream: Stream) -> bool:
        """Whether a client that follows a stream may be present at it, and hear who is."""
        return self._may("presence", permit, stream)

    def _may(self, action: str, permit: Permit | None, stream: Stream) -> bool:
        if stream.is_signed and not self._whispers:
            return False
        said = self._permits.policy.said(action, stream.name)
        if said in (NOBODY, ANYONE):
            return said == ANYONE
        if not said and (stream.is_signed or self._public):
            return True
        return permit is not None and permit.client.may(action).allows(stream.name)
