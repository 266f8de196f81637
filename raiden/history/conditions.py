"""Conditions of an append: what must be so in the store for its messages to be appended. Pure.

The store looks at them in the step that appends, so that no other append comes between. A condition that does not hold
makes the whole call be refused, and nothing of it is appended. An append whose key was used before has no conditions:
it gets its first answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from raiden.history.streams import Outcome, StreamRefused, refuses
from raiden.model.message import EARLIEST, Cursor
from raiden.model.refusals import Conflict, PreconditionFailed, Refusal, Unavailable

# The conditions, by what is the matter where they do not hold: the channel has come to its end; it does not stand at
# the cursor that the publisher has named; it would push out messages that a durable still needs.
ENDED: Final = "ended"
ELSEWHERE: Final = "elsewhere"
FULL: Final = "full"


# The cursors at which channels must stand, where there is no such condition.
ANYWHERE: Final[Mapping[str, Cursor]] = MappingProxyType({})


class HasEnded(Conflict):
    """The channel has come to its end."""

    def __init__(self, detail: str, channel: str) -> None:
        super().__init__(detail)
        self.channel = channel


class Full(Unavailable):
    """The channel is full of messages that durables still need."""


class Unmet(NamedTuple):
    """A condition that does not hold: which one, and the channel, the number of messages that it keeps, and its
    position (`EARLIEST`: it has no history yet). ``outcome`` is a stream's (`raiden.history.streams`)."""

    what: str
    channel: str
    size: int
    position: Cursor
    outcome: Outcome | None = None

    def refusal(self) -> Refusal:
        """The refusal, which says what to do."""
        name = self.channel
        if refuses(self.what):
            return StreamRefused(self.what, name, self.outcome)
        if self.what == ENDED:
            return HasEnded(f"{name} has come to its end: DELETE it before anything is published to it again", name)
        if self.what == ELSEWHERE:
            return PreconditionFailed(
                f"{name} does not stand there: others have published, or it was deleted. Nothing was published: read "
                "what it has now, and try again from its present position",
                str(self.position),
            )
        return Full(
            f"{name} is full: it keeps {self.size} messages (history_size), and to publish this would push out some "
            "that a durable subscription has not had acknowledged (discard = 'new'). Nothing was published: try again "
            "when its consumers have acknowledged more, or forget a durable subscription that nobody needs (see "
            "/-/durables)"
        )


def stands_at(position: Cursor, cursor: Cursor) -> bool:
    """Whether a channel with this position stands at a cursor. `EARLIEST` is where each channel stands that has had no
    message yet. Proofs count where both have one."""
    if cursor.place == EARLIEST.place:
        return position.offset == 0
    return cursor.place == position.place and (not cursor.proof or not position.proof or cursor.proof == position.proof)
