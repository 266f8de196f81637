"""Streams that would begin behind the end of all their channels.

A browser's EventSource comes back again and again, with the last id that it got, unless the answer is 204 (the HTML
standard, section 9.2.2).
"""

from __future__ import annotations

import webob

from raiden.router import Router
from raiden.sessions.asks import Subscribe
from raiden.sessions.in_band import Told
from raiden.sessions.recovery import Beginning


def is_over(router: Router, ask: Subscribe, beginning: Beginning | None = None) -> bool:
    """Whether nothing would come on a stream; with its ``beginning``, if that is known."""
    if not ask.starts or ask.transport not in ("stream", "event"):
        return False
    for name, start in ask.starts.items():
        end = router.at_end(name)
        place = start.cursor if beginning is None else beginning.place(name)
        if end is None or place is None or place.place != end.place:
            return False
    return True


def answer(told: Told) -> webob.Response:
    """The answer where nothing would come."""
    response = webob.Response(status=204, content_type=None)
    response.headers.update({**told.fields(), "Raiden-End": "true"})
    return response
