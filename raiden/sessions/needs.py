"""The permissions that an ask needs: actions on channels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from raiden.model.names import check_channel, check_subscription, unquote
from raiden.model.page import Read
from raiden.sessions.asks import (
    Ask,
    Call,
    Clear,
    Command,
    Consume,
    Disconnect,
    Follow,
    Hello,
    Join,
    Keep,
    Leave,
    Members,
    Ping,
    Publish,
    PublishLines,
    PublishOne,
    Renew,
    Reply,
    Respond,
    Resume,
    Revoke,
    Serve,
    Settle,
    Show,
    Subscribe,
    Take,
    Unfollow,
    Unserve,
)  # fmt: skip


class Need(NamedTuple):
    """The permission for an action on a channel or pattern. ``filtered``: one with filters will do, for they are
    applied."""

    action: str
    name: str
    filtered: bool = False


Needs: TypeAlias = "Iterator[Need]"

# The pages for anyone: balancers ask for them.
PUBLIC_PAGES = frozenset({"health", "ready"})


def needs(ask: Ask | Command) -> Needs:
    """The permissions that an ask needs."""
    return _NEEDS[type(ask)](ask)


def _nothing(ask: Any) -> Needs:
    return iter(())


def _publish(ask: Publish) -> Needs:
    for group in ask.groups:
        if group:
            yield Need("publish", group[0].channel)


def _publish_lines(ask: PublishLines) -> Needs:
    yield Need("publish", ask.channel)


def _publish_one(ask: PublishOne) -> Needs:
    yield Need("publish", ask.message.channel)


def _subscribe(ask: Subscribe) -> Needs:
    for name in ask.names:
        yield Need("subscribe", name, filtered=True)
    for name in ask.starts:
        yield Need("history", name, filtered=True)
    for name in ask.presence or ():
        yield Need("presence", name)


def _follow(ask: Follow) -> Needs:
    yield Need("subscribe", ask.name, filtered=True)
    if ask.start is not None:
        yield Need("history", ask.name, filtered=True)
    if ask.presence:
        yield Need("presence", ask.name)


def _consume(ask: Consume | Join) -> Needs:
    yield Need("subscribe", ask.channel)
    yield Need("history", ask.channel)


def _of_durable(ask: Settle) -> Needs:
    yield Need("subscribe", ask.channel)


def _leave(ask: Leave) -> Needs:
    yield Need("manage" if ask.forget else "subscribe", ask.channel)


def _read(ask: Read) -> Needs:
    yield Need("history", ask.channel, filtered=True)


def _members(ask: Members) -> Needs:
    yield Need("presence", ask.channel)


def _call(ask: Call) -> Needs:
    yield Need("request", ask.message.channel)


def _serve(ask: Serve | Take) -> Needs:
    yield Need("serve", ask.channel)


def _clear(ask: Clear) -> Needs:
    yield Need("manage", ask.channel)


def _all(ask: Any) -> Needs:
    yield Need("manage", "*")


def _show(ask: Show) -> Needs:
    """A page of one channel is for those that manage it; of its history, that may read it; of its members, that may see
    these. The others, which tell of all channels, are for those that manage all."""
    if ask.page.startswith("channels/"):
        name, _, what = ask.page.removeprefix("channels/").rpartition("/")
        if what == "history":
            yield Need("history", check_subscription(unquote(name)), filtered=True)
        elif what == "presence":
            yield Need("presence", check_channel(unquote(name)))
        else:
            yield Need("manage", check_subscription(unquote(ask.page.removeprefix("channels/"))))
    elif ask.page not in PUBLIC_PAGES:
        yield Need("manage", "*")


_NEEDS: dict[type, Callable[[Any], Needs]] = {
    Reply: _nothing, Publish: _publish, Clear: _clear, Show: _show, Consume: _consume, Subscribe: _subscribe,
    PublishLines: _publish_lines,
    PublishOne: _publish_one, Follow: _follow, Unfollow: _nothing, Read: _read, Join: _consume, Leave: _leave,
    Settle: _of_durable, Keep: _nothing, Resume: _nothing, Renew: _nothing, Ping: _nothing, Hello: _nothing,
    Revoke: _all, Disconnect: _all, Members: _members, Call: _call, Serve: _serve, Take: _serve, Unserve: _nothing,
    Respond: _nothing,
}  # fmt: skip
