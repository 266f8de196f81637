"""The beginning of a client: it shows who it is, and gets the subscriptions that it has without asking."""

from __future__ import annotations

from typing import Final

import gevent

from raiden.connections import client as clients
from raiden.connections.states import CLOSING
from raiden.dialects.centrifuge import codes, delegated, tokens
from raiden.dialects.centrifuge.channels import Follow, checked
from raiden.dialects.centrifuge.codes import Disconnected, Failed
from raiden.dialects.centrifuge.messages import ConnectRequest, ConnectResult, Reply
from raiden.dialects.centrifuge.parts import Talking
from raiden.dialects.centrifuge.tokens import Identity

VERSION: Final = "raiden"


def connect(talk: Talking, number: int, ask: ConnectRequest) -> None:
    """Connect, with the subscriptions that the client has without asking. Waits."""
    permits = talk.dialect.gateway.permits
    connection = talk.connection
    guest = connection.permit if delegated.is_guest(connection) and connection.permit.handles("connect") else None
    if ask.token:
        identity = tokens.connected(permits, ask.token)
    elif talk.dialect.rules.anonymous or guest is not None:
        identity = Identity(permits.unknown)
    else:
        raise Disconnected(codes.BAD)
    talk.show(identity)
    if guest is not None:
        delegated.greet(guest)
    if connection.state >= CLOSING:
        return
    wanted = dict(identity.channels)
    if talk.dialect.rules.personal and identity.user:
        wanted.setdefault(checked(f"#{identity.user}"), tokens.NOTHING)
    limits = talk.dialect.gateway.limits
    if len(wanted) > limits.max_subscriptions:
        raise Disconnected(codes.CHANNEL_LIMIT)
    gateway = talk.dialect.gateway
    if gateway.rates.on:
        gateway.rates.subscribe(clients.account(connection), len(wanted))
    client = gateway.router.ids.of(connection)
    room = limits.max_outbox // max(1, len(wanted))
    follows: list[Follow] = []
    try:
        for name, granted in wanted.items():
            follows.append(Follow(talk, name, granted, ask.subs.get(name), is_server=True, room=room))
        with gevent.Timeout(talk.dialect.rules.patience, Failed(codes.INTERNAL)):
            for each in follows:
                each.begin()
            while any(not each.is_ready for each in follows):
                for each in follows:
                    each.read()
        if connection.state < CLOSING and not all([each.is_on for each in follows]):
            raise Failed(codes.INTERNAL)
    except BaseException:  # raised again
        for each in follows:
            each.give_up()
        raise
    if connection.state >= CLOSING:
        return
    # Nothing yields from here on.
    talk.begin(client)
    session, node = talk.session.address()
    result = ConnectResult(client, VERSION, ping=talk.ping_every, pong=True, session=session, node=node)
    if identity.expires is not None:
        result.expires, result.ttl = True, tokens.ttl(identity.expires)
    result.subs = {each.name: each.result() for each in follows}
    talk.answer(number, Reply(connect=result))
    for each in follows:
        each.attach()
    talk.rest()
