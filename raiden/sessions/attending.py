"""The beginning of a client's watch of who is at its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import gevent

from raiden.delivery.table import Subscription
from raiden.presence.presence import Presence
from raiden.presence.watches import Notice, Watched

# Seconds that a client waits whose list is another one: workers may know different ones for a moment, and it could be
# sent from one to the other.
MOMENT: Final = 0.5


class Attentive(Protocol):
    """A session whose client may watch."""

    def has(self, subscription: Subscription) -> bool:
        """Whether a subscription has not ended, nor was replaced by another one of the same name."""

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        """Tell the client who is at a channel, joins and leaves it."""


def watch(presence: Presence, known: Mapping[str, str]) -> list[Watched]:
    """Watch channels, of which the client has the lists with these digests ("": none). Waits; raises a refusal."""
    watched = presence.watch(tuple(known))
    if any(known[each.channel] not in ("", each.watch.digest) for each in watched):
        gevent.sleep(MOMENT)
    return watched


def attend(
    session: Attentive, presence: Presence, watched: Sequence[Watched], mine: Mapping[str, Subscription],
    known: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Tell the client who is at channels now, and from then on who joins and leaves, by the subscriptions with which it
    asked for that (``mine``). ``known`` has the digests of lists that the client has: these are not told again. None:
    it was told all lists already."""
    for each in watched:
        subscription = mine.get(each.channel)
        if subscription is None or not session.has(subscription):
            continue  # it has ended meanwhile; the client may have another one, by which it does not watch
        if known is not None:
            has = known.get(each.channel) == each.watch.digest
            session.presence(subscription, Notice(each.channel, [], each.watch.digest) if has else each.first)
        presence.listen(each, subscription)
