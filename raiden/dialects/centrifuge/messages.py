"""The messages of the protocol: commands of clients, replies and pushes. Pure.

JSON has them under the names of their fields, and Protobuf by the numbers in `raiden.dialects.centrifuge.protobuf`
(centrifugal/protocol v0.23.1, client.proto). Fields that mean nothing here are left out: they are ignored. A field that
is ``Raw`` is JSON inside JSON, and bytes in Protobuf.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

# No bytes. A field that has this very object is left out.
EMPTY: Final = Raw(b"")


class Part(msgspec.Struct, omit_defaults=True, gc=False):
    """What all messages are. A field that has its default is left out."""


class StreamPosition(Part):
    offset: int = 0
    epoch: str = ""


class SubscribeRequest(Part):
    """``flag``, bit 1: an error is wanted where the position can't be recovered from. ``delta`` is the kind of deltas
    that the client can read."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    join_leave: bool = False
    delta: str = ""
    tf: Raw = EMPTY
    flag: int = 0
    type: int = 0


class ConnectRequest(Part):
    """``subs`` are the places from which the client's server-side subscriptions are to go on, by channel."""

    token: str = ""
    data: Raw = EMPTY
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""


class UnsubscribeRequest(Part):
    channel: str = ""


class PublishRequest(Part):
    channel: str = ""
    data: Raw = EMPTY
    type: int = 0


class PresenceRequest(Part):
    channel: str = ""


class PresenceStatsRequest(Part):
    channel: str = ""


class HistoryRequest(Part):
    """``limit`` 0: only the position is asked for; -1: all messages."""

    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class RefreshRequest(Part):
    token: str = ""


class SubRefreshRequest(Part):
    channel: str = ""
    token: str = ""
    type: int = 0


class PingRequest(Part):
    pass


class SendRequest(Part):
    data: Raw = EMPTY


class RPCRequest(Part):
    data: Raw = EMPTY
    method: str = ""


class Command(Part):
    """A command: one of the requests. ``id`` 0: it has no reply."""

    id: int = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None

    @property
    def asked(self) -> tuple[str, str]:
        """The name of the request, and the channel that it is for; both may be empty."""
        name = next((each for each in self.__struct_fields__[1:] if getattr(self, each) is not None), "")
        return name, getattr(getattr(self, name, None), "channel", "")


class EmulationRequest(Part):
    """A frame of a client whose stream is another connection, on the worker ``node``; ``data`` is a JSON string."""

    node: str = ""
    session: str = ""
    data: Raw = EMPTY


class Error(Part):
    code: int = 0
    message: str = ""
    temporary: bool = False


class ClientInfo(Part):
    """A client of a channel; ``conn_info`` is of its connection, ``chan_info`` of its subscription."""

    user: str = ""
    client: str = ""
    conn_info: Raw = EMPTY
    chan_info: Raw = EMPTY


class Publication(Part):
    """A message; ``info`` is that of the client that published it. ``delta``: the data is a delta."""

    data: Raw = EMPTY
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] = {}
    delta: bool = False


class Join(Part):
    info: ClientInfo


class Leave(Part):
    info: ClientInfo


class Unsubscribe(Part):
    code: int = 0
    reason: str = ""


class Subscribe(Part):
    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw = EMPTY


class Disconnect(Part):
    code: int = 0
    reason: str = ""


class Refresh(Part):
    expires: bool = False
    ttl: int = 0


class Push(Part):
    channel: str = ""
    pub: Publication | None = None
    join: Join | None = None
    leave: Leave | None = None
    unsubscribe: Unsubscribe | None = None
    subscribe: Subscribe | None = None
    disconnect: Disconnect | None = None
    refresh: Refresh | None = None


class SubscribeResult(Part):
    """``ttl`` is in seconds. ``offset`` is where the subscription goes on from. ``delta``: there may be deltas, and all
    data is as these want it."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw = EMPTY
    was_recovering: bool = False
    delta: bool = False


class ConnectResult(Part):
    """``ping`` and ``ttl`` are in seconds."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class UnsubscribeResult(Part):
    pass


class PublishResult(Part):
    pass


class PresenceResult(Part):
    presence: dict[str, ClientInfo] = {}


class PresenceStatsResult(Part):
    num_clients: int = 0
    num_users: int = 0


class HistoryResult(Part):
    publications: list[Publication] = []
    epoch: str = ""
    offset: int = 0


class RefreshResult(Part):
    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Part):
    expires: bool = False
    ttl: int = 0


class Reply(Part):
    """The reply to a command, by its ``id``; without one, a push."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: UnsubscribeResult | None = None
    publish: PublishResult | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None
