"""The past of channels, for clients of all doors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raiden.history.client import History
from raiden.model.page import Page, Read
from raiden.model.refusals import Invalid, NoHistory


def reader(history: History | None, ask: Read, *, keeps: bool) -> Callable[[], Page]:
    """Return the call that reads the page that is asked for: that call waits, and raises StoreFailed. Raises NoHistory
    where the channel keeps none."""
    if history is None or not keeps:
        raise NoHistory
    return partial(history.before if ask.backwards else history.after, ask.channel, ask.cursor, ask.limit)


def required(history: History | None) -> History:
    """The history of the node, also for channels that keep none any more; raises Invalid where it has none."""
    if history is None:
        raise Invalid("this node keeps no history (store = 'none')")
    return history
