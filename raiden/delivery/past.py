"""The past of channels, for clients that ask for it by whichever door."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raiden.backend import Backend
from raiden.history.client import History
from raiden.model.page import Page, Read
from raiden.model.refusals import Invalid, NoHistory


def reader(backend: Backend, ask: Read) -> Callable[[], Page]:
    """The call that reads the page that is asked for: it waits, and raises StoreFailed. Raises NoHistory."""
    found = backend.history
    if found is None or not backend.keeps(ask.channel):
        raise NoHistory
    return partial(found.before if ask.backwards else found.after, ask.channel, ask.cursor, ask.limit)


def history(backend: Backend) -> History:
    """The history of the node, also for channels that keep none any more; raises Invalid where it has none."""
    if backend.history is None:
        raise Invalid("this node keeps no history (store = 'none')")
    return backend.history
