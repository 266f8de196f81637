"""Forms: the fields of an `application/x-www-form-urlencoded` body (https://url.spec.whatwg.org/#urlencoded-parsing).
Pure.

The standard library reads them in a loop over the escapes, and 1 MiB of these would keep a worker busy for 0.2 s.
"""

from __future__ import annotations

import binascii
import re

# Fields of a form.
MAX_FIELDS = 1000

_NO_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")


class TooManyFields(ValueError):
    """The form has more than `MAX_FIELDS`."""


def fields(body: bytes) -> dict[str, str | list[str]]:
    """The values by name; a list where a name comes several times. Raises UnicodeDecodeError for a body that is not
    UTF-8, and TooManyFields."""
    if body.count(b"&") >= MAX_FIELDS:
        raise TooManyFields
    body.decode()  # an escape completes no character that has begun without one
    found: dict[str, list[str]] = {}
    for pair in body.replace(b"+", b" ").split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            found.setdefault(_unescaped(name), []).append(_unescaped(value))
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _unescaped(text: bytes) -> str:
    if b"%" in text:
        # Quoted-printable (RFC 2045 section 6.7) is the same with another sign, and has a reader in C. Other characters
        # with a meaning there are escaped.
        text = _NO_ESCAPE.sub(b"%25", text)
        text = text.replace(b"=", b"%3D").replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b"%", b"=")
        text = binascii.a2b_qp(text)
    return text.decode()
