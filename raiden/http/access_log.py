"""The log of requests: a line for each answer, where the setting `access_log` asks for it."""

from __future__ import annotations

import logging
import re

from raiden.protocols.heads import Repeated
from raiden.protocols.http import Request

log = logging.getLogger("raiden.access")


class AccessLog:
    """The log of requests, which is written while it is ``on``; a reload may change that. Parameters of a query that
    nobody else should know are hidden: ``_token``, and others by `hide`."""

    def __init__(self, on: bool = False) -> None:
        self.on = on
        self._hidden = {"_token"}
        self.hide()

    def hide(self, *names: str) -> None:
        """Write no values of these parameters from now on."""
        self._hidden.update(names)
        self._secret = re.compile(rf"((?:^|&)(?:{'|'.join(map(re.escape, sorted(self._hidden)))})=)[^&]*")

    def write(self, request: Request | Repeated | None, status: int, remote: str) -> None:
        """Log an answer; that of a stream or a WebSocket when it begins. ``request`` is None where the bytes were no
        request."""
        if isinstance(request, Repeated):
            request = request.request()
        told: dict[str, object] = {"status": status, "remote": remote}
        if request is not None:
            query = self._secret.sub(r"\1...", request.query_string)
            target = request.environ["raiden.path"]
            told |= {"method": request.method, "target": f"{target}?{query}" if query else target}
            told |= {"size": len(request.raw_body), "agent": request.fields.get("user-agent", "")[:200]}
        log.info("request", extra=told)
