"""Places in a stream, as clients have them: ``offset_proof``, both as decimal numbers of 16 digits. Pure.

The offset is that of the last message before the place, and the proof is that message's, so a place of another stream,
or of another life of this one, is known as such. Places of one stream are in the order of their texts.
"""

from __future__ import annotations

import re
from typing import Final

from raiden.model.message import Cursor
from raiden.model.refusals import Invalid

START: Final = Cursor("", 0)

_PLACE = re.compile(r"(\d{16})_(\d{16})", re.ASCII)


def token(place: Cursor) -> str:
    """The text of a place."""
    return f"{place.offset:016d}_{int(place.proof or '0', 16):016d}"


def parse(text: str) -> Cursor:
    """The place of a text; its epoch is not known. Raises Invalid."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise Invalid("an offset is -1, now, or a Stream-Next-Offset as it was received")
    offset = int(found[1])
    return Cursor("", offset, f"{int(found[2]):012x}" if offset else "")
