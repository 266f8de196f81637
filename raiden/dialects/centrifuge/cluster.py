"""What the application does to clients, wherever they are: each worker is asked, and does it to its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import gevent
import msgspec
from msgspec import Raw

from raiden.delivery.answers import DIALECT
from raiden.delivery.questions import to_workers
from raiden.dialects.centrifuge import codes, subscriptions
from raiden.dialects.centrifuge.client import Talk
from raiden.dialects.centrifuge.codes import Code, Failed
from raiden.dialects.centrifuge.messages import Push, Refresh, Reply, SubscribeRequest
from raiden.dialects.centrifuge.requests import (
    DisconnectAsk,
    Reason,
    RefreshAsk,
    SubscribeAsk,
    UnsubscribeAsk,
    Whose,
)
from raiden.dialects.centrifuge.tokens import Granted, as_json, ttl
from raiden.gateway import Gateway
from raiden.model.refusals import attempt

KIND: Final = DIALECT + b"centrifuge"
# Seconds that the subscriptions of a worker's clients may take, before it answers that they are being made.
PATIENCE: Final = 0.7
_ASKS: Final[dict[str, type[Whose]]] = {
    "subscribe": SubscribeAsk, "unsubscribe": UnsubscribeAsk, "disconnect": DisconnectAsk, "refresh": RefreshAsk,
}  # fmt: skip


class Cluster:
    """The clients of all workers, for the application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._backend = gateway.router.backend
        self._workers = to_workers(self._backend, KIND, everywhere=True)
        gateway.router.answers.others[KIND] = self._take
        gateway.router.answers.long |= {KIND}

    def do(self, ask: Whose) -> None:
        """Do what is asked to the clients that it is for. Waits; raises Failed where not all workers have answered."""
        ask.check()
        name = next(name for name, kind in _ASKS.items() if type(ask) is kind)
        answers = self._workers([[name, msgspec.json.encode(ask).decode()]])[0]
        if len(answers) < self._backend.workers:
            raise Failed(codes.INTERNAL)

    def _take(self, argument: Any) -> int:
        """Do what another worker asks for; return the number of clients."""
        name, text = argument
        ask: Any = msgspec.json.decode(text, type=_ASKS[name])
        found = [talk for talk in talks(self._gateway) if _is_for(ask, talk)]
        if isinstance(ask, SubscribeAsk):
            made = [gevent.spawn(attempt, "a subscription", _subscribe, talk, ask) for talk in found]
            gevent.joinall(made, timeout=PATIENCE)
        for talk in found:
            if isinstance(ask, UnsubscribeAsk):
                _unsubscribe(talk, ask.channel)
            elif isinstance(ask, DisconnectAsk) and talk.client not in ask.whitelist:
                reason = ask.disconnect or Reason()
                talk.session.disconnect(Code(reason.code, reason.reason))
            elif isinstance(ask, RefreshAsk):
                _refresh(talk, ask)
        return len(found)


def talks(gateway: Gateway) -> Iterator[Talk]:
    """The clients of a worker that are connected."""
    for connection in list(gateway.door.connections):
        talk = getattr(connection.session, "talk", None)
        if isinstance(talk, Talk) and talk.client:
            yield talk


def _is_for(ask: Whose, talk: Talk) -> bool:
    return (
        ask.user in ("", talk.user)
        and ask.client in ("", talk.client)
        and ask.session in ("", talk.session.address()[0])
    )  # fmt: skip


def _subscribe(talk: Talk, ask: SubscribeAsk) -> None:
    start = None
    if ask.recover_since is not None:
        start = SubscribeRequest(recover=True, epoch=ask.recover_since.epoch, offset=ask.recover_since.offset)
    granted = Granted(_json(ask.info), _json(ask.data), float(ask.expire_at) or None)
    subscriptions.subscribe_by_server(talk, ask.channel, granted, start)


def _unsubscribe(talk: Talk, channel: str) -> None:
    for name in [channel] if channel else list(talk.channels):
        subscriptions.end(talk, name, codes.UNSUBSCRIBED)


def _refresh(talk: Talk, ask: RefreshAsk) -> None:
    assert talk.identity is not None
    if ask.expired:
        talk.session.disconnect(codes.CONNECTION_EXPIRED)
        return
    identity = talk.identity._replace(expires=float(ask.expire_at) or None)
    if ask.info:
        identity = identity._replace(info=_json(ask.info))
    talk.become(identity)
    told = Refresh() if identity.expires is None else Refresh(True, ttl(identity.expires))
    talk.connection.send(talk.wire.sent(Reply(push=Push(refresh=told))))


def _json(data: Raw) -> Raw:
    return as_json(bytes(data))
