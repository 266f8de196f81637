"""The names of the dialects that a node can speak."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raiden.model.near import did_you_mean
from raiden.node.settings import Settings

# The modules with the dialects' classes, by the dialect's name; a module is loaded only where the settings name it.
KNOWN: Final[dict[str, str]] = {
    "cable": "raiden.dialects.cable.cable:Cable",
    "centrifuge": "raiden.dialects.centrifuge.dialect:Centrifuge",
    "pusher": "raiden.dialects.pusher.dialect:Pusher",
    "streams": "raiden.dialects.streams.door:StreamsDoor",
}


def check(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is no dialect's, and for one that comes twice."""
    seen: set[str] = set()
    for name in names:
        if name not in KNOWN:
            hint = did_you_mean(str(name), KNOWN, f"; there are {', '.join(sorted(KNOWN))}")
            raise ValueError(f"dialects: there is no dialect {name!r}{hint}")
        if name in seen:
            raise ValueError(f"dialects: {name!r} is there twice")
        seen.add(name)


def warnings(settings: Settings) -> list[str]:
    """The settings that count for nothing, since they are of a dialect that is not open."""
    found = []
    defaults = vars(Settings())
    for dialect in sorted(KNOWN.keys() - set(settings.dialects)):
        for name, default in defaults.items():
            if name.startswith(f"{dialect}_") and getattr(settings, name) != default:
                found.append(f"{name} counts for nothing: dialects does not name {dialect!r}")
    return found
