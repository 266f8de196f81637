"""Header fields of requests, read strictly: what is sent twice, or is not understood, is refused. Pure."""

from __future__ import annotations

from typing import Final

from raiden.model import labels
from raiden.model.labels import Label
from raiden.model.message import Cursor
from raiden.model.refusals import Forbidden, Invalid
from raiden.protocols.http import Request

# The sites whose pages may do what pages of the server itself may.
_OWN_SITE: Final = ("same-origin", "none")


def one(request: Request, field: str) -> str | None:
    """The value of a field, by its name in lower case; None: there is none. Raises Invalid where it comes twice."""
    value = request.fields.get(field)
    if value is not None and is_repeated(request, field):
        raise Invalid(f"more than one {field} field: send one")
    return value


def is_repeated(request: Request, field: str) -> bool:
    """Whether there is more than one field of this name, in lower case."""
    if len(request.fields) == len(request.raw_headers):
        return False
    return sum([name.lower() == field for name, _ in request.raw_headers]) > 1


def is_of_another_site(request: Request) -> bool:
    """Whether a browser says that a page of another site asks, and not which, as it does for an image (the W3C's Fetch
    Metadata, section 2.3). Other origins are told by ``Origin``."""
    fields = request.fields
    return "origin" not in fields and fields.get("sec-fetch-site", "none") not in _OWN_SITE


def check_takes(request: Request) -> None:
    """Raise Forbidden for a GET that takes something away, a request or messages of a durable subscription, where it
    is made for a page of another site: that could not read it, and nobody else would get it."""
    if is_of_another_site(request):
        raise Forbidden("a page of another site may not take this: use fetch, and list its origin in allowed_origins")


def flag(request: Request, field: str) -> bool:
    """A field that is "true" or "false"; raises Invalid."""
    value = one(request, field)
    if value not in (None, "true", "false"):
        raise Invalid(f"{field.title()} is true or false")
    return value == "true"


def label(request: Request) -> Label | None:
    """What the fields of a publish say of its messages (`raiden.model.labels`); None: nothing. Raises Invalid."""
    return None if labels.FIELDS.keys().isdisjoint(request.fields) else labels.of_fields(request.raw_headers)


def condition(request: Request) -> Cursor | None:
    """The cursor in ``If-Match`` (RFC 9110 section 13.1.1), at which the channel must stand. It may be in quotes, as
    entity tags are. A list, and ``*``, are refused: a channel stands at one place."""
    value = one(request, "if-match")
    if value is None:
        return None
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if value == "*" or "," in value:
        raise Invalid("If-Match is one cursor: the one where the channel must stand, or 0:0 for an empty channel")
    return Cursor.parse(value)
