"""The reasons for which a request gets no answer, and an answer is not taken. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raiden.model.refusals import Invalid, Refusal, Unavailable
from raiden.model.strict_json import is_unicode

# A server's own codes, and the characters of its messages.
MAX_CODE: Final = 9999
MAX_MESSAGE: Final = 1000


class Nobody(Unavailable):
    """Nobody serves the channel."""

    def __init__(self, channel: str) -> None:
        super().__init__(
            f"nobody serves {channel!r}: a server does so by the command serve of /-/websocket, by a long-poll with "
            "_serve=1, or on the REQ door"
        )


class Full(Unavailable):
    """Too many requests are open here already."""


class Late(Refusal):
    """The time of the request is up."""

    status = 504

    def __init__(self, why: str) -> None:
        super().__init__(f"the time is up: {why}")


class Lost(Refusal):
    """The server that had the request has gone, so nobody knows how far it came. ``tried``: another one was looked for
    in vain."""

    status = 502

    def __init__(self, *, tried: bool) -> None:
        more = ": ask again, if the work may be done twice (_again=1, or the member again)"
        if tried:
            more = ", and nobody else serves the channel"
        super().__init__(f"the server that had the request has gone without an answer{more}")


class Failure(Refusal):
    """The server has answered with an error of its own: a ``code``, and a ``message``."""

    status = 502

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"the server has answered with an error: {message}")
        self.code = code
        self.message = message

    @classmethod
    def of(cls, code: Any, message: Any) -> Failure:
        """The error with a code from 1 to `MAX_CODE`, and a message of at most `MAX_MESSAGE` characters; raises
        Invalid."""
        if isinstance(code, bool) or not isinstance(code, int) or not 1 <= code <= MAX_CODE:
            raise Invalid(f"the code of an error is a number from 1 to {MAX_CODE}")
        if not isinstance(message, str) or len(message) > MAX_MESSAGE:
            raise Invalid(f"the message of an error is a string of at most {MAX_MESSAGE} characters")
        if not is_unicode(message):
            raise Invalid("the message of an error must be valid Unicode, without lone surrogates")
        return cls(code, message)

    @property
    def more(self) -> Mapping[str, Any]:
        return {"error": {"code": self.code, "message": self.message}}


class TooLate(Refusal):
    """The answer comes when the request is over."""

    status = 410
