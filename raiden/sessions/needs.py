"""The permissions that an ask needs: actions on channels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from raiden.model.names import check_subscription, unquote
from raiden.model.page import Read
from raiden.sessions.asks import (
    Ask,
    Clear,
    Command,
    Consume,
    Follow,
    Join,
    Keep,
    Leave,
    Ping,
    Publish,
    PublishOne,
    Renew,
    Reply,
    Resume,
    Settle,
    Show,
    Subscribe,
    Unfollow,
)  # fmt: skip

Needs: TypeAlias = "Iterator[tuple[str, str]]"

# The pages for anyone: balancers ask for them.
PUBLIC_PAGES = frozenset({"health", "ready"})


def needs(ask: Ask | Command) -> Needs:
    """The actions that an ask takes, each with the name of its channel or pattern."""
    return _NEEDS[type(ask)](ask)


def _nothing(ask: Any) -> Needs:
    return iter(())


def _publish(ask: Publish) -> Needs:
    for group in ask.groups:
        if group:
            yield "publish", group[0].channel


def _publish_one(ask: PublishOne) -> Needs:
    yield "publish", ask.message.channel


def _subscribe(ask: Subscribe) -> Needs:
    for name in ask.names:
        yield "subscribe", name
    for name in ask.starts:
        yield "history", name


def _follow(ask: Follow) -> Needs:
    yield "subscribe", ask.name
    if ask.start is not None:
        yield "history", ask.name


def _consume(ask: Consume | Join) -> Needs:
    yield "subscribe", ask.channel
    yield "history", ask.channel


def _of_durable(ask: Settle) -> Needs:
    yield "subscribe", ask.channel


def _leave(ask: Leave) -> Needs:
    yield "manage" if ask.forget else "subscribe", ask.channel


def _read(ask: Read) -> Needs:
    yield "history", ask.channel


def _clear(ask: Clear) -> Needs:
    yield "manage", ask.channel


def _show(ask: Show) -> Needs:
    """A page of one channel is for those that manage it, or of its history, that may read it; the others, which tell of
    all channels, are for those that manage all."""
    if ask.page.startswith("channels/"):
        name = ask.page.removeprefix("channels/")
        is_history = name.endswith("/history")
        yield "history" if is_history else "manage", check_subscription(unquote(name.removesuffix("/history")))
    elif ask.page not in PUBLIC_PAGES:
        yield "manage", "*"


_NEEDS: dict[type, Callable[[Any], Needs]] = {
    Reply: _nothing, Publish: _publish, Clear: _clear, Show: _show, Consume: _consume, Subscribe: _subscribe,
    PublishOne: _publish_one, Follow: _follow, Unfollow: _nothing, Read: _read, Join: _consume, Leave: _leave,
    Settle: _of_durable, Keep: _nothing, Resume: _nothing, Renew: _nothing, Ping: _nothing,
}  # fmt: skip
