"""Refusals of the backbone: the backbone is full, or a subscription is not known to hold. Pure."""

from __future__ import annotations

from raiden.model.refusals import Unavailable


class BackboneFull(Unavailable):
    """The backbone takes no more now; the message was not published. Try again later."""

    def __init__(self, detail: str = "the backbone is full: try again later") -> None:
        super().__init__(detail)


class NotInForce(Unavailable):
    """The backbone did not confirm the subscriptions in time."""
