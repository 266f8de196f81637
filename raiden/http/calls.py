"""Requests of HTTP clients that ask a server, serve, or answer, read into asks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raiden.http import headers, parameters
from raiden.model import payload
from raiden.model.message import Kind, Message
from raiden.model.names import check_channel
from raiden.model.refusals import Invalid
from raiden.protocols.http import Request
from raiden.requests.refusals import MAX_CODE, Failure
from raiden.sessions.asks import MAX_TIMEOUT, MIN_TIMEOUT, Call, Respond, Take

_Pairs = Sequence[tuple[str, str]]
# Fields that say something of a message, which would be no more true of a request.
_OF_MESSAGES: Final = (
    "idempotency-key", "if-match", "raiden-end", "raiden-event", "raiden-tags", "raiden-transient", "raiden-except",
)  # fmt: skip
# Characters of a request's id.
_MAX_ID: Final = 64


def is_call(pairs: _Pairs) -> bool:
    """Whether the query of a POST asks a server."""
    return any([key == "_request" for key, _ in pairs])


def is_taking(pairs: _Pairs) -> bool:
    """Whether the query of a GET serves."""
    return any([key == "_serve" for key, _ in pairs])


def call(request: Request, channel: str, pairs: _Pairs, max_message: int) -> Call:
    """Read ``POST /{channel}?_request=5``, with ``_again=1``; raises Invalid, InvalidPayload and TooLarge."""
    parameters.check(pairs, parameters.REQUEST)
    query = dict(pairs)
    timeout = parameters.seconds(query, "_request", MIN_TIMEOUT, MAX_TIMEOUT)
    if field := next((field for field in _OF_MESSAGES if field in request.fields), None):
        raise Invalid(f"a request has no {field.title()}: it is no message that is published")
    return Call(Message(channel, *_body(request, max_message)), timeout, parameters.flag(query, "_again"))


def take(request: Request, names: Sequence[str], pairs: _Pairs, max_wait: float) -> Take:
    """Read ``GET /{channel}?_serve=1&_wait=25``; raises Invalid."""
    parameters.check(pairs, parameters.SERVE)
    query = dict(pairs)
    if not parameters.flag(query, "_serve"):
        raise Invalid("_serve is 1, like _serve=1")
    if other := next((key for key, _ in pairs if not key.startswith("_")), None):
        raise Invalid(f"{other[:100]} would be a filter: a server takes all requests of its channel")
    if len(names) != 1 or request.upgrade:
        raise Invalid("a long-poll serves one channel: for more, use the command serve of /-/websocket")
    wait = parameters.wait(request, query)
    if wait is None or request.method != "GET":
        raise Invalid("to serve is a long-poll: GET with _serve=1&_wait=25")
    headers.check_takes(request)
    return Take(check_channel(names[0]), min(wait, max_wait))


def answer(request: Request, id: str, max_message: int) -> Respond:
    """Read ``POST /-/answer/ID``; with ``_error=CODE`` the body, a text, is the message of an error. Raises Invalid,
    InvalidPayload and TooLarge."""
    pairs = parameters.query_pairs(request)
    parameters.check(pairs, parameters.ANSWER)
    query = dict(pairs)
    if not 0 < len(id) <= _MAX_ID:
        raise Invalid("this is no id of a request: POST /-/answer/ID, with the id as it came (Raiden-Request)")
    if "_error" not in query:
        return Respond(id, Message("", *_body(request, max_message)))
    code = parameters.number(query, "_error", MAX_CODE)
    try:
        text = request.raw_body.decode()
    except UnicodeDecodeError:
        raise Invalid("the message of an error is a text in UTF-8") from None
    return Respond(id, Failure.of(code, text))


def _body(request: Request, max_message: int) -> tuple[int, bytes]:
    content_type = headers.one(request, "content-type") or ""
    if payload.is_batch(content_type):
        raise Invalid("a request, or an answer, is one message: send it as application/json")
    return payload.of_type(content_type, request.raw_body, max_message)


def content_type(kind: int) -> str:
    """The type of a body with a payload of this kind."""
    return {Kind.JSON: "application/json", Kind.TEXT: "text/plain; charset=utf-8"}.get(kind, "application/octet-stream")
