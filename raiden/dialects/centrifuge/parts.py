"""A client, as its parts know it."""

from __future__ import annotations

from typing import Any, Protocol

from raiden.connections.connection import Connection
from raiden.dialects.centrifuge.messages import ClientInfo, Reply
from raiden.dialects.centrifuge.tokens import Granted, Identity
from raiden.dialects.centrifuge.wire import Wire
from raiden.model.filters import Filters


class Channel:
    """A subscription of a client. ``is_server``: the client has not asked for it."""

    __slots__ = ("granted", "is_server")

    def __init__(self, granted: Granted, is_server: bool) -> None:
        self.granted = granted
        self.is_server = is_server


class Talking(Protocol):
    """A client (`raiden.dialects.centrifuge.client.Talk`)."""

    dialect: Any
    """The `raiden.dialects.centrifuge.dialect.Centrifuge`."""
    connection: Connection
    wire: Wire
    client: str
    """Its id."""
    channels: dict[str, Channel]

    @property
    def session(self) -> Any:
        """The client's `raiden.dialects.centrifuge.socket.CentrifugeSocket`, or `CentrifugeStream`; None once its
        connection is closed."""

    @property
    def user(self) -> str: ...

    @property
    def ping_every(self) -> int:
        """Whole seconds between two pings."""

    def show(self, identity: Identity) -> None:
        """Let what the client may do be that of an identity from now on."""

    def begin(self, client: str) -> None:
        """Be connected from now on, under this id."""

    def info(self, channel: Channel | None) -> ClientInfo:
        """The client as others see it, with what its subscription adds."""

    def is_others(self, name: str) -> bool:
        """Whether this is another user's personal channel."""

    def may(self, action: str, name: str) -> bool:
        """Whether the client may do an action to a channel."""

    def past(self, name: str) -> Filters | None:
        """The filters with which the client may read a channel's history; None: it may not."""

    def answer(self, number: int, reply: Reply) -> None:
        """Send the reply to a command."""

    def push(self, name: str, **what: Any) -> None:
        """Tell the client something of a channel."""

    def rest(self) -> None:
        """Be due for what comes next."""
