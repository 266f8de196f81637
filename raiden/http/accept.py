"""The ``Accept`` field (RFC 9110 section 12.5.1), and the choice among several forms by it. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from raiden.model import fields

_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


class Range(NamedTuple):
    """Media types that are accepted: ``text/html``, ``text/*`` or ``*/*``, with a quality from 0 (not at all) to 1."""

    kind: str
    subkind: str
    quality: float

    def covers(self, media_type: str) -> bool:
        kind, _, subkind = media_type.partition("/")
        return self.kind in ("*", kind) and self.subkind in ("*", subkind)

    @property
    def exactness(self) -> int:
        return (self.kind != "*") + (self.subkind != "*")


@functools.lru_cache(64)
def _ranges(accept: str) -> tuple[Range, ...]:
    found = []
    try:
        members = fields.split(accept)
    except ValueError:
        return ()
    for member in members:
        try:
            media_range, parameters = fields.parse(member)
        except ValueError:
            continue
        kind, slash, subkind = media_range.partition("/")
        quality = parameters.get("q", "1")
        if slash and _QUALITY.fullmatch(quality):
            found.append(Range(kind, subkind, float(quality)))
    return tuple(found)


def choose(accept: str | None, forms: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the form that the client accepts best; None where it accepts no media type of any form. A client without
    the field, or with an empty one, accepts all. Among forms that are accepted equally, the one that is named more
    exactly wins, then the one that the client names first, then the first of ``forms``.
    """
    if accept is not None and len(accept) > fields.MAX_LENGTH:
        accept = accept[: fields.MAX_LENGTH].rpartition(",")[0]  # the cache is bounded in bytes
    ranges = _ranges(accept) if accept else ()
    if not ranges:
        return next(iter(forms))
    best, chosen = (0.0, 0, 0), None
    for form, media_types in forms.items():
        for media_type in media_types:
            # "The most specific reference has precedence" (RFC 9110 section 12.5.1).
            fitting = [(found.exactness, -at) for at, found in enumerate(ranges) if found.covers(media_type)]
            if fitting:
                exactness, at = max(fitting)
                rank = (ranges[-at].quality, exactness, at)
                if rank[0] > 0 and (chosen is None or rank > best):
                    best, chosen = rank, form
    return chosen
