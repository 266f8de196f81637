"""Codes of errors, of ended subscriptions and of closed connections (centrifuge: errors.go, unsubscribe.go,
disconnect.go). Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from raiden.dialects.centrifuge.messages import Error
from raiden.model.refusals import Forbidden, Invalid, Refusal, TooLarge, TooManyRequests, Unauthorized
from raiden.sessions import over
from raiden.sessions.over import Over


class Code(NamedTuple):
    """A code, with the reason that the client is told."""

    code: int
    reason: str


INTERNAL: Final = Error(100, "internal server error", True)
PERMISSION_DENIED: Final = Error(103, "permission denied")
METHOD_NOT_FOUND: Final = Error(104, "method not found")
ALREADY_SUBSCRIBED: Final = Error(105, "already subscribed")
LIMIT_EXCEEDED: Final = Error(106, "limit exceeded")
BAD_REQUEST: Final = Error(107, "bad request")
NOT_AVAILABLE: Final = Error(108, "not available")
TOKEN_EXPIRED: Final = Error(109, "token expired")
EXPIRED: Final = Error(110, "expired")
TOO_MANY_REQUESTS: Final = Error(111, "too many requests", True)
UNRECOVERABLE: Final = Error(112, "unrecoverable position")

UNSUBSCRIBED: Final = Code(2000, "server unsubscribe")
# From 2500 on, the client subscribes again.
INSUFFICIENT: Final = Code(2500, "insufficient state")
SUBSCRIPTION_EXPIRED: Final = Code(2501, "expired")

# Of a closed connection: from 3500 to 3999 the client does not come back.
CLOSED: Final = Code(3000, "connection closed")
SHUTDOWN: Final = Code(3001, "shutdown")
INTERNAL_ERROR: Final = Code(3004, "internal server error")
CONNECTION_EXPIRED: Final = Code(3005, "connection expired")
SLOW: Final = Code(3008, "slow")
STATE_LOST: Final = Code(3010, "insufficient state")
NO_PONG: Final = Code(3012, "no pong")
INVALID_TOKEN: Final = Code(3500, "invalid token")
BAD: Final = Code(3501, "bad request")
STALE: Final = Code(3502, "stale")
FORCED: Final = Code(3503, "force disconnect")
CHANNEL_LIMIT: Final = Code(3505, "channel limit")
DENIED: Final = Code(3507, "permission denied")
UNAVAILABLE: Final = Code(3508, "not available")
# The codes of this protocol, by the reasons of the node's own.
_OF_RAIDEN: Final = {
    over.REVOKED: INVALID_TOKEN, over.DRAINING: SHUTDOWN, over.SLOW: SLOW, over.FAILED: INTERNAL_ERROR,
}  # fmt: skip


class Failed(Refusal):
    """A command is answered with an error."""

    status = 400

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error
        if error is TOKEN_EXPIRED:
            self.status = 401


class Denied(Failed):
    """A client may not do an action to a channel."""

    status = 403

    def __init__(self, action: str, channel: str) -> None:
        super().__init__(PERMISSION_DENIED)
        self.action = action
        self.channel = channel


class Disconnected(Refusal):
    """A command closes the connection."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.reason)
        self.code = code
        self.status = {INVALID_TOKEN: 401, DENIED: 403}.get(code, 400)


def of(reason: Over) -> Code:
    """The code by which a connection is closed for a reason of the node's."""
    return _OF_RAIDEN.get(reason, FORCED)


def error_of(refusal: Refusal) -> Error:
    """The error for a refusal. Those that pass are temporary: the client tries again."""
    if isinstance(refusal, Failed):
        return refusal.error
    if isinstance(refusal, Forbidden | Unauthorized):
        return PERMISSION_DENIED
    if isinstance(refusal, TooManyRequests):
        return TOO_MANY_REQUESTS
    if isinstance(refusal, TooLarge):
        return LIMIT_EXCEEDED
    if isinstance(refusal, Invalid):
        return BAD_REQUEST
    # What stands against it, as the end of a channel, does not pass by itself.
    return NOT_AVAILABLE if refusal.status < 500 else INTERNAL
