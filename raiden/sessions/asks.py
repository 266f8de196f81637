"""Asks: what a request asks for, whichever protocol it came by. They stand between reading a request, which knows the
protocol and does nothing, and doing what it asks, which knows no protocol. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import webob

from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.message import Cursor, Message
from raiden.model.page import Start
from raiden.model.refusals import Refusal
from raiden.protocols.http import Fields, HttpError, Json
from raiden.protocols.websocket import Agreement

Cursors: TypeAlias = "Sequence[Sequence[Cursor]]"


class Reply(NamedTuple):
    """Nothing is to be done: the request has its answer."""

    answer: webob.Response | Json


class Publish(NamedTuple):
    """Publish groups of messages, each of one channel, all or none. ``answer`` makes the answer's body of the groups
    and their cursors. ``prefix``: what the channel begins with besides the target, where another request with this head
    and another target is as simple (None: it is not)."""

    groups: Sequence[Sequence[Message]]
    key: str | None
    answer: Callable[[Sequence[Sequence[Message]], Cursors], bytes]
    prefix: str | None = None


class Clear(NamedTuple):
    """Delete a channel: its history, and its subscriptions."""

    channel: str


class Show(NamedTuple):
    """A page below ``/-/``, by its path there."""

    page: str


class Consume(NamedTuple):
    """Claim messages of a durable subscription, ``limit`` at most, for ``ack_wait`` seconds each. It is made ``since``
    a cursor (None: now). Before that, acknowledge and give back some that were claimed; these come again after
    ``nack_delay`` seconds. ``wait`` for so many seconds where there are none."""

    channel: str
    durable: str
    limit: int
    ack_wait: float
    since: Cursor | None
    acks: Sequence[Cursor]
    nacks: Sequence[Cursor]
    nack_delay: float
    wait: float


class Subscribe(NamedTuple):
    """Subscribe to channels and patterns; none: to what commands will say. It never changes: all who ask so may share
    it.

    ``starts`` says where each name begins that is to have some of its past. ``wrapped``: each message says its channel
    and cursor. ``transport`` is "stream", "event", "poll" or "websocket". Of the first two, ``head`` has the fields of
    the answer; a poll waits for ``wait`` seconds; a WebSocket has the ``agreement`` of its handshake, and is
    ``verbatim`` if text is published as it is."""

    names: tuple[str, ...]
    filters: Filters
    starts: Mapping[str, Start]
    wrapped: bool
    transport: str
    encoding: Encoding
    head: Fields = ()
    http10: bool = False
    wait: float = 0.0
    agreement: Agreement | None = None
    verbatim: bool = False

    @property
    def is_merged(self) -> bool:
        """No single message's cursor is a position to come back with; of a pattern's, there is none."""
        return is_merged(self.names)

    def refused(self, refusal: Refusal) -> HttpError:
        """The refusal as the client of this transport is told of it."""
        error = HttpError(refusal.status, refusal.detail)
        error.event = self.transport == "event"
        return error


Ask: TypeAlias = "Reply | Publish | Clear | Show | Consume | Subscribe"


def is_merged(names: Sequence[str]) -> bool:
    return len(names) > 1 or names[0].endswith("*")
