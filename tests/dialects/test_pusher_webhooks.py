"""Webhooks of the Pusher protocol, and the numbers of subscribers: a node of two workers, and a cluster."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raiden.node import config
from tests.cluster.test_webhooks import wait_until_connected
from tests.daemons import Daemon, Stream, running, wait_for
from tests.dialects.pusher_client import APP, Client, trigger
from tests.dialects.test_pusher_clients import passes
from tests.receiver import Receiver
from tests.stores import RedisServer
from tests.tokens import JWT_KEYS, bearer, token

EVENTS = [
    "channel_occupied", "channel_vacated", "member_added", "member_removed", "client_event", "cache_miss",
    "subscription_count",
]  # fmt: skip
_numbers = itertools.count()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def settings(receiver: Receiver) -> dict[str, Any]:
    app = {**APP, "prefix": "", "subscription_count": True, "webhooks": [{"url": receiver.url, "events": EVENTS}]}
    other = {"id": "8", "key": "k", "secret": "s", "webhooks": [{"url": receiver.url, "events": ["channel_occupied"]}]}
    return {
        "dialects": ["pusher"], "pusher_apps": [app, other], "webhook_settle": 0.2, "presence_linger": 0.2,
        "drain_window": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("pusher") / "node", workers=2, **settings(receiver))


@pytest.fixture
def channel() -> str:
    return f"room-{next(_numbers)}"


def headers_of(head: bytes) -> dict[str, str]:
    lines = [line.partition(":") for line in head.decode().split("\r\n")[1:-1]]
    return {name.lower(): value.strip() for name, _, value in lines}


def told(receiver: Receiver, channel: str) -> list[dict[str, Any]]:
    """The events that have come of a channel, each as its app signs it."""
    found: list[dict[str, Any]] = []
    for head, body in receiver.requests:
        headers, value = headers_of(head), json.loads(body)
        secret = {"app-key": "app-secret", "k": "s"}[headers["x-pusher-key"]]
        assert headers["x-pusher-signature"] == hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        assert headers["content-type"] == "application/json" and value["time_ms"] > 1e12
        found += [event for event in value["events"] if event["channel"] == channel]
    return found


def wait(receiver: Receiver, channel: str, *events: dict[str, Any]) -> None:
    """Wait until these events of a channel have come, in any order."""
    wait_for(lambda: all({"channel": channel, **event} in told(receiver, channel) for event in events),
             f"{events} among {told(receiver, channel)}", every=0.1)  # fmt: skip


def test_webhooks_are_told_of_channels_members_and_events(node: Daemon, receiver: Receiver, channel: str) -> None:
    presence, cached = f"presence-{channel}", f"cache-{channel}"
    with Client(node) as ann, Client(node) as bob:
        ann.join(presence, "ann")
        wait(receiver, presence, {"name": "channel_occupied"}, {"name": "member_added", "user_id": "ann"})
        bob.join(presence, "bob")
        wait(receiver, presence, {"name": "member_added", "user_id": "bob"})
        ann.send("client-typing", {"a": [1]}, channel=presence)
        wait(receiver, presence, {
            "name": "client_event", "event": "client-typing", "data": {"a": [1]}, "socket_id": ann.socket_id,
            "user_id": "ann",
        })  # fmt: skip
        for client in (ann, bob):
            client.subscribe(cached)
            client.expect("pusher:cache_miss")
        wait(receiver, cached, {"name": "cache_miss"}, {"name": "subscription_count", "subscription_count": 2})
        assert len([event for event in told(receiver, cached) if event["name"] == "cache_miss"]) == 1
    wait(receiver, presence, {"name": "channel_vacated"}, {"name": "member_removed", "user_id": "ann"},
         {"name": "member_removed", "user_id": "bob"})  # fmt: skip
    names = [(event["name"], event.get("user_id")) for event in told(receiver, presence)]
    assert len(names) == len(set(names)), "each is told once"


def changes(receiver: Receiver, channel: str, user: str) -> list[str]:
    """The names of the events of a member, in their order."""
    return [event["name"] for event in told(receiver, channel) if event.get("user_id") == user]


def test_members_come_and_go_in_pairs(node: Daemon, receiver: Receiver, channel: str) -> None:
    name = f"presence-{channel}"
    with Client(node) as ann, Client(node) as bob:
        ann.join(name, "ann")
        wait(receiver, name, {"name": "member_added", "user_id": "ann"})
        # The channel is watched: whoever the members of it hear of, webhooks hear of, however soon that goes again.
        for _ in range(20):
            bob.join(name, "bob")
            bob.send("pusher:unsubscribe", {"channel": name})
            bob.ping()
        bob.join(name, "carl")
        wait(receiver, name, {"name": "member_added", "user_id": "carl"})

        def are_pairs() -> bool:
            found = changes(receiver, name, "bob")
            return found == ["member_added", "member_removed"] * (len(found) // 2)

        wait_for(are_pairs, "each that was added is removed")


def test_members_that_were_too_many_for_a_while(
    start: Callable[..., Daemon], receiver: Receiver, channel: str
) -> None:  # fmt: skip
    name = f"presence-{channel}"
    node = start(**{**settings(receiver), "workers": 1, "jwt_keys": JWT_KEYS, "max_presence": 3, "presence_linger": 0})
    with Client(node) as ann, Client(node) as bob, Client(node) as carl:
        ann.join(name, "ann")
        bob.join(name, "bob")
        wait(receiver, name, {"name": "member_added", "user_id": "ann"}, {"name": "member_added", "user_id": "bob"})
        crowd = [Stream(node, f"/{name}", bearer(token(f"user{number}"))) for number in range(4)]
        carl.ask(name, channel_data='{"user_id":"carl"}')
        assert carl.expect("pusher:subscription_error")["data"]["type"] == "LimitReached"  # now the worker knows
        ann.send("pusher:unsubscribe", {"channel": name})
        ann.ping()
        for stream in crowd:
            stream.close()
        wait(receiver, name, {"name": "member_removed", "user_id": "ann"})
        assert changes(receiver, name, "bob") == ["member_added"]


def test_apps_have_webhooks_of_their_own(node: Daemon, receiver: Receiver, channel: str) -> None:
    with Client(node, {"key": "k", "secret": "s"}) as client:
        client.subscribe(channel)
        wait(receiver, channel, {"name": "channel_occupied"})
        assert [event["name"] for event in told(receiver, channel)] == ["channel_occupied"]


def test_the_library_verifies_webhooks(node: Daemon, receiver: Receiver, channel: str, tmp_path: Path) -> None:
    with Client(node) as client:
        client.subscribe(channel)
        wait(receiver, channel, {"name": "channel_occupied"})
    head, body = next((head, body) for head, body in receiver.requests if b"app-key" in head)
    (tmp_path / "webhook").write_text(json.dumps({"headers": headers_of(head), "body": body.decode()}))
    passes([node], "webhook", WEBHOOK=str(tmp_path / "webhook"))


def test_subscribers_are_told_how_many_they_are(node: Daemon, channel: str) -> None:
    def counted(client: Client, count: int) -> None:
        while client.expect("pusher_internal:subscription_count", channel)["data"] != {"subscription_count": count}:
            pass

    with Client(node) as one:
        one.subscribe(channel)
        counted(one, 1)
        with Client(node, compression="deflate") as other:
            other.subscribe(channel)
            for client in (one, other):
                counted(client, 2)
        counted(one, 1)


@pytest.mark.parametrize(
    ("webhook", "says"),
    [
        ("x", "must be a dict"),
        ({"url": "https://a.example"}, "events is a list"),
        ({"url": "https://a.example", "events": ["channel_ocupied"]}, "did you mean channel_occupied"),
        ({"url": "http://a.example", "events": ["cache_miss"]}, "https"),
        ({"url": "https://a.example", "events": ["cache_miss"], "timeout": 0}, "timeout is from"),
        ({"url": "https://a.example", "events": ["cache_miss"], "secret": "x"}, "unknown option 'secret'"),
    ],
)
def test_webhooks_that_can_t_be(webhook: Any, says: str) -> None:
    with pytest.raises(config.ConfigError, match=says):
        config.load(None, ["dialects=['pusher']", f"pusher_apps={[{**APP, 'webhooks': [webhook]}]!r}"], {})


def test_a_cluster_tells_each_event_once(
    start: Callable[..., Daemon], redis_server: RedisServer, receiver: Receiver, channel: str
) -> None:  # fmt: skip
    nodes: list[Daemon] = []
    for _ in range(2):
        peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in nodes]
        nodes.append(start(store=redis_server.url, peers=peers, **settings(receiver)))
    wait_until_connected(nodes)
    presence = f"presence-{channel}"
    with Client(nodes[0]) as ann, Client(nodes[1]) as bob:
        ann.join(presence, "ann")
        bob.join(presence, "bob")
        for client in (ann, bob):
            client.subscribe(channel)
        trigger(nodes[0], channel, "made", "1")
        bob.send("client-x", 1, channel=presence)
        wait(receiver, presence, {"name": "member_added", "user_id": "ann"}, {"name": "channel_occupied"},
             {"name": "member_added", "user_id": "bob"})  # fmt: skip
        wait(receiver, channel, {"name": "subscription_count", "subscription_count": 2})
    wait(receiver, presence, {"name": "member_removed", "user_id": "ann"}, {"name": "channel_vacated"})
    names = [(event["name"], event.get("user_id")) for event in told(receiver, presence)]
    assert len(names) == len(set(names))
