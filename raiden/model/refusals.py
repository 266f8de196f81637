"""Refusals: the reasons why a request is not done, whichever door it came in by.

Each layer raises its own kinds, which inherit from the classes here; the doors let `attempt` call functions that may
refuse, and write the refusal in their own form: a response, a reply to a command, an answer's frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Refusal(Exception):
    """A request that is not done. ``status`` is an HTTP status (RFC 9110 section 15) in every protocol, and ``detail``
    tells the client what to do."""

    status: int = 500

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def more(self) -> Mapping[str, Any]:
        """Further members of the problem, or of the error of a command."""
        return {}


class Invalid(Refusal):
    """The request is malformed, or contradicts itself."""

    status = 400


class Unauthorized(Refusal):
    """The client has not shown who it is; ``bad``: what it has shown is not accepted (RFC 6750 section 3.1)."""

    status = 401

    def __init__(self, detail: str, *, bad: bool = False) -> None:
        super().__init__(detail)
        self.bad = bad


class Forbidden(Refusal):
    """The client may not do that."""

    status = 403


class NotFound(Refusal):
    """The thing that the request names does not exist."""

    status = 404


class Conflict(Refusal):
    """The request does not fit what was done before."""

    status = 409


class PreconditionFailed(Refusal):
    """The condition that the client has set does not hold. ``cursor`` tells where the channel stands."""

    status = 412

    def __init__(self, detail: str, cursor: str) -> None:
        super().__init__(detail)
        self.cursor = cursor

    @property
    def more(self) -> Mapping[str, Any]:
        return {"cursor": self.cursor}


class TooLarge(Refusal):
    """The request has more bytes, or more parts, than a limit allows."""

    status = 413


class TooManyRequests(Refusal):
    """The client has too many requests under way."""

    status = 429


class TooFast(TooManyRequests):
    """The client does something more often than a limit of the server allows. ``policy`` is the limit's name, and
    ``quota`` the number that it allows at once, which come anew within ``window`` seconds. ``left`` of them may be done
    now; the request may be made again in ``wait`` seconds."""

    def __init__(self, detail: str, *, policy: str, quota: int, window: int, left: int, wait: float) -> None:
        super().__init__(detail)
        self.policy = policy
        self.quota = quota
        self.window = window
        self.left = left
        self.wait = wait


class Unavailable(Refusal):
    """The node can't do it now: try again later."""

    status = 503


class NoHistory(NotFound):
    """The channel has no history."""

    def __init__(self) -> None:
        super().__init__("the channel keeps no history: set its history_size, and a store")


class Fault(Refusal):
    """An error of the server's own, or of an application's `channel_builder`."""

    def __init__(self) -> None:
        super().__init__("the server failed; its log says why")


def attempt(what: str, work: Callable[..., Result], *arguments: object, **extra: object) -> Result | Refusal:
    """Call ``work``, and return its result or its refusal. Any other exception is logged as the failure of ``what``,
    with these ``extra`` values, and ends only this request."""
    try:
        return work(*arguments)
    except Refusal as refusal:
        # Its frames, and those of exceptions before it, would keep what the client has sent.
        refusal.__context__ = refusal.__cause__ = None
        return refusal.with_traceback(None)
    except Exception:  # whatever it is: it ends no more than this request
        log.exception("%s failed", what, extra=extra)
        return Fault()
