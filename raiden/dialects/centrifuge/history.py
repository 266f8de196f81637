"""Pages of channels' histories, as clients and the server API ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from raiden.dialects.centrifuge import codes, delegated
from raiden.dialects.centrifuge.channels import checked
from raiden.dialects.centrifuge.codes import Denied, Disconnected, Failed
from raiden.dialects.centrifuge.messages import HistoryRequest, HistoryResult, Reply, StreamPosition
from raiden.dialects.centrifuge.parts import Talking
from raiden.dialects.centrifuge.recovery import may_be
from raiden.model.message import Cursor, Message
from raiden.model.page import Read
from raiden.router import Router
from raiden.sessions.decisions import Decision

# Messages that an answer may have (centrifugo: client.history_max_publication_limit).
MOST: Final = 300


class Found(NamedTuple):
    """Messages in the order that was asked for, and where the channel stands."""

    messages: list[Message]
    position: Cursor


class Histories:
    """The histories of a node's channels. An answer has at most ``most_bytes``."""

    def __init__(self, router: Router, most_bytes: Callable[[], int]) -> None:
        self._router = router
        self._most_bytes = most_bytes

    def of(self, talk: Talking, ask: HistoryRequest) -> Callable[[], Reply]:
        """What waits for the answer to a client; raises Failed and Disconnected."""
        name = ask.channel
        if not name:
            raise Disconnected(codes.BAD)
        checked(name)
        self.check(name)
        allowed = talk.past(name)
        decision: Decision | None = None
        if allowed is None:
            if talk.is_others(name):
                raise Denied("history", name)
            decision = delegated.decision(talk.connection, Read(name, None, False, MOST), "history", name)

        def work() -> Reply:
            filters = allowed
            if decision is not None:
                decision.wait()
                filters = decision.filters(name)
            assert filters is not None
            found = self.page(name, ask.limit, ask.since, ask.reverse)
            publications = [talk.wire.publication(message) for message in found.messages if filters.match(message)]
            return Reply(history=HistoryResult(publications, found.position.epoch, found.position.offset))

        return work

    def check(self, name: str) -> None:
        """Raise Failed for a channel without a history."""
        if self._router.history is None or not self._router.keeps(name):
            raise Failed(codes.NOT_AVAILABLE)

    def page(self, name: str, limit: int, since: StreamPosition | None, reverse: bool) -> Found:
        """At most ``limit`` messages behind a place, or ``reverse`` before it (-1: as many as an answer may have; 0:
        none). Those that are gone are passed over. Waits; raises StoreFailed, and Failed where the place is of another
        history."""
        limit = MOST if limit < 0 else min(limit, MOST)
        history = self._router.history
        assert history is not None
        if since is not None and reverse and not since.offset:
            raise Failed(codes.BAD_REQUEST)
        stand = history.open([name]).get(name)
        if stand is None:
            raise Failed(codes.INTERNAL)
        position = stand.position
        cursor = self._place(since, position)
        messages: list[Message] = []
        room = self._most_bytes()
        while len(messages) < limit and room > 0:
            read = history.before if reverse else history.after
            page = read(name, cursor, limit - len(messages))
            position = page.position or position
            if since is not None and page.gap is not None and not page.gap.first and cursor is not None:
                if cursor.offset > position.offset:
                    break  # nothing has come behind that place
                raise Failed(codes.UNRECOVERABLE)
            found = page.messages(name)
            messages += reversed(found) if reverse else found
            room -= sum([len(message.payload) for message in found])
            if not page.more or not found:
                break
            cursor = messages[-1].cursor
        return Found([message for message in messages if not message.is_empty_end], position)

    @staticmethod
    def _place(since: StreamPosition | None, position: Cursor) -> Cursor | None:
        """The place that is asked for; None: the beginning, or the end."""
        if since is None:
            return None
        epoch = since.epoch or position.epoch
        place = Cursor(epoch, since.offset)
        if not may_be(place) or (not since.offset and epoch != position.epoch):
            raise Failed(codes.UNRECOVERABLE)
        return place
