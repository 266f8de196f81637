"""The beginning of a subscription of a dialect's client."""

from __future__ import annotations

from raiden.delivery.table import TooManyChannels
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.page import Start
from raiden.sessions.recovery import Beginning
from raiden.sessions.session import Session


def follow(
    session: Session, name: str, encode: Encoding, filters: Filters | None = None, start: Start | None = None
) -> Beginning:
    """Subscribe to a channel, from ``start`` on (None: from now on), and wait until that is in force. Then the caller
    tells the client, and lets the subscription go on by `Session.begin` or `Session.attach`, before anything yields.
    Raises a refusal, after which nothing is subscribed."""
    try:
        session.subscribe(name, encode, filters)
    except TooManyChannels:
        session.subscriptions.pop(name, None)
        raise
    mine = session.subscriptions[name]
    try:
        return Beginning(session.router, (name,), {} if start is None else {name: start})
    except BaseException:  # raised again
        if session.has(mine):
            session.unsubscribe(name)
        raise
