"""The requests of the server API, and its answers (centrifugo: internal/apiproto/api.proto). Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec
from msgspec import Raw

from raiden.dialects.centrifuge import codes
from raiden.dialects.centrifuge.codes import Failed
from raiden.dialects.centrifuge.messages import EMPTY, ClientInfo, Error, Part, StreamPosition
from raiden.model.attributes import Attributes
from raiden.model.message import Kind, Message
from raiden.model.strict_json import InvalidPayload, json_payload

# Channels of a broadcast, commands of a batch.
MOST: Final = 1000
# Tags of a message.
MAX_TAGS: Final = 16
# The status of an error, where the client wants one.
STATUSES: Final = {100: 500, 102: 404, 104: 404, 107: 400, 108: 400, 112: 416, 113: 409}


class Content(Part):
    """What is published. ``data`` is any JSON; ``b64data`` has bytes in base64, which are JSON if they look so."""

    data: Raw = EMPTY
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] = {}
    idempotency_key: str = ""
    version: int = 0

    def message(self, channel: str) -> Message:
        """The message that this is on a channel; raises Failed."""
        if self.version or len(self.tags) > MAX_TAGS:
            raise Failed(codes.BAD_REQUEST)
        kind, body = Kind.JSON, bytes(self.data)
        try:
            if self.b64data:
                body = base64.b64decode(self.b64data, validate=True)
                kind = Kind.BYTES
            body, kind = json_payload(body), Kind.JSON
        except binascii.Error:
            raise Failed(codes.BAD_REQUEST) from None
        except InvalidPayload:
            if kind == Kind.JSON:
                raise Failed(codes.BAD_REQUEST) from None
        message = Message(channel, kind, body, transient=self.skip_history)
        if self.tags:
            message.attributes = Attributes(tags=self.tags)
        return message


class PublishAsk(Content):
    channel: str = ""


class BroadcastAsk(Content):
    channels: list[str] = []


class Whose(Part):
    """The connections that a request is for: those of a ``user``, or the ``client``, or the ``session``."""

    user: str = ""
    client: str = ""
    session: str = ""

    def check(self) -> None:
        """Raise Failed for a request that is for nobody."""
        if not (self.user or self.client or self.session):
            raise Failed(codes.BAD_REQUEST)


class SubscribeAsk(Whose):
    channel: str = ""
    info: Raw = EMPTY
    data: Raw = EMPTY
    recover_since: StreamPosition | None = None
    expire_at: int = 0


class UnsubscribeAsk(Whose):
    channel: str = ""


class Reason(Part):
    code: int = codes.FORCED.code
    reason: str = codes.FORCED.reason


class DisconnectAsk(Whose):
    whitelist: list[str] = []
    disconnect: Reason | None = None


class RefreshAsk(Whose):
    expired: bool = False
    expire_at: int = 0
    info: Raw = EMPTY


class ChannelAsk(Part):
    channel: str = ""


class HistoryAsk(Part):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class ChannelsAsk(Part):
    pattern: str = ""


class InfoAsk(Part):
    pass


class BatchAsk(Part):
    commands: list[dict[str, Raw]] = []
    parallel: bool = False


class Place(Part):
    """Where a message stands."""

    offset: int = 0
    epoch: str = ""


class Response(Part):
    """The answer about one of several channels."""

    result: Place | None = None
    error: Error | None = None


class Answer(msgspec.Struct):
    """A result whose members are always there."""


class Responses(Answer):
    responses: list[Response]


class Count(Part):
    num_clients: int = 0


class Counts(Answer):
    channels: dict[str, Count]


class Members(Answer):
    presence: dict[str, ClientInfo]


class Node(Part):
    """A node; ``uptime`` is in seconds."""

    uid: str = ""
    name: str = ""
    version: str = ""
    num_clients: int = 0
    num_channels: int = 0
    uptime: int = 0


class Nodes(Answer):
    nodes: list[Node]


class Nothing(Part):
    pass


def read(body: bytes, kind: type[Any]) -> Any:
    """Read a request; raises Failed."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Failed(codes.BAD_REQUEST) from None
