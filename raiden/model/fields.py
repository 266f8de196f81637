"""Values of header fields: lists, and values with parameters (RFC 9110 sections 5.6.1 and 5.6.6). Pure.

Content types come here from HTTP and from the frames of ZeroMQ clients. Text is Latin-1, as HTTP's bytes are.
"""

from __future__ import annotations

import re

# Characters of a value with its parameters. So a cache of values is bounded in bytes, too.
MAX_LENGTH = 1024

# A token (RFC 9110 section 5.6.2), as a regular expression.
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_PARAMETER = re.compile(rf"[ \t]*+;[ \t]*+(?:({TOKEN})=({TOKEN}|{_QUOTED}))?")
_PAIR = re.compile(r"\\(.)")
# A member of a list, up to the comma.
_MEMBER = re.compile(rf"(?:[^\",]|{_QUOTED})*+")


def split(text: str) -> list[str]:
    """The members of a list that commas separate, without the empty ones; a comma in quotes separates nothing. Raises
    ValueError where a quoted string has no end."""
    found, at = [], 0
    while at <= len(text):
        member = _MEMBER.match(text, at)
        assert member is not None
        at = member.end() + 1
        if at <= len(text) and text[at - 1] != ",":
            raise ValueError("a quoted string has no end")
        if value := member[0].strip(" \t"):
            found.append(value)
    return found


def parse(text: str) -> tuple[str, dict[str, str]]:
    """A value and its parameters: ``text/plain; charset="utf-8"`` is ``text/plain`` and ``{"charset": "utf-8"}``. The
    value and the parameters' names are in small letters. Raises ValueError for a text longer than `MAX_LENGTH`, for
    malformed parameters (white space around ``=`` is such a fault), and for one that comes twice."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it is longer than {MAX_LENGTH} characters")
    at = text.find(";")
    if at < 0:
        return text.strip(" \t").lower(), {}
    value, parameters = text[:at].strip(" \t").lower(), dict[str, str]()
    text = text.rstrip(" \t")
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None:
            raise ValueError("its parameters must be like '; name=value', without white space around '='")
        at = found.end()
        name, given = found.groups()
        if name is None:
            continue  # a semicolon alone
        if name.lower() in parameters:
            raise ValueError("it has a parameter twice")
        parameters[name.lower()] = _PAIR.sub(r"\1", given[1:-1]) if given.startswith('"') else given
    return value, parameters
