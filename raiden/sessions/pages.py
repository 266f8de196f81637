"""Pages of the history for the command ``history`` of a ``/-/websocket``."""

from __future__ import annotations

from typing import Any

from raiden.delivery import past
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.page import Read
from raiden.model.payload import WRAPPING
from raiden.router import Router
from raiden.sessions.lasting import REPLAY_PATIENCE
from raiden.sessions.replies import Replies, Result


def read(
    router: Router, replies: Replies, number: Any, ask: Read, filters: Filters | None, max_message: int
) -> None:  # fmt: skip
    """Reply to command ``number`` with a page of a channel's history, in its turn, as far as ``filters`` let it
    through (None: all). A page has at most ``max_message`` bytes, and one message. Raises NoHistory, and
    TooManyRequests."""
    reader = past.reader(router.history, ask, keeps=router.keeps(ask.channel))

    def work() -> Result | None:
        with replies.turn:
            if not replies.connection.wait_until_sent(REPLAY_PATIENCE):
                replies.connection.overflow()
                return None
            most = max_message - WRAPPING
            return encoding.page(ask.channel, reader(), most, backwards=ask.backwards, filters=filters)

    replies.in_turn(number, work)
