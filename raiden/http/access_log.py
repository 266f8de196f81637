"""The log of requests: a line for each answer, where the setting `access_log` asks for it."""

from __future__ import annotations

import logging
import re

from raiden.protocols.heads import Repeated
from raiden.protocols.http import Request

log = logging.getLogger("raiden.access")

# The part of a query that nobody else should know.
_SECRET = re.compile(r"((?:^|&)_token=)[^&]*")


class AccessLog:
    """The log of requests, which is written while it is ``on``; a reload may change that."""

    def __init__(self, on: bool = False) -> None:
        self.on = on

    def write(self, request: Request | Repeated | None, status: int, remote: str) -> None:
        """Log an answer; that of a stream or a WebSocket when it begins. ``request`` is None where the bytes were no
        request."""
        if isinstance(request, Repeated):
            request = request.request()
        told: dict[str, object] = {"status": status, "remote": remote}
        if request is not None:
            query = _SECRET.sub(r"\1...", request.query_string)
            target = request.environ["raiden.path"]
            told |= {"method": request.method, "target": f"{target}?{query}" if query else target}
            told |= {"size": len(request.raw_body), "agent": request.fields.get("user-agent", "")[:200]}
        log.info("request", extra=told)
