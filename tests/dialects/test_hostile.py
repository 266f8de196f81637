"""Clients of Pusher's and Action Cable's protocols that are hostile, or unlucky."""

from __future__ import annotations

import json
import os
import signal
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.daemons import PATIENCE, Daemon, wait_for
from tests.dialects.cable import EXTENDED, SECRET, Cable, broadcast, public
from tests.dialects.pusher_client import APP, Client
from tests.tokens import token


def carried(node: Daemon) -> float:
    """The channels that workers carry."""
    return node.metric("raiden_channels")


def test_a_client_that_vanishes_while_its_session_is_looked_for(start: Callable[..., Daemon]) -> None:
    node = start(dialects=["cable"], cable_public=True)
    names = [public("one"), public("two")]
    with Cable(node, EXTENDED) as client:
        client.subscribe(names[0])
        client.subscribe(names[1])

    def back() -> Cable | None:
        again = Cable(node, EXTENDED, sid=client.sid)
        again.socket.close()
        return again if again.welcome.get("restored") else None

    wait_for(back, "the session is kept")
    history = node.workers()["history"]
    os.kill(history, signal.SIGSTOP)
    try:
        with connect(
            f"ws://{node.host}:{node.port}/cable?sid={client.sid}", subprotocols=[Subprotocol(EXTENDED)],
            compression=None,
        ):  # fmt: skip
            assert node.metric("raiden_connections", transport="cable") == 1
        wait_for(lambda: node.metric("raiden_connections", transport="cable") == 0, "it has gone")
    finally:
        os.kill(history, signal.SIGCONT)
    # The history process answers in the order in which it was asked.
    with Cable(node, EXTENDED, sid=client.sid) as again:
        assert sorted(again.welcome["restored_ids"]) == sorted(names)
    wait_for(lambda: carried(node) == 0, "nothing is left")


def test_subscriptions_that_wait_are_bounded(start: Callable[..., Daemon]) -> None:
    """They take memory while they wait, and a client can ask for them much faster than the store answers."""
    node = start(
        dialects=["pusher"], pusher_apps=[APP], max_subscriptions=20,
        channels={"*": {}, "live.*": {"history_size": 0}},
    )  # fmt: skip
    history = node.workers()["history"]
    with Client(node) as hostile, Client(node) as other:
        os.kill(history, signal.SIGSTOP)
        try:
            for number in range(50):
                hostile.send("pusher:subscribe", {"channel": f"cache-{number}"})
            refused = [hostile.expect("pusher:subscription_error")["data"]["type"] for _ in range(30)]
            assert refused == ["LimitReached"] * 30
            assert hostile.ping() == []
            assert carried(node) == 20
            assert other.subscribe("live.a") == {}
        finally:
            os.kill(history, signal.SIGCONT)
        told = [hostile.expect("pusher_internal:subscription_succeeded")["channel"] for _ in range(20)]
        assert sorted(told) == sorted([f"cache-{number}" for number in range(20)])


def bomb(text: str) -> bytes:
    """A compressed frame of a client, which inflates to much more."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (deflate.compress(text.encode()) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return b"\xc1\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data


@pytest.mark.parametrize("dialect", ["cable", "centrifuge"])
def test_commands_that_inflate_while_others_wait(start: Callable[..., Daemon], dialect: str) -> None:
    """One read can have many that are a thousand times as large."""
    node = start(
        dialects=[dialect], cable_public=True, centrifuge_anonymous=True, max_ws_message=100_000, max_outbox=100_000
    )
    history = node.workers()["history"]
    url = f"ws://{node.host}:{node.port}" + {"cable": "/cable", "centrifuge": "/connection/websocket"}[dialect]
    padding = "x" * 99_000
    first: dict[str, Any]
    then: dict[str, Any]
    with connect(url, compression="deflate", close_timeout=1) as hostile:
        if dialect == "cable":
            first, then = {"command": "subscribe", "identifier": public("a")}, {"command": "ping", "x": padding}
        else:
            hostile.send('{"id": 1, "connect": {}}')
            hostile.recv(PATIENCE)
            first, then = {"id": 2, "subscribe": {"channel": "a"}}, {"id": 3, "rpc": {"method": padding}}
        os.kill(history, signal.SIGSTOP)
        try:
            hostile.send(json.dumps(first))
            wait_for(lambda: carried(node) == 1, "it waits")
            hostile.socket.sendall(bomb(json.dumps(then)) * 20)
            wait_for(lambda: node.metric("raiden_slow_consumers_total") == 1, "it is closed")
        finally:
            os.kill(history, signal.SIGCONT)


def test_broadcasts_count_for_rates(start: Callable[..., Daemon]) -> None:
    open_node = start(dialects=["cable"], rates={"publish": (0.001, 3)})
    assert broadcast(open_node, [{"stream": "a", "data": "1"}] * 2, key=None) == 201
    assert broadcast(open_node, [{"stream": "a", "data": "1"}] * 2, key=None) == 429
    assert broadcast(open_node, {"stream": "a", "data": "1"}, key=None) == 201
    assert open_node.request("POST", "/a", "1", {"Content-Type": "application/json"})[0] == 429
    node = start(dialects=["cable"], cable_secret=SECRET, rates={"publish": (0.001, 1)})
    assert [broadcast(node, {"stream": "a", "data": "1"}) for _ in range(2)] == [201, 429]


def test_whispers_and_presence_need_the_permission_that_channels_ask_for(start: Callable[..., Daemon]) -> None:
    secret = "the secret of tokens, thirty-two b"
    node = start(
        dialects=["cable"], cable_public=True, cable_jwt_secret=secret, presence_linger=0.1,
        channels={"news": {"publish": "token", "presence": "token"}},
    )  # fmt: skip
    allowed = token("ann", secret=secret, publish=["news"], presence=["news"])
    with Cable(node, EXTENDED) as one, Cable(node, EXTENDED, jid=allowed) as two:
        one.subscribe(public("news"))
        two.subscribe(public("news"))
        one.send("whisper", public("news"), data=1)
        one.send("join", public("news"), presence={"id": "7"})
        one.send("presence", public("news"), data={})
        assert one.next()["message"] == {"type": "error"}
        two.send("whisper", public("news"), data=2)
        assert one.message() == 2
        two.send("join", public("news"), presence={"id": "8"})
        assert two.next()["message"] == {"type": "join", "id": "8"}


def test_a_watchlist_with_users_that_nobody_can_be(start: Callable[..., Daemon]) -> None:
    """They are passed over, and others are watched as before."""
    node = start(dialects=["pusher"], pusher_apps=[APP], presence_linger=0.1)
    with Client(node) as one, Client(node) as two:
        one.sign_in("ann", watchlist=["\ud800", "bob", "x" * 300, "b*", "\0"])
        events = one.expect("pusher_internal:watchlist_events")["data"]["events"]
        assert events == [{"name": "offline", "user_ids": ["bob"]}]
        two.sign_in("bob")
        two.subscribe("#server-to-user-bob")
        events = one.expect("pusher_internal:watchlist_events")["data"]["events"]
        assert events == [{"name": "online", "user_ids": ["bob"]}]
    assert node.stop() == 0
    assert "Traceback" not in node.log()


def test_what_a_member_says_of_itself_can_be_read_by_all(start: Callable[..., Daemon]) -> None:
    """A number that only some readers of JSON take would make each frame with it unreadable to the others."""
    node = start(dialects=["pusher", "cable"], pusher_apps=[APP], cable_public=True, workers=2)
    with Client(node) as client:
        client.ask("presence-a", channel_data='{"user_id": "7", "user_info": {"a": [1e999]}}')
        assert client.expect("pusher:subscription_error")["data"]["type"] == "Error"
        assert client.join("presence-a", "7", {"a": [1e308]})["hash"] == {"7": {"a": [1e308]}}
    with Cable(node, EXTENDED) as cable:
        cable.subscribe(public("a"))
        for info in ("[1e999]", "[1e308]"):
            cable.socket.send(
                f'{{"command": "join", "identifier": {json.dumps(public("a"))}, '
                f'"presence": {{"id": "7", "info": {info}}}}}'
            )  # fmt: skip
        assert cable.next()["message"] == {"type": "join", "id": "7", "info": [1e308]}
