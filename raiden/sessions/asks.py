"""Asks: a request or a command, as it was read, whichever protocol it came by. Asks stand between reading a request,
which knows the protocol and does nothing, and doing it, which knows no protocol. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import webob

from raiden.access.revocations import Revocation
from raiden.history.conditions import ANYWHERE
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.labels import Label
from raiden.model.message import Cursor, Message
from raiden.model.page import Read, Start
from raiden.model.refusals import Refusal, TooFast
from raiden.protocols.http import Fields, HttpError, Json
from raiden.protocols.websocket import Agreement
from raiden.requests.refusals import Failure

# Claimed and not acknowledged messages of one consumer.
WINDOW, MAX_WINDOW = 16, 1000
# Seconds for which a claim holds.
ACK_WAIT, MIN_ACK_WAIT, MAX_ACK_WAIT = 30.0, 1.0, 3600.0
# Seconds that a message may be put off when it is given back.
MAX_NACK_DELAY = 86400.0
# Seconds for which the answer of a server is waited for.
TIMEOUT, MIN_TIMEOUT, MAX_TIMEOUT = 10.0, 0.1, 60.0

Cursors: TypeAlias = "Sequence[Sequence[Cursor]]"


class Reply(NamedTuple):
    """The answer of a request for which nothing is to be done."""

    answer: webob.Response | Json


class Publish(NamedTuple):
    """Publish groups of messages, each of one channel, all or none; only where the channels in ``at`` stand at these
    cursors. ``answer`` makes the answer's body of the groups and their cursors. ``prefix`` is the part of the channel's
    name before the target, where another request with this head and another target is as simple (None: it is not); its
    message has the same ``label``, if there is one."""

    groups: Sequence[Sequence[Message]]
    key: str | None
    answer: Callable[[Sequence[Sequence[Message]], Cursors], bytes]
    prefix: str | None = None
    at: Mapping[str, Cursor] = ANYWHERE
    label: Label | None = None


class PublishLines(NamedTuple):
    """Publish the lines of a body as they come, at most ``most`` of them together: JSON, or texts in a ``charset``. The
    first are published only where the channel stands ``at`` a cursor, if any; ``ends``: the channel ends behind the
    last one. Each has the ``label``, if there is one."""

    channel: str
    charset: str | None
    ends: bool
    at: Cursor | None
    most: int
    label: Label | None = None


class Clear(NamedTuple):
    """Delete a channel: its history, and its subscriptions."""

    channel: str


class Revoke(NamedTuple):
    """Accept the tokens of a subject, or one token, no longer, on all nodes."""

    revocation: Revocation


class Disconnect(NamedTuple):
    """End the connections of a subject, on all nodes, or only what they have of one channel or pattern."""

    subject: str
    channel: str | None


class Members(NamedTuple):
    """Tell who is at a channel."""

    channel: str


class Show(NamedTuple):
    """A page below ``/-/``, by its path there."""

    page: str


class Consume(NamedTuple):
    """Claim messages of a durable subscription, ``limit`` at most, for ``ack_wait`` seconds each. A new durable begins
    ``since`` a cursor (None: now). Before claiming, acknowledge and give back some claimed messages; the latter come
    again after ``nack_delay`` seconds. Where there are none to claim, ``wait`` for so many seconds."""

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
    """Subscribe to channels and patterns; none: commands will name them. A `Subscribe` never changes: equal requests
    may share it.

    ``starts`` has the start of each name with some of its past. ``wrapped``: each message says its channel and cursor.
    ``transport`` is "stream", "event", "poll" or "websocket". For the first two, ``head`` has the fields of the answer;
    a poll waits for ``wait`` seconds; a WebSocket has the ``agreement`` of its handshake, and is ``verbatim`` if text
    is published as it is. ``presence``: the client watches who is at its channels; by channel, the digest of the list
    of members that it has, if any."""

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
    presence: Mapping[str, str] | None = None

    @property
    def is_merged(self) -> bool:
        """Whether no single message's cursor is a position to come back with; a pattern has no position."""
        return is_merged(self.names)

    def refused(self, refusal: Refusal) -> HttpError:
        """The refusal as the client of this transport is told of it."""
        error = HttpError(refusal.status, refusal.detail)
        error.event = self.transport == "event"
        error.too_fast = refusal if isinstance(refusal, TooFast) else None
        return error


class Call(NamedTuple):
    """Ask one of those that serve the message's channel, and wait for the answer, at most ``timeout`` seconds.
    ``again``: where that server goes, ask another one, though the work may be done twice."""

    message: Message
    timeout: float
    again: bool


class Take(NamedTuple):
    """Serve a channel: take one request, for which to ``wait`` so many seconds."""

    channel: str
    wait: float


class Respond(NamedTuple):
    """Answer the ``request`` of this id, or fail. The channel of the message counts for nothing."""

    request: str
    outcome: Message | Failure


class Serve(NamedTuple):
    """Serve a channel for as long as the connection lasts, with at most ``window`` requests that are not answered."""

    channel: str
    window: int


class Unserve(NamedTuple):
    """Serve a channel no longer."""

    channel: str


class PublishOne(NamedTuple):
    """Publish one message, under a ``key`` if any, and only where the channel stands ``at`` a cursor, if any. They are
    still to be checked."""

    message: Message
    key: Any
    at: Cursor | None = None


class Follow(NamedTuple):
    """Subscribe to one more channel or pattern, from ``start`` on (None: the next messages). ``presence``: the client
    watches who is at the channel."""

    name: str
    filters: Filters
    start: Start | None
    presence: bool = False


class Unfollow(NamedTuple):
    """End the subscription to a channel or pattern."""

    name: str


class Join(NamedTuple):
    """Consume a durable subscription for as long as the connection lasts, at most ``window`` messages that are not
    acknowledged, each claimed for ``ack_wait`` seconds. A new durable begins ``since`` a cursor (None: now). Where the
    client does not acknowledge, a message is ``settled`` once it was sent."""

    channel: str
    durable: str
    window: int
    ack_wait: float
    since: Cursor | None
    settled: bool


class Leave(NamedTuple):
    """Consume a durable subscription no longer; ``forget``: it ends for all."""

    channel: str
    durable: str
    forget: bool


class Settle(NamedTuple):
    """Acknowledge messages of a durable subscription that were claimed, or where they are ``rejected``, give them back:
    they come again after ``delay`` seconds."""

    channel: str
    durable: str
    cursors: Sequence[Cursor]
    rejected: bool
    delay: float


class Keep(NamedTuple):
    """Let the connection's subscriptions outlive it, as a session that can be resumed."""


class Resume(NamedTuple):
    """Get the subscriptions of a session back, each from its place, or from the place in ``since``."""

    session: str
    since: Mapping[str, Cursor]


class Renew(NamedTuple):
    """Show another token of the same subject, before the present one ends."""

    token: str


class Ping(NamedTuple):
    """Ask for a reply and nothing else."""


class Hello(NamedTuple):
    """Ask for the connection's id."""


Ask: TypeAlias = (
    "Reply | Publish | PublishLines | Clear | Revoke | Disconnect | Show | Consume | Subscribe | Call | Take | Respond"
)
"""The ask of a request."""
Command: TypeAlias = (
    PublishOne | Follow | Unfollow | Read | Members | Join | Leave | Settle | Keep | Resume | Renew | Ping | Hello
    | Call | Serve | Unserve | Respond
)  # fmt: skip
"""The ask of a command, on a connection that takes commands."""


def is_merged(names: Sequence[str]) -> bool:
    return len(names) > 1 or names[0].endswith("*")
