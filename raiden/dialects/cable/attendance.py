"""Attendance: the clients that have joined a stream, under an id that they choose.

A subscription counts in Raiden's presence as the id under which its client has joined, and as nobody's until then.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import ujson

from raiden.access.tokens import MAX_INFO
from raiden.dialects.cable import commands, words
from raiden.dialects.cable.followed import Followed
from raiden.model.refusals import Refusal, attempt
from raiden.presence.here import NOBODY, Subject
from raiden.presence.presence import Presence
from raiden.presence.watches import Notice, Share, Watched
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# Bytes of what a client says of itself, with its id.
MAX_PRESENCE: Final = MAX_INFO + 512
# Streams whose clients hear who joins and leaves, on a worker: others' watches have a share of their own.
MAX_WATCHED: Final = 5000


class Attendance:
    """The clients of a worker that are at streams, by way of its ``presence``."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._told = Seldom()
        self._share = Share(MAX_WATCHED, "streams")

    def watch(self, followed: Followed) -> Watched | None:
        """Begin to watch who joins and leaves a stream; None where that can't be now, which the log says. Waits."""
        found = attempt("a watch of a stream", self._presence.watch, (followed.stream.name,), share=self._share)
        if isinstance(found, Refusal):
            if self._told.may_say(found.detail):
                log.warning("clients do not hear who joins and leaves", extra={"reason": found.detail})
            return None
        watched: Watched = found[0]
        return watched

    def listen(self, watched: Watched, followed: Followed) -> None:
        """Let the client hear who joins and leaves from now on."""
        self._presence.listen(watched, followed.subscription)

    def hide(self, followed: Followed) -> None:
        """Count a client that has not joined as nobody, whoever its token says it is."""
        self._presence.name(followed.subscription, NOBODY)

    def join(self, followed: Followed, presence: bytes) -> None:
        """Let a client join, as it says; under another id than before it may not."""
        who = commands.who(presence, most=MAX_PRESENCE)
        if who is not None and not followed.joined:
            followed.joined = who.id
            self._presence.name(followed.subscription, Subject(who.id, who.info))

    def leave(self, followed: Followed) -> None:
        """Let a client leave, if it has joined."""
        if followed.joined:
            followed.joined = ""
            self._presence.leave(followed.subscription)

    def forget(self, followed: Followed) -> None:
        """Forget a subscription that ends."""
        self._presence.forget(followed.subscription)

    def told(self, followed: Followed) -> bytes:
        """What a client is told that asks who is there. Waits."""
        found = attempt("who is at a stream", self._presence.of, followed.stream.name)
        if isinstance(found, Refusal):
            return words.presence(followed.identifier, {"type": "error"})
        told = ujson.loads(found)
        message: dict[str, Any] = {"type": "info", "total": told["count"]}
        if told["members"] is not None:  # else there are too many to list
            message["records"] = [_record(each["sub"], each["info"]) for each in told["members"]]
        return words.presence(followed.identifier, message)


def heard(followed: Followed, notice: Notice) -> bytes:
    """Joins and leaves, as clients with this identifier hear them."""
    identifier = followed.identifier

    def encode(name: str, what: dict[str, Any]) -> bytes:
        if name == "presence":  # the list, where it has become too long, or short enough again: clients ask for it
            return b""
        sub, info = what[name]["sub"], what[name]["info"]
        return words.presence(identifier, {"type": name, **_record(sub, info if name == "join" else None)})

    return notice.encoded(("cable", identifier), encode)


def _record(id: str, info: Any) -> dict[str, Any]:
    return {"id": id} if info is None else {"id": id, "info": info}
