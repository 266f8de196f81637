"""Figures of the durable subscriptions of the whole cluster, from the history."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from raiden.delivery.questions import Questions, TooManyQuestions
from raiden.history.client import LOST, History
from raiden.history.store import FIRST, FiguresAsked, StoreFailed
from raiden.http import parameters
from raiden.model.refusals import Invalid

# Durable subscriptions of a page.
MAX_ROWS = 100


class Queues:
    """Pages of durable subscriptions, of ``history`` (None: this node keeps none)."""

    def __init__(self, history: History | None) -> None:
        def ask(pages: Sequence[FiguresAsked]) -> Sequence[list[Any]]:
            return [[] if history is None else [history.figures(asked)] for asked in pages]

        self._history = history
        self._questions = Questions(ask, at_once=1)

    def page(self, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of the durable subscriptions of channels that begin with ``_prefix``, or of the ``_channel``, with the
        name ``_durable``, behind ``_after``: the ``next`` of another page. Waits; raises Invalid, StoreFailed and
        TooManyQuestions."""
        limit = parameters.number(dict(query), "_limit", MAX_ROWS) if "_limit" in query else MAX_ROWS
        after = _place(query["_after"]) if "_after" in query else FIRST
        names = [query.get(name, "") for name in ("_prefix", "_channel", "_durable")]
        try:
            pages = self._questions.ask(FiguresAsked(after, limit, *names))
        except TooManyQuestions:
            if self._history is not None and not self._history.is_fresh:
                raise StoreFailed(LOST) from None  # all that ask wait for this answer
            raise
        found: dict[str, Any] = {"durables": []}
        for page in pages:
            for row in page.rows:
                oldest = round(row.oldest, 3) if row.lag else None
                found["durables"].append({**row._asdict(), "oldest": oldest})
            if page.next is not None:
                found["next"] = _text(page.next)
        return found


def _text(place: tuple[str, str]) -> str:
    """The place where the next page begins, as a text that needs no escapes in a URL."""
    return base64.urlsafe_b64encode("\0".join(place).encode()).decode().rstrip("=")


def _place(text: str) -> tuple[str, str]:
    padded = text + "=" * (-len(text) % 4)
    try:
        channel, _, name = base64.b64decode(padded, b"-_", validate=True).decode().partition("\0")
    except (binascii.Error, ValueError):
        raise Invalid("_after is the 'next' of the page before, as it came") from None
    return channel, name
