"""Questions to a delegate: what a client wants to do. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raiden.model import strict_json
from raiden.model.encoding import dumps, json_value, shown_alone
from raiden.model.message import Kind, Message

# The events that a delegate is asked about, and those that it is only told.
ASKED = ("connect", "subscribe", "publish")
TOLD = ("unsubscribe", "disconnect")
EVENTS = (*ASKED, *TOLD)


@dataclass(frozen=True, slots=True)
class Asker:
    """The client that a question is about. ``id`` is its connection's, ``sub`` and ``info`` are its token's (``info``
    may be a delegate's), and ``headers`` are those fields of its request that the delegate takes, by their names in
    lower case."""

    id: str
    sub: str | None
    info: Any
    address: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_info(self, info: Any) -> Asker:
        return replace(self, info=info)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an event. ``channel`` may be a pattern, and is None for those of a connection. ``history``: the
    subscription is to begin in the past. ``message`` is what is to be published."""

    event: str
    client: Asker
    channel: str | None = None
    history: bool = False
    message: Message | None = None

    @property
    def data(self) -> Any:
        """The message's value, as JSON has it; of bytes ``{"base64": ...}``. None where there is no message. Numbers
        that Python can't hold are `raiden.model.strict_json.Digits`."""
        if self.message is None:
            return None
        return strict_json.value(json_value(self.message))

    def to_json(self) -> bytes:
        """The question as an HTTP delegate gets it."""
        client = self.client
        about: dict[str, Any] = {"event": self.event}
        if self.channel is not None:
            about["channel"] = self.channel
        if self.event == "subscribe":
            about["history"] = self.history
        about["client"] = {
            "id": client.id, "sub": client.sub, "info": client.info, "address": client.address,
            "headers": dict(client.headers),
        }  # fmt: skip
        if attributes := self.attributes:
            about["attributes"] = attributes
        text = dumps(about)
        # The payload goes as it was published: reading and writing it might change it.
        return text if self.message is None else b'%b,"data":%b}' % (text[:-1], json_value(self.message))

    @property
    def attributes(self) -> dict[str, Any]:
        """The message's attributes that its subscribers are shown, and ``{"transient": True}`` where it is that."""
        if self.message is None:
            return {}
        told = shown_alone(self.message.attributes)
        shown = strict_json.value(told) if told else {}
        return {**shown, "transient": True} if self.message.transient else shown

    @property
    def key(self) -> bytes:
        """A hash of all that an answer which is kept may depend on: not the connection, and not the message."""
        client = self.client
        told = [self.event, self.channel, self.history, client.sub, client.info, client.address, dict(client.headers)]
        return hashlib.blake2b(dumps(told), digest_size=16).digest()

    @property
    def size(self) -> int:
        """About the bytes that it takes for as long as it is under way."""
        if self.message is None:
            return 1000
        return 1000 + len(self.message.payload) + len(shown_alone(self.message.attributes))


def changed(message: Message, payload: bytes) -> Message:
    """The message with another payload, which is JSON: a text stays a text if it is a string, and bytes stay bytes if
    they are ``{"base64": ...}``."""
    kind, data = Kind.JSON, payload
    if message.kind != Kind.JSON:
        value = strict_json.value(payload)
        if message.kind == Kind.TEXT and isinstance(value, str) and strict_json.is_unicode(value):
            kind, data = Kind.TEXT, value.encode()
        elif message.kind == Kind.BYTES and isinstance(value, dict) and value.keys() == {"base64"}:
            try:
                kind, data = Kind.BYTES, base64.b64decode(value["base64"], validate=True)
            except (ValueError, TypeError):
                pass  # then it is JSON
    return Message(
        message.channel, kind, data, None, message.published, "", message.attributes, message.transient
    )  # fmt: skip
