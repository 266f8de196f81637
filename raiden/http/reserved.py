"""Reserved paths, which are no channels, because browsers, crawlers and probes ask for them by themselves: as a
subscription, such a request would never end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from raiden.protocols.http import HttpError, Json

# The pages to use instead of such a path.
_PAGES = {
    "metrics": "/-/metrics", "health": "/-/health", "healthz": "/-/health", "ready": "/-/ready",
    "readyz": "/-/ready",
}  # fmt: skip
NO_ICON = Json(204, b"")


class Reserved:
    """The reserved paths. ``names`` are paths without their first slash, decoded; a name that ends in ``*`` stands for
    all that begin so. This object does not change."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = frozenset(name for name in names if not name.endswith("*"))
        self._prefixes = tuple(name[:-1] for name in names if name.endswith("*"))

    def has(self, name: str) -> bool:
        return name in self._names or name.startswith(self._prefixes)

    def answer(self, method: str, name: str) -> Json:
        """Answer a request for a reserved path: with nothing where a browser looks for an icon; otherwise raise
        HttpError 404, which says where to look."""
        if name == "favicon.ico" and method in ("GET", "HEAD"):
            return NO_ICON
        page = f"see {_PAGES[name]}" if name in _PAGES else "to make it one, take it out of reserved_paths"
        raise HttpError(404, f"/{name[:100]} is no channel: {page}")
