"""Header fields of a publish, read strictly: what is sent twice, or is not understood, is refused. Pure."""

from __future__ import annotations

from raiden.model import labels
from raiden.model.labels import Label
from raiden.model.message import Cursor
from raiden.model.refusals import Invalid
from raiden.protocols.http import Request


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


def flag(request: Request, field: str) -> bool:
    """A field that is "true" or "false"; raises Invalid."""
    value = one(request, field)
    if value not in (None, "true", "false"):
        raise Invalid(f"{field} is true or false")
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
