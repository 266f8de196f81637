"""A client's subscriptions: begun and ended by its commands, by the server, and by what happens to channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gevent

from raiden.access.clients import Client
from raiden.connections import client as clients
from raiden.connections.states import CLOSING
from raiden.dialects.centrifuge import codes, delegated, tokens
from raiden.dialects.centrifuge.channels import Follow, checked
from raiden.dialects.centrifuge.codes import Code, Denied, Disconnected, Failed
from raiden.dialects.centrifuge.messages import (
    Reply,
    SubRefreshRequest,
    SubRefreshResult,
    Subscribe,
    SubscribeRequest,
    SubscribeResult,
    Unsubscribe,
    UnsubscribeRequest,
    UnsubscribeResult,
)
from raiden.dialects.centrifuge.parts import Talking
from raiden.dialects.centrifuge.tokens import Granted
from raiden.dialects.in_order import Rest
from raiden.model.filters import NO_FILTERS
from raiden.model.page import Start
from raiden.sessions import asks
from raiden.sessions.decisions import Decision

# Commands.


def subscribe(talk: Talking, number: int, ask: SubscribeRequest) -> Rest | None:
    """Begin what a client asks for; return what is left to do where that waits. Raises Failed and Disconnected."""
    name = ask.channel
    if not name:
        raise Disconnected(codes.BAD)
    checked(name)
    if ask.tf:
        raise Failed(codes.BAD_REQUEST)
    if ask.type:
        raise Failed(codes.PERMISSION_DENIED)
    if name in talk.channels:
        raise Failed(codes.ALREADY_SUBSCRIBED)
    if not has_room(talk):
        raise Failed(codes.LIMIT_EXCEEDED)
    granted, decision = _granted(talk, ask)
    rates = talk.dialect.gateway.rates
    if rates.on:
        rates.subscribe(clients.account(talk.connection), 1)
    follow = Follow(talk, name, granted, ask)
    if decision is not None:
        return partial(_ask_and_follow, talk, number, follow, decision)
    if follow.waits:
        return partial(_follow, talk, number, follow)
    _follow(talk, number, follow)
    return None


def unsubscribe(talk: Talking, number: int, ask: UnsubscribeRequest) -> None:
    """End a subscription as its client wants it. It may have none: an error would make clients reconnect."""
    if not ask.channel:
        raise Disconnected(codes.BAD)
    _leave(talk, ask.channel)
    talk.answer(number, Reply(unsubscribe=UnsubscribeResult()))


def refresh(talk: Talking, number: int, ask: SubRefreshRequest) -> None:
    """Go on with a subscription by another token."""
    channel = talk.channels.get(ask.channel)
    if not ask.channel or not ask.token or ask.type:
        raise Disconnected(codes.BAD)
    if channel is None:
        raise Failed(codes.PERMISSION_DENIED)
    permits = talk.connection.permit.permits
    try:
        granted = tokens.subscribed(permits, ask.token, ask.channel, talk.user, talk.client)
    except Failed as failed:
        raise Failed(codes.EXPIRED if failed.error is codes.TOKEN_EXPIRED else failed.error) from None
    channel.granted = granted
    result = SubRefreshResult()
    if granted.expires is not None:
        result.expires, result.ttl = True, tokens.ttl(granted.expires)
    talk.answer(number, Reply(sub_refresh=result))
    talk.rest()


def _granted(talk: Talking, ask: SubscribeRequest) -> tuple[Granted, Decision | None]:
    """What a client is granted of a channel, by a token or without, and the decision about it where that is still to be
    asked for; raises Failed and Disconnected."""
    name, permit = ask.channel, talk.connection.permit
    policy = permit.permits.policy
    if ask.token:
        granted = tokens.subscribed(permit.permits, ask.token, name, talk.user, talk.client)
        if permit.allows("subscribe", name) or policy.leaves_open(permit.client, "subscribe", name):
            return granted, None
    elif not talk.is_others(name):
        if permit.filters("subscribe", name) is not None:
            return tokens.NOTHING, None
        start = Start() if ask.recover and policy.leaves_open(permit.client, "history", name) else None
        return tokens.NOTHING, delegated.decision(
            talk.connection, asks.Follow(name, NO_FILTERS, start), "subscribe", name
        )
    raise Denied("subscribe", name)


def _ask_and_follow(talk: Talking, number: int, follow: Follow, decision: Decision) -> None:
    """Subscribe where the delegate allows it. Waits; raises a refusal."""
    decision.wait()
    if talk.connection.state >= CLOSING:
        return
    decision.enter()
    try:
        _follow(talk, number, follow)
        if follow.is_on:
            decision.keep()
    finally:
        decision.leave()


def judge_again(talk: Talking) -> None:
    """End the subscriptions that the client began by its connection's token, and may not have by the present one. With
    other filters, the client is to begin anew."""
    permit = talk.connection.permit
    for name, channel in list(talk.channels.items()):
        mine = talk.session.subscriptions.get(name)
        if mine is None or channel.is_server or channel.granted.client is not None:
            continue
        filters = permit.filters("subscribe", name)
        if filters is None:
            end(talk, name, codes.UNSUBSCRIBED)
        elif filters != (mine.filters or NO_FILTERS):
            end(talk, name, codes.INSUFFICIENT)


def revoked(talk: Talking, covers: Callable[[Client], bool]) -> int:
    """End the subscriptions by tokens of their own that are revoked; return their number."""
    ended = 0
    for name, channel in list(talk.channels.items()):
        if channel.granted.client is not None and covers(channel.granted.client):
            ended += end(talk, name, codes.SUBSCRIPTION_EXPIRED)
    return ended


# The server's own.


def subscribe_by_server(talk: Talking, name: str, granted: Granted, start: SubscribeRequest | None = None) -> None:
    """Subscribe a client without its asking, and tell it. Waits; raises a refusal."""
    if name not in talk.channels:
        if not has_room(talk):
            raise Failed(codes.LIMIT_EXCEEDED)
        _follow(talk, 0, Follow(talk, name, granted, start, is_server=True))


def has_room(talk: Talking) -> bool:
    """Whether a client may have one subscription more."""
    return len(talk.channels) < talk.dialect.gateway.limits.max_subscriptions


def end(talk: Talking, name: str, code: Code) -> bool:
    """End a subscription, and tell the client why; return whether there was one."""
    if not _leave(talk, name):
        return False
    talk.push(name, unsubscribe=Unsubscribe(code.code, code.reason))
    return True


def lost(talk: Talking, name: str) -> None:
    """End a subscription whose messages can't be had: the client comes back from where it is."""
    channel = talk.channels.get(name)
    if channel is not None and channel.is_server:
        talk.session.disconnect(codes.STATE_LOST)
    else:
        end(talk, name, codes.INSUFFICIENT)


def _follow(talk: Talking, number: int, follow: Follow) -> None:
    """Subscribe, and tell the client: as a reply, or where the server wants it (``number`` 0) by a push. Waits where
    the subscription does."""
    try:
        with gevent.Timeout(talk.dialect.rules.patience, Failed(codes.INTERNAL)):
            follow.begin()
            while not follow.is_ready:
                follow.read()
        if talk.connection.state < CLOSING:
            follow.check()
    except BaseException:  # raised again
        follow.give_up()
        raise
    if talk.connection.state >= CLOSING:
        follow.give_up()
        return
    # Nothing yields until the subscription is attached.
    result = follow.result()
    if number:
        talk.answer(number, Reply(subscribe=result))
    else:
        talk.push(follow.name, subscribe=_pushed(result))
        for publication in result.publications:
            talk.push(follow.name, pub=publication)
    follow.attach()
    talk.rest()


def _pushed(result: SubscribeResult) -> Subscribe:
    """The beginning of a subscription that the server made, as it is pushed."""
    return Subscribe(result.recoverable, result.epoch, result.offset, result.positioned, result.data)


def _leave(talk: Talking, name: str) -> bool:
    """Give a subscription back; return whether there was one."""
    if talk.channels.pop(name, None) is None:
        return False
    talk.session.unsubscribe(name)
    return True
