"""Publishing of what clients have asked for: the last checks, and the sender that messages show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from raiden.access.permit import Permit
from raiden.delivery.publisher import Answered
from raiden.model.attributes import NOBODY, Attributes
from raiden.model.message import Message
from raiden.model.payload import check_message, check_terms
from raiden.router import Router
from raiden.sessions.asks import PublishOne


def sign(messages: Sequence[Message], permit: Permit | None, max_message: int) -> None:
    """Let messages of one channel say who publishes them, if the channel shows that (`show_from`); the client has this
    permit. Raises TooLarge for a message that has no room for it."""
    sender = permit.sender(messages[0].channel) if permit is not None and messages else NOBODY
    if sender:
        for message in messages:
            message.attributes = replace(message.attributes or Attributes(), sender=sender)
            check_message(message, max_message)


def publish_one(
    router: Router, permit: Permit | None, ask: PublishOne, max_message: int, done: Answered, asker: Any
) -> None:  # fmt: skip
    """Publish a message for the client that has this permit, and tell ``asker`` as `Publisher.publish_one` does. Raises
    TooLarge, and InvalidPayload for terms on which it can't be."""
    message, key, at = ask
    check_terms(message, key, at, keeps=router.keeps(message.channel))
    check_message(message, max_message)
    sign((message,), permit, max_message)
    router.publisher.publish_one(message, done, asker, key, at)
