"""Watchlists: a client that has signed in is told which of some users are online, and when that changes.

A user is online that hears what is sent to it, on its own channel, as the clients of the protocol do once they have
signed in. So whether one is online is the presence at that channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from raiden.connections.connection import Connection
from raiden.dialects.pusher import frames, names
from raiden.dialects.pusher.names import TO_USER
from raiden.model.refusals import Invalid, Refusal, attempt
from raiden.presence.presence import Presence
from raiden.presence.watches import Notice, Share, Watched

# Users of a watchlist; the others are not watched, and the client is told the code.
MOST: Final = 100
TOO_MANY: Final = 4302
# The events of a watchlist, by those of presence.
_NAMES: Final = {"join": "online", "leave": "offline"}


def read(value: Any, prefix: str) -> tuple[str, ...]:
    """The users in the ``watchlist`` of a client's user data (None: it has none), by the names of whose channels here
    stands ``prefix``: those that are watched, and one more if there are any. An id whose user can't have a channel is
    passed over. Raises Invalid."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise Invalid("watchlist is a list of the ids of users")
    found = (user for user in dict.fromkeys(value) if _has_channel(user, prefix))
    return tuple(islice(found, MOST + 1))


def _has_channel(user: str, prefix: str) -> bool:
    return not isinstance(attempt("an id", names.check, TO_USER + user, prefix), Refusal)


class Watchlist:
    """The watchlist of a connection, in the place of a subscription and its owner. ``prefix`` is that of the app."""

    __slots__ = ("_begin", "_connection", "topic")

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection = connection
        # A subject, and a channel of one: the user's id follows.
        self._begin = prefix
        self.topic: object | None = prefix or TO_USER

    @property
    def owner(self) -> Watchlist:
        return self

    def begin(self, presence: Presence, share: Share, users: Sequence[str]) -> None:
        """Tell who is online, and from now on who comes and goes. The users count in the ``share`` of all watchlists.
        Waits."""
        if len(users) > MOST:
            self._connection.send(frames.error(TOO_MANY, f"a watchlist has at most {MOST} users"))
            users = users[:MOST]
        channels = [f"{self._begin}{TO_USER}{user}" for user in users]
        outcome = attempt("a watchlist", lambda: presence.watch(channels, fresh=True, share=share))
        if self.topic is None or self._connection.closing or self._connection.closed:
            return
        if isinstance(outcome, Refusal):
            self._connection.send(frames.error(None, outcome.detail))
            return
        online = [user for user, each in zip(users, outcome, strict=True) if self._is_online(user, each)]
        offline = [user for user in users if user not in online]
        told = [{"name": name, "user_ids": ids} for name, ids in (("online", online), ("offline", offline)) if ids]
        self._connection.send(_frame(told))
        for each in outcome:
            presence.listen(each, self)  # type: ignore[arg-type]

    def _is_online(self, user: str, watched: Watched) -> bool:
        rows = watched.watch.listing()["members"] or ()
        return any([row["sub"] == self._begin + user for row in rows])

    def presence(self, _: object, notice: Notice) -> None:
        """Tell the client of a user that has come or gone."""
        user = notice.channel[len(self._begin) + len(TO_USER) :]
        told = [
            {"name": _NAMES[name], "user_ids": [user]}
            for name, what in notice.events if name in _NAMES and what["sub"] == self._begin + user
        ]  # fmt: skip
        if told:
            self._connection.send(_frame(told))

    def close(self) -> None:
        """Be told no more."""
        self.topic = None


def _frame(events: list[dict[str, Any]]) -> bytes:
    return frames.told("pusher_internal:watchlist_events", {"events": events})
