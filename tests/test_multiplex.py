"""Sessions of ``/-/websocket``: who comes back, to whichever worker or node, has its subscriptions again, and what it
missed."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from tests.daemons import Daemon, post, running, wait_for
from tests.multiplex import Client, kill, on_each_worker, two_nodes
from tests.relay import Relay
from tests.stores import RedisServer

CHANNELS = {"*": {"history_size": 100_000}, "none*": {"history_size": 0}, "short*": {"history_size": 5}}
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(
        tmp_path_factory.mktemp("node"), workers=2, channels=CHANNELS, session_window=1, keepalive=0.5, max_body=1 << 24
    )


class Shared(NamedTuple):
    """A node, and the shared store that it keeps sessions in."""

    node: Daemon
    server: RedisServer


@pytest.fixture(scope="module")
def shared(installed_redis: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        settings: dict[str, Any] = {"channels": CHANNELS, "keepalive": 1.0, "max_body": 1 << 24}
        found = Daemon(tmp_path_factory.mktemp("shared"), store=server.url, **settings)
        yield Shared(found, server)
        assert found.stop() == 0
        assert "Traceback" not in found.log(), found.log()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def far_and_near(installed_redis: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Two nodes; it takes longer from the first one to their store, and back."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        with Relay(str(server.folder / "socket"), 0.0025) as relay:
            far, near = f"redis://127.0.0.1:{relay.port}/0", {"store": server.url}
            folder = tmp_path_factory.mktemp("nodes")
            with two_nodes(folder, far, second=near, channels=CHANNELS, keepalive=0.5) as nodes:
                yield nodes
    finally:
        server.stop()


def offset_of(cursor: str) -> int:
    return int(cursor.split(":")[1])


def open_session(client: Client) -> str:
    told = client.ask(cmd="session")
    assert told.keys() == {"session", "window"}
    session: str = told["session"]
    return session


def resume(client: Client, session: str, since: dict[str, str] | None = None) -> dict[str, Any]:
    told = client.ask(cmd="resume", session=session, **({} if since is None else {"since": since}))
    assert told.get("session") == session, told
    found: dict[str, Any] = told["subscriptions"]
    return found


def subscribe(client: Client, *channels: str, **options: Any) -> dict[str, str]:
    """Where the client has got to."""
    places = {}
    for channel in channels:
        told = client.ask(cmd="subscribe", channel=channel, **options)
        assert "error" not in told, told
        if "cursor" in told:
            places[channel] = told["cursor"]
    return places


def kept(server: RedisServer, session: str) -> dict[str, Any]:
    """What a shared store has of a session: its subscriptions."""
    with redis.Redis.from_url(server.url) as client:
        found = client.hget(f"raiden:kept:session {session}", "value")
    subscriptions: dict[str, Any] = json.loads(found)["subscriptions"] if found else {}
    return subscriptions


def test_what_has_subscribed_is_kept_before_it_is_told(shared: Shared, channel: str) -> None:
    """Also where many subscribe at once: what is kept then is for all of them."""
    with Client(shared.node, unread=None) as client:
        session = open_session(client)
        names = [f"{channel}.{number}" for number in range(100)]
        numbers = [client.send(cmd="subscribe", channel=name) for name in names]
        for name, number in zip(names, numbers, strict=True):
            assert "error" not in client.reply(number)
            assert name in kept(shared.server, session)
        assert "error" not in client.ask(cmd="unsubscribe", channel=names[0])
        assert kept(shared.server, session).keys() == set(names[1:])


def test_what_subscribes_while_a_session_is_opened_is_kept_with_it(shared: Shared, channel: str) -> None:
    name = f"none.{channel}"
    with Client(shared.node) as client, redis.Redis.from_url(shared.server.url) as store:
        subscribe(client, f"{name}.before")
        store.client_pause(2000, all=False)  # what writes
        number = client.send(cmd="session")
        client.ask(cmd="ping")  # the session is being opened now
        subscribe(client, name)
        session = client.reply(number)["session"]
        assert kept(shared.server, session).keys() == {f"{name}.before", name}


# Resuming.


def test_on_the_other_worker(node: Daemon, channel: str) -> None:
    """With filters, in one round trip: the reply, then what was missed, then what comes."""
    clients = on_each_worker(node)
    old, new = clients["worker 0"][0], clients["worker 1"][0]
    names = [f"{channel}.{number}" for number in range(20)]
    session = open_session(old)
    places = subscribe(old, *names)
    places |= subscribe(old, f"{channel}.f", filters={"n": [1, 3], "team": "a"})
    post(node, names[0], "seen")
    places[names[0]] = old.push()["cursor"]
    old.abort()
    for name in names:
        post(node, name, "missed")
    missed = [{"n": n, "team": team} for n in (1, 2, 3) for team in "ab"]
    post(node, f"{channel}.f", *missed)
    told = resume(new, session, places)
    assert told.keys() == places.keys() and all(row["recovered"] for row in told.values())
    assert told[names[0]]["cursor"] == places[names[0]]
    found: dict[str, list[Any]] = {}
    for push in new.take(22):
        found.setdefault(push["channel"], []).append(push["data"])
    assert found.pop(f"{channel}.f") == [{"n": 1, "team": "a"}, {"n": 3, "team": "a"}]
    assert found == {name: ["missed"] for name in names}
    post(node, f"{channel}.f", {"n": 4, "team": "a"}, {"n": 3, "team": "a"})
    assert new.push()["data"] == {"n": 3, "team": "a"}
    new.close()


class Reader(threading.Thread):
    """Publishes numbers to channels on a node, one after the other, until it is told to stop."""

    def __init__(self, node: Daemon, channels: list[str]) -> None:
        super().__init__()
        self.acked: dict[str, list[str]] = {channel: [] for channel in channels}
        self._node = node
        self._stopped = threading.Event()

    def run(self) -> None:
        connection = self._node.open()
        number = 0
        while not self._stopped.is_set():
            for channel, cursors in self.acked.items():
                connection.request("POST", f"/{channel}", str(number), {"Content-Type": "application/json"})
                cursors.append(json.loads(connection.getresponse().read())["cursor"])
            number += 1
        connection.close()

    def stop(self) -> None:
        self._stopped.set()
        self.join(20)
        assert not self.is_alive()


def read(client: Client, got: dict[str, list[str]], count: int) -> None:
    for push in client.take(count):
        assert "data" in push, push
        got[push["channel"]].append(push["cursor"])


def read_all(client: Client, got: dict[str, list[str]], acked: dict[str, list[str]]) -> None:
    while any(got[channel][-1:] != cursors[-1:] for channel, cursors in acked.items()):
        read(client, got, 1)


def test_on_the_other_worker_again_and_again_under_load(node: Daemon, channel: str) -> None:
    """With what the client has got last, exactly once."""
    channels = [f"{channel}.{number}" for number in range(4)]
    publisher = Reader(node, channels)
    with Client(node) as client:
        session = open_session(client)
        places = subscribe(client, *channels)
        got: dict[str, list[str]] = {name: [] for name in channels}
        publisher.start()
        for _ in range(10):
            read(client, got, 100)
            client.abort()
            client = Client(node)
            told = resume(client, session, {name: got[name][-1] if got[name] else places[name] for name in channels})
            assert all(row["recovered"] for row in told.values())
        publisher.stop()
        read_all(client, got, publisher.acked)
        client.close()
    assert got == publisher.acked


def test_on_another_node_under_load(redis_server: RedisServer, tmp_path: Path) -> None:
    """There and back, then the node that has the session is killed."""
    channels = ["a", "b", "c"]
    settings: dict[str, Any] = {"channels": CHANNELS, "keepalive": 0.5}
    with two_nodes(tmp_path, redis_server.url, **settings) as nodes:
        publisher = Reader(nodes[0], channels)
        client = Client(nodes[0])
        session = open_session(client)
        places = subscribe(client, *channels)
        got: dict[str, list[str]] = {name: [] for name in channels}
        publisher.start()
        for turn in range(1, 6):
            read(client, got, 100)
            if turn == 5:
                wait_for(lambda: kept(redis_server, session).keys() == set(channels), "the session is kept")
                kill(nodes[1])
            client.abort()
            client = Client(nodes[0 if turn == 5 else turn % 2])
            since = {name: got[name][-1] if got[name] else places[name] for name in channels}
            told = resume(client, session, since)
            assert set(told) == set(channels) and all(row["recovered"] for row in told.values())
            if turn == 4:  # go on to the second node, which is killed
                client.abort()
                client = Client(nodes[1])
                resume(client, session, since)
        publisher.stop()
        read_all(client, got, publisher.acked)
        client.close()
    assert got == publisher.acked


def test_without_since_some_come_twice_and_none_is_lost(node: Daemon, channel: str) -> None:
    """From where the client surely was; a pong moves that on."""
    publisher = Reader(node, [channel])
    client = Client(node)
    session = open_session(client)
    subscribe(client, channel)
    publisher.start()
    got: set[str] = set()
    for _ in range(6):
        got |= {push["cursor"] for push in client.take(300)}
        client.abort()
        client = Client(node)
        told = resume(client, session)
        assert told[channel]["recovered"] is True
    publisher.stop()

    def complete() -> bool:
        got.update(push["cursor"] for push in client.rest())
        return publisher.acked[channel][-1] in got

    wait_for(complete, "the last message")
    client.close()
    assert got == set(publisher.acked[channel])


def test_a_pong_moves_the_place_on(shared: Shared, channel: str) -> None:
    """What was sent before the last ping that was answered does not come again."""
    node, server = shared
    with Client(node) as client:
        session = open_session(client)
        subscribe(client, channel)
        cursors = post(node, channel, *range(10))
        client.take(10)
        wait_for(lambda: kept(server, session)[channel]["cursor"] == cursors[-1], "the place moves on")
        client.abort()
    with Client(node) as client:
        assert resume(client, session) == {channel: {"cursor": cursors[-1], "recovered": True}}
        assert client.rest() == []


def test_while_much_is_replayed(shared: Shared, channel: str) -> None:
    """Who leaves in the middle of what it missed has not got the rest, whatever pings it has answered."""
    node, server = shared
    text = "x" * 10_000
    with Client(node) as client:
        session = open_session(client)
        subscribe(client, channel)
        client.abort()
    for begin in range(0, 2400, 200):
        post(node, channel, *[[number, text] for number in range(begin, begin + 200)])
    # Little is on its way to the client, so it answers pings in time though it reads slowly.
    with Client(node, buffer=16384) as client:
        assert resume(client, session)[channel]["recovered"] is True
        last = -1

        def moved() -> bool:
            nonlocal last
            last = client.take(10)[-1]["data"][0]
            return offset_of(kept(server, session)[channel]["cursor"]) > 0

        wait_for(moved, "the place moves on")
        client.abort()
    assert last < 2399
    with Client(node) as client:
        told = resume(client, session)[channel]
        assert told["recovered"] is True
        first = client.push()
        # The client's library answers a ping when it has read it, with 16 messages before it that nobody took.
        assert 0 < first["data"][0] <= last + 17, "the place moved on, and nothing is left out"


def test_a_connection_that_ends_before_the_reply(node: Daemon, channel: str) -> None:
    """Nothing is lost by trying."""
    client = Client(node)
    session = open_session(client)
    subscribe(client, channel)
    client.abort()
    cursors = post(node, channel, 1, 2)
    for _ in range(10):
        client = Client(node)
        client.send(cmd="resume", session=session)
        client.abort()
    with Client(node) as client:
        assert resume(client, session)[channel]["recovered"] is True
        assert [push["cursor"] for push in client.take(2)] == cursors


def test_an_old_socket_that_is_still_open(node: Daemon, channel: str) -> None:
    """It is nobody's: what it says of the session any more does not count."""
    old, new = Client(node), Client(node)
    session = open_session(old)
    subscribe(old, f"{channel}.a")
    resume(new, session)
    subscribe(new, f"{channel}.b")
    new.ask(cmd="unsubscribe", channel=f"{channel}.a")
    subscribe(old, f"{channel}.c")
    new.abort()
    old.close()
    with Client(node) as last:
        assert resume(last, session).keys() == {f"{channel}.b"}


@pytest.mark.parametrize("leave", [Client.close, Client.abort, lambda client: None], ids=["closed", "gone", "open"])
def test_a_node_whose_way_to_the_store_is_slower(far_and_near: list[Daemon], leave: Callable[[Client], None]) -> None:
    """What it has asked the store to keep before another node took the session does not undo what came after that."""
    far, near = far_and_near
    for number in range(20):
        mine, added = f"{number}.x", f"{number}.y"
        left = Client(far)
        session = open_session(left)
        subscribe(left, mine)
        leave(left)
        with Client(near) as client:
            assert resume(client, session).keys() == {mine}
            subscribe(client, added)
            client.abort()
            with Client(near) as again:
                assert resume(again, session).keys() == {mine, added}, number
        left.abort()


def test_a_session_that_was_taken(shared: Shared, channel: str) -> None:
    """The socket that lost it gets another one."""
    node, server = shared
    a, b = f"{channel}.a", f"{channel}.b"
    with Client(node) as one, Client(node) as two:
        session = open_session(one)
        subscribe(one, a)
        resume(two, session)
        subscribe(one, b)
        assert kept(server, session).keys() == {a}
        other = open_session(one)
        assert other != session and kept(server, other).keys() == {a, b}


def test_a_store_that_is_away_refuses_what_a_session_would_lose(
    own_server: RedisServer, start: Callable[..., Daemon]
) -> None:
    node = start(store=own_server.url, channels=CHANNELS)
    with Client(node) as client:
        session = open_session(client)
        own_server.kill()
        assert client.code(cmd="subscribe", channel="none") == 503
        own_server.start()
        subscribe(client, "none")
        assert kept(own_server, session).keys() == {"none"}


def test_where_there_is_no_history(node: Daemon, channel: str) -> None:
    """Patterns and channels without history are subscribed again; that something may be missing is told."""
    client = Client(node)
    session = open_session(client)
    names = [f"{channel}*", "none.a"]
    subscribe(client, *names)
    client.abort()
    with Client(node) as client:
        assert resume(client, session) == {name: {"recovered": False} for name in names}
        post(node, channel, 1)
        assert node.request("POST", "/none.a", "2", NDJSON)[0] == 202
        assert sorted(push["data"] for push in client.take(2)) == [1, 2]


def test_filters_of_any_text(node: Daemon, channel: str) -> None:
    client = Client(node)
    session = open_session(client)
    subscribe(client, channel, filters={"ä\ud800": ["\ud800", '€\n"'], "n": [None, True, 1.5]})
    client.abort()
    with Client(node) as client:
        resume(client, session)
        post(node, channel, 1, {"ä": 1})
        assert client.rest() == []


def test_what_a_session_has_follows_its_subscriptions(node: Daemon, channel: str) -> None:
    client = Client(node)
    subscribe(client, f"{channel}.before")
    session = open_session(client)
    assert open_session(client) == session, "one socket has one session"
    subscribe(client, f"{channel}.after")
    subscribe(client, f"{channel}.gone")
    client.ask(cmd="unsubscribe", channel=f"{channel}.gone")
    subscribe(client, f"{channel}.deleted")
    node.request("DELETE", f"/{channel}.deleted")
    assert client.push() == {"channel": f"{channel}.deleted", "ended": True}
    client.abort()
    with Client(node) as client:
        assert resume(client, session).keys() == {f"{channel}.before", f"{channel}.after"}


def test_a_session_is_bounded(node: Daemon) -> None:
    """What would make it too large is refused; what it has can be resumed."""
    names = [f"bounded.{number}" for number in range(100)]
    filters = {"key": "v" * 3900}
    with Client(node) as client:
        session = open_session(client)
        numbers = [client.send(cmd="subscribe", channel=name, filters=filters) for name in names]
        replies = [client.reply(number) for number in numbers]
        refused = [reply["error"] for reply in replies if "error" in reply]
        assert refused and {error["code"] for error in refused} == {413} and "bytes" in refused[0]["message"]
        taken = {name for name, reply in zip(names, replies, strict=True) if "error" not in reply}
        assert len(taken) > 50
        client.abort()
    with Client(node) as client:
        assert resume(client, session).keys() == taken


def test_a_gap_is_told(node: Daemon, channel: str) -> None:
    name = f"short.{channel}"
    client = Client(node)
    session = open_session(client)
    places = subscribe(client, name)
    client.abort()
    cursors = post(node, name, *range(10))
    epoch = cursors[0].partition(":")[0]
    with Client(node) as client:
        told = resume(client, session)
        assert told == {name: {"cursor": f"{epoch}:5", "recovered": False}}
        gap = client.push()
        assert (gap["channel"], gap["recovered"]) == (name, False) and "missing" in gap
        assert [push["cursor"] for push in client.take(5)] == cursors[5:]
    assert places[name].endswith(":0")


# What can't be resumed.


def test_an_unknown_session(node: Daemon) -> None:
    with Client(node) as client:
        assert client.code(cmd="resume", session="unknown") == 404


def test_a_session_that_is_over(redis_server: RedisServer, start: Callable[..., Daemon]) -> None:
    node = start(store=redis_server.url, session_window=1)
    with Client(node) as client:
        session = open_session(client)
        subscribe(client, "a")
        assert client.ask(cmd="session") == {"session": session, "window": 1.0}
        wait_for(lambda: kept(redis_server, session), "the session is kept")
        client.abort()
    wait_for(lambda: not kept(redis_server, session), "its window is over")
    with Client(node) as client:
        assert client.code(cmd="resume", session=session) == 404


def test_resuming_with_something_subscribed(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        session = open_session(client)
        subscribe(client, channel)
        assert client.code(cmd="resume", session=session) == 409
        client.ask(cmd="unsubscribe", channel=channel)


@pytest.mark.parametrize(
    "options",
    [{}, {"session": None}, {"session": ""}, {"session": 5}, {"session": "x" * 65}, {"session": "\ud800"},
     {"session": "a b"}, {"session": "a", "since": []}, {"session": "a", "since": "a:1"},
     {"session": "a", "since": {"a": 1}}, {"session": "a", "since": {"a": "x"}}, {"session": "a", "since": {"a": None}},
     {"session": "a", "since": {"a": "x:9223372036854775808"}}],
)  # fmt: skip
def test_malformed_resumes(node: Daemon, options: dict[str, Any]) -> None:
    with Client(node) as client:
        assert client.code(cmd="resume", **options) == 400
        assert client.ask(cmd="ping") == {}


def test_a_failed_resume_takes_nothing_away(redis_server: RedisServer, tmp_path: Path) -> None:
    """A node that carries too many channels refuses; another one resumes the session, though the socket lives on."""
    settings: dict[str, Any] = {"channels": CHANNELS, "keepalive": 0.5}
    with two_nodes(tmp_path, redis_server.url, second={"max_channels": 1}, **settings) as (one, two):
        with Client(one) as client:
            session = open_session(client)
            subscribe(client, "a", "b")
            client.abort()
        with Client(two) as refused, Client(two) as witness, redis.Redis.from_url(redis_server.url) as store:
            assert refused.code(cmd="resume", session=session) == 503
            other = f"raiden:kept:session {open_session(witness)}"
            for _ in range(3):  # a session is kept with each ping
                store.delete(other)
                wait_for(lambda: store.exists(other), "a ping was answered")
            with Client(one) as again:
                assert resume(again, session).keys() == {"a", "b"}


# Commands.


def test_commands_are_bounded(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        numbers = [client.send(cmd="history", channel=channel) for _ in range(3000)]
        replies = [client.reply(number) for number in numbers]
        assert {reply.get("error", {}).get("code") for reply in replies} <= {None, 429}
        assert "error" not in client.ask(cmd="history", channel=channel)


@pytest.mark.parametrize(
    ("text", "answer"),
    [('{"id": 1e400, "cmd": "ping"}', b'{"id":1e400}'), ('{"id": -0.10, "cmd": "ping"}', b'{"id":-0.10}'),
     ('{"id": "\\u00e4", "cmd": "ping"}', '{"id":"ä"}'.encode())],
)  # fmt: skip
def test_ids_come_back_as_they_are(node: Daemon, text: str, answer: bytes) -> None:
    with Client(node) as client:
        client.ws.send(text)
        assert client.ws.recv(20, decode=False) == answer


@pytest.mark.parametrize(
    "text",
    ['{"id": "\\ud800", "cmd": "ping"}', '{"id": 1, "cmd": "publish", "channel": "a", "data": 1, "key": "\\ud800"}',
     '{"id": 1, "cmd": "publish", "channel": "a", "data": 1, "key": 1.5}', '{"id": 1, "cmd": "publish", "channel": "a",'
     ' "data": 1, "key": ""}', '{"id": 1, "cmd": "publish", "channel": 1.5, "data": 1}', '{"cmd": 1.5}'],
)  # fmt: skip
def test_refused_commands(node: Daemon, text: str) -> None:
    """None of them ends more than itself."""
    pid = node.workers()["history"]
    with Client(node) as client:
        client.ws.send(text)
        assert json.loads(client.ws.recv(20))["error"]["code"] == 400
        assert client.ask(cmd="ping") == {}
    os.kill(pid, 0)
    assert "history died" not in node.log()


def test_the_node_drains(start: Callable[..., Daemon]) -> None:
    """Who is told to come back resumes on another node; here there is only the one, started again."""
    node = start(channels=CHANNELS)
    client = Client(node)
    session = open_session(client)
    subscribe(client, "a")
    (cursor,) = post(node, "a", 1)
    assert client.push()["cursor"] == cursor
    node.signal(signal.SIGTERM)
    assert node.stop() == 0
    client.close()
    again = Daemon(node.folder, channels=CHANNELS)
    with Client(again) as client:
        assert resume(client, session, {"a": cursor}) == {"a": {"cursor": cursor, "recovered": True}}
    assert again.stop() == 0
