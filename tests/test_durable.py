"""Consumers that share a channel's messages under one name, on real nodes, some of which die."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from raiden.model.chain import MAX_PAST
from tests.daemons import Daemon, Stream, post, running, wait_for
from tests.multiplex import Client, kill, on_each_worker, two_nodes
from tests.relay import Relay
from tests.stores import RedisServer

NDJSON = {"Content-Type": "application/x-ndjson"}
CHANNELS = {"*": {"history_size": 100_000}, "short*": {"history_size": 5}, "none*": {"history_size": 0}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), workers=2, channels=CHANNELS, max_body=1 << 24)


def consume(client: Client, channel: str, **options: Any) -> Client:
    """Subscribe durably, with acknowledgements."""
    told = client.ask(cmd="subscribe", channel=channel, durable="d", **{"ack": True, **options})
    assert told == {"channel": channel, "durable": "d"}
    return client


def acknowledge(client: Client, channel: str, *cursors: str) -> Any:
    return client.ask(cmd="ack", channel=channel, durable="d", cursors=list(cursors))


def poll(node: Daemon, channel: str, query: str = "") -> tuple[int, list[Any]]:
    status, _, body = node.request("GET", f"/{channel}?_durable=d{query}")
    return status, json.loads(body)["messages"] if status == 200 else []


# A queue of work.


class Work:
    """What consumers have done: how often each message was acknowledged, and the attempts that were redelivered."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done: Counter[int] = Counter()
        self.again: set[int] = set()
        self.held: set[int] = set()
        self.errors: list[str] = []
        self._lock = threading.Lock()

    @property
    def finished(self) -> bool:
        return len(self.done) >= self.total or bool(self.errors)

    def note(self, pushes: list[Any]) -> None:
        with self._lock:
            for push in pushes:
                if push["attempt"] > 1:
                    self.again.add(push["data"])
                elif push["data"] in self.held:
                    self.errors.append(f"{push['data']} came again and does not say so")

    def acknowledged(self, values: list[int]) -> None:
        with self._lock:
            self.done.update(values)

    def check(self) -> None:
        assert not self.errors, self.errors
        assert set(self.done) == set(range(self.total)) and set(self.done.values()) == {1}
        assert self.again == self.held, "what was held came again, and nothing else"


def work_on(work: Work, client: Client, channel: str) -> None:
    """Acknowledge all that comes, one by one or some at a time, until everything is done."""
    while not work.finished:
        try:
            pushes = [client.push(0.05)]
        except TimeoutError:
            continue
        pushes += list(client.pushes)
        client.pushes.clear()
        work.note(pushes)
        answer = acknowledge(client, channel, *[push["cursor"] for push in pushes])
        late = set(answer.get("late", ()))
        assert answer["acknowledged"] + len(late) == len(pushes)
        work.acknowledged([push["data"] for push in pushes if push["cursor"] not in late])


def run(work: Work, tasks: Sequence[Callable[[], None]]) -> None:
    """Do all tasks at the same time, to their end."""

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:
            work.errors.append(repr(error))

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert not any(thread.is_alive() for thread in threads), f"{len(work.done)} of {work.total} are done"
    work.check()


def publish_all(node: Daemon, channel: str, total: int, begin: int = 0) -> None:
    for first in range(begin, total, 50):
        post(node, channel, *range(first, min(first + 50, total)))


def hold(work: Work, client: Client, channel: str, count: int) -> None:
    """Get messages and acknowledge none."""
    consume(client, channel, window=count, ack_wait=60)
    pushes = client.take(count)
    assert all(push["attempt"] == 1 and push["channel"] == channel and push["durable"] == "d" for push in pushes)
    work.held |= {push["data"] for push in pushes}


def test_one_of_four_is_killed(node: Daemon, channel: str) -> None:
    """Two on each of two workers. What the dead one held comes again at once, though its claims would hold longer."""
    work = Work(1200)
    clients = [client for each in on_each_worker(node, 2).values() for client in each]
    consume(clients[0], channel, window=1)
    publish_all(node, channel, 100)
    work.note([clients[0].push()])
    hold(work, clients[1], channel, 40)
    clients[1].abort()
    clients[0].ask(cmd="unsubscribe", channel=channel, durable="d")
    work.held.add(0)
    others = [clients[0], *clients[2:]]
    for client in others:
        consume(client, channel, ack_wait=60)
    tasks = [partial(work_on, work, client, channel) for client in others]
    run(work, [*tasks, partial(publish_all, node, channel, work.total, 100)])
    for client in others:
        client.close()


def test_one_of_four_on_two_nodes_is_killed(redis_server: RedisServer, tmp_path: Path) -> None:
    """The dead one takes its whole node with it: what it held comes again when its time is over."""
    work = Work(500)
    with two_nodes(tmp_path, redis_server.url, channels=CHANNELS) as (one, two):
        mine, theirs = [Client(one), Client(one)], [Client(two), Client(two)]
        for client in theirs:
            consume(client, "a", window=10, ack_wait=1)
        publish_all(one, "a", 20)
        for client in theirs:
            work.held |= {push["data"] for push in client.take(10)}
        kill(two)
        for client in mine:
            consume(client, "a")
        tasks = [partial(work_on, work, client, "a") for client in mine]
        run(work, [*tasks, partial(publish_all, one, "a", work.total, 20)])
        for client in [*mine, *theirs]:
            client.close()


def test_a_worker_is_killed(start: Callable[..., Daemon]) -> None:
    node = start(workers=2, channels=CHANNELS)
    work = Work(500)
    clients = on_each_worker(node, 2)
    for client in clients["worker 0"]:
        consume(client, "a", window=50, ack_wait=1)
    publish_all(node, "a", 100)
    for client in clients["worker 0"]:
        work.held |= {push["data"] for push in client.take(50)}
    os.kill(node.workers()["worker 0"], signal.SIGKILL)
    for client in clients["worker 1"]:
        consume(client, "a")
    tasks = [partial(work_on, work, client, "a") for client in clients["worker 1"]]
    run(work, [*tasks, partial(publish_all, node, "a", work.total, 100)])
    for client in [*clients["worker 0"], *clients["worker 1"]]:
        client.close()


def test_long_polls_share(node: Daemon, channel: str) -> None:
    """Four consumers; a fifth has got some and never comes back, so they come again."""
    work = Work(500)
    poll(node, channel)
    publish_all(node, channel, work.total)
    status, messages = poll(node, channel, "&_limit=50&_ack_wait=1")
    assert (status, len(messages)) == (200, 50)
    work.held |= {message["data"] for message in messages}

    def consumer() -> None:
        connection, cursors, values = node.open(), "", list[int]()
        while not work.finished:
            connection.request("GET", f"/{channel}?_durable=d&_wait=1&_limit=20&_ack={cursors}")
            response = connection.getresponse()
            body = response.read()
            work.acknowledged(values)
            found = json.loads(body)["messages"] if response.status == 200 else []
            work.note(found)
            cursors, values = ",".join(each["cursor"] for each in found), [each["data"] for each in found]
        connection.close()

    run(work, [consumer] * 4)


def test_a_long_poll_that_is_aborted_gives_back(node: Daemon, channel: str) -> None:
    """It waits, and has gone before anything came: nothing is lost to it."""
    poll(node, channel)
    connection = node.open()
    connection.request("GET", f"/{channel}?_durable=d&_wait=20&_ack_wait=60")
    wait_for(lambda: subscribers(node, channel) == 1, "the poll waits")
    connection.close()
    wait_for(lambda: subscribers(node, channel) == 0, "its end is noticed")
    post(node, channel, 1)
    status, messages = poll(node, channel, "&_wait=5")
    assert status == 200 and [(each["data"], each["attempt"]) for each in messages] == [(1, 1)]


def test_who_leaves_right_before_a_publish_makes_no_attempt(start: Callable[..., Daemon], channel: str) -> None:
    """On one worker, whose last question for the polls comes to the history before what is published after their end.
    Two workers' questions may come there in any order."""
    node = start(workers=1, channels=CHANNELS)
    poll(node, channel)
    connections = [node.open() for _ in range(2)]
    for connection in connections:
        connection.request("GET", f"/{channel}?_durable=d&_wait=20&_ack_wait=60")
    wait_for(lambda: subscribers(node, channel) == 2, "the polls wait")
    for connection in connections:
        connection.close()
    post(node, channel, 1)  # the worker has seen their end, or looks for it before it asks for this
    status, messages = poll(node, channel, "&_wait=5")
    assert status == 200 and [(each["data"], each["attempt"]) for each in messages] == [(1, 1)]


def test_a_durable_that_is_forgotten_ends_for_all(node: Daemon, channel: str) -> None:
    """It is not made anew by those who were subscribed, behind what was published meanwhile."""
    with Client(node) as one, Client(node) as two:
        for client in (one, two):
            consume(client, channel)
        assert "error" not in two.ask(cmd="unsubscribe", channel=channel, durable="d", forget=True)
        post(node, channel, 1)
        assert one.push() == {"channel": channel, "durable": "d", "ended": True}
        assert node.json(f"/-/durables?_channel={channel}") == {"durables": []}
        assert one.code(cmd="ack", channel=channel, durable="d", cursor="a:1") == 404
        assert one.ask(cmd="subscribe", channel=channel, durable="d", since="earliest", ack=True) == {
            "channel": channel, "durable": "d"
        }  # fmt: skip
        assert one.push()["data"] == 1


def subscribers(node: Daemon, channel: str) -> int:
    found: int = node.json(f"/-/channels/{channel}")["subscribers"]
    return found


# Acknowledging.


def test_a_late_acknowledgement_is_named(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        consume(client, channel, ack_wait=1, window=2)
        cursors = post(node, channel, "x", "y")
        assert [push["attempt"] for push in client.take(2)] == [1, 1]
        assert acknowledge(client, channel, cursors[1]) == {"acknowledged": 1}
        again = client.push()
        assert (again["data"], again["cursor"], again["attempt"]) == ("x", cursors[0], 2)
        assert acknowledge(client, channel, *cursors) == {"acknowledged": 1, "late": [cursors[1]]}
        assert acknowledge(client, channel, cursors[0]) == {"acknowledged": 0, "late": [cursors[0]]}


def test_what_is_not_the_consumers_is_late(node: Daemon, channel: str) -> None:
    """Messages of another consumer, of another channel, of the future, of another epoch."""
    with Client(node) as one, Client(node) as two:
        consume(one, channel, window=1)
        consume(one, f"{channel}.b")
        (other,) = post(node, f"{channel}.b", "b")
        cursors = post(node, channel, 1, 2)
        mine = one.take(2)
        assert sorted(push["channel"] for push in mine) == [channel, f"{channel}.b"]
        consume(two, channel)
        assert two.push()["cursor"] == cursors[1]
        epoch = cursors[0].partition(":")[0]
        foreign = [cursors[1], other, f"{epoch}:3", f"{epoch}:9223372036854775807", "0:0", "abc:1"]
        assert acknowledge(one, channel, *foreign) == {"acknowledged": 0, "late": foreign}
        assert acknowledge(two, channel, cursors[1]) == {"acknowledged": 1}
        assert acknowledge(one, channel, cursors[0], cursors[0]) == {"acknowledged": 1}


@pytest.mark.parametrize(
    "options",
    [{}, {"cursor": None}, {"cursor": 5}, {"cursor": "x"}, {"cursors": []}, {"cursors": ["a:1", 1]}, {"cursors": "a:1"},
     {"cursors": {"a": 1}}, {"cursors": ["a:1"] * 1001}, {"cursor": "a:9223372036854775808"}, {"cursor": "a:-1"},
     {"cursor": "a:1", "durable": ""}, {"cursor": "a:1", "durable": 5}, {"cursor": "a:1", "durable": "\ud800"},
     {"cursor": "a:1", "durable": None}, {"cursor": "a:1", "channel": 7}],
)  # fmt: skip
def test_malformed_acknowledgements(node: Daemon, options: dict[str, Any]) -> None:
    with Client(node) as client:
        consume(client, "malformed")
        assert client.code(**{"cmd": "ack", "channel": "malformed", "durable": "d", **options}) == 400


def test_acknowledging_without_a_subscription(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        assert client.code(cmd="ack", channel=channel, durable="d", cursor="a:1") == 404
        assert client.code(cmd="unsubscribe", channel=channel, durable="d") == 404


def test_the_window_bounds_what_is_not_acknowledged(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        consume(client, channel, window=3)
        post(node, channel, *range(10))
        seen: list[int] = []
        for expected in (3, 6, 9, 10):
            pushes = client.take(expected - len(seen))
            assert client.rest() == [], "no more than the window"
            seen += [push["data"] for push in pushes]
            assert acknowledge(client, channel, *[push["cursor"] for push in pushes])["acknowledged"] == len(pushes)
        assert seen == list(range(10))


def test_without_acknowledgements_all_comes_once(node: Daemon, channel: str) -> None:
    clients = [Client(node) for _ in range(3)]
    for client in clients:
        consume(client, channel, ack=False, window=7, ack_wait=1)
    publish_all(node, channel, 1000)
    found: list[Any] = []

    def everything() -> bool:
        for client in clients:
            found.extend(client.rest())
        return len(found) >= 1000

    wait_for(everything, "all messages")
    assert sorted(push["data"] for push in found) == list(range(1000))
    assert {push["attempt"] for push in found} == {1}
    for client in clients:
        client.close()
    post(node, channel, "last")
    with Client(node) as client:
        consume(client, channel)
        assert client.push()["data"] == "last", "nothing comes again"


def test_many_bytes_are_sent_as_fast_as_the_client_reads(node: Daemon, channel: str) -> None:
    """The window holds more than the outbox, which does not make a slow consumer."""
    text = "x" * 60_000
    poll(node, channel)
    for begin in range(0, 200, 20):
        post(node, channel, *[[number, text] for number in range(begin, begin + 20)])
    with Client(node) as client:
        consume(client, channel, window=200)
        assert [push["data"][0] for push in client.take(200)] == list(range(200))


def test_unsubscribing_while_messages_are_sent(node: Daemon, channel: str) -> None:
    """The reply is the last that comes of it; the rest is another's at once. A new subscription is not ended for it."""
    text = "x" * 60_000
    poll(node, channel)
    post(node, channel, *[[number, text] for number in range(100)])
    with Client(node) as client:
        consume(client, channel, window=100)
        client.push()
        client.ask(cmd="unsubscribe", channel=channel, durable="d")
        client.pushes.clear()
        consume(client, channel, window=100)
        assert sorted(push["data"][0] for push in client.take(100)) == list(range(100))
        assert client.rest() == []


def test_what_a_consumer_gives_back_comes_to_another(node: Daemon, channel: str) -> None:
    with Client(node) as one, Client(node) as two:
        consume(one, channel, window=1)
        post(node, channel, "x")
        assert one.push()["attempt"] == 1
        consume(two, channel)
        assert one.ask(cmd="unsubscribe", channel=channel, durable="d") == {"channel": channel, "durable": "d"}
        again = two.push()
        assert (again["data"], again["attempt"]) == ("x", 2)


def test_forgetting(node: Daemon, channel: str) -> None:
    """Afterwards it is a new one: it begins with what comes next, or where it is told to."""
    with Client(node) as client:
        consume(client, channel)
        post(node, channel, 1, 2)
        assert [push["data"] for push in client.take(2)] == [1, 2]
        told = client.ask(cmd="unsubscribe", channel=channel, durable="d", forget=True)
        assert told == {"channel": channel, "durable": "d"}
        assert client.ask(cmd="unsubscribe", channel=channel, durable="d", forget=True) == told
        consume(client, channel)
        post(node, channel, 3)
        push = client.push()
        assert (push["data"], push["attempt"]) == (3, 1)
        client.ask(cmd="unsubscribe", channel=channel, durable="d", forget=True)
        consume(client, channel, since="earliest")
        assert [(push["data"], push["attempt"]) for push in client.take(3)] == [(1, 1), (2, 1), (3, 1)]


def test_forgetting_where_no_history_is_kept_any_more(tmp_path: Path) -> None:
    """Who has it yet may leave, too."""
    node = Daemon(tmp_path, channels=CHANNELS)
    poll(node, "jobs")
    assert node.stop() == 0
    node = Daemon(tmp_path, channels={"*": {"history_size": 0}, "kept": {"history_size": 9}})
    try:
        (found,) = node.json("/-/durables")["durables"]
        assert (found["channel"], found["durable"]) == ("jobs", "d")
        with Client(node) as client:
            assert client.code(cmd="unsubscribe", channel="jobs", durable="d") == 404
            told = client.ask(cmd="unsubscribe", channel="jobs", durable="d", forget=True)
            assert told == {"channel": "jobs", "durable": "d"}
            assert client.code(cmd="unsubscribe", channel="\ud800", durable="d", forget=True) == 400
        assert node.json("/-/durables")["durables"] == []
    finally:
        assert node.stop() == 0


def test_a_new_one_begins_with_the_reply(node: Daemon, channel: str) -> None:
    """What is published after the reply is for its consumers, also if none of them was there at that time."""
    with Client(node) as client:
        for number in range(100):
            name = f"{channel}.{number}"
            consume(client, name, ack=False)
            client.send(cmd="publish", channel=name, data=number)
            assert client.push()["data"] == number
            client.ask(cmd="unsubscribe", channel=name, durable="d")
    assert poll(node, channel)[0] == 204
    post(node, channel, 1)
    assert [message["data"] for message in poll(node, channel)[1]] == [1]


def test_it_begins_behind_a_cursor(node: Daemon, channel: str) -> None:
    cursors = post(node, channel, 1, 2, 3)
    assert [message["data"] for message in poll(node, channel, f"&_since={cursors[0]}")[1]] == [2, 3]
    with Client(node) as client:
        assert client.ask(cmd="subscribe", channel=channel, durable="e", since=cursors[1], ack=True)["durable"] == "e"
        assert client.push()["data"] == 3
        assert client.code(cmd="subscribe", channel=channel, durable="f", since="nonsense") == 400
        assert client.ask(cmd="subscribe", channel=channel, durable="g", since="abc:7", ack=True)["durable"] == "g"
        assert client.push() == {"channel": channel, "durable": "g", "recovered": False, "missing": None}
        assert [push["data"] for push in client.take(3)] == [1, 2, 3]


# What can't be.


@pytest.mark.parametrize(
    ("code", "options"),
    [(400, {"filters": {"a": 1}}), (400, {"channel": "a*"}), (400, {"channel": "none"}), (400, {"durable": "n" * 9**5}),
     (400, {"durable": ""}), (400, {"durable": None}), (400, {"durable": "a\n"}), (400, {"durable": ["a"]}),
     (400, {"durable": "\ud800"}), (400, {"window": 0}), (400, {"window": 1001}), (400, {"window": 1.5}),
     (400, {"window": True}), (400, {"ack_wait": 0.5}), (400, {"ack_wait": 3601}), (400, {"ack_wait": "1"}),
     (400, {"since": 7})],
)  # fmt: skip
def test_refused_subscriptions(node: Daemon, code: int, options: dict[str, Any]) -> None:
    with Client(node) as client:
        assert client.code(**{"cmd": "subscribe", "channel": "refused", "durable": "d", **options}) == code
        assert client.ask(cmd="subscribe", channel="refused", durable="d") == {"channel": "refused", "durable": "d"}
        assert client.code(cmd="subscribe", channel="refused", durable="d") == 409


@pytest.mark.parametrize(
    "path",
    ["none?_durable=d", "a*?_durable=d", "a?_durable=", "a?_durable=" + "n" * 7000, "a?_durable=a%0A",
     "a?_durable=d&x=1", "a?_durable=d&_limit=-1", "a?_durable=d&_limit=1001", "a?_durable=d&_ack_wait=0",
     "a?_durable=d&_ack_wait=1e3", "a?_durable=d&_last=1", "a?_durable=d&_wrap=1", "a?_durable=d&_raw=1",
     "a?_ack=abc:1&_wait=0", "a?_nack=abc:1", "a?_limit=5", "a?_nack_delay=5",
     "a?_durable=d&_ack=x", "a?_durable=d&_ack=x:9223372036854775808", "a?_durable=d&_since=x", "a?_durable=d&_wait=x",
     "-/subscribe?channel=a&channel=b&_durable=d"],
)  # fmt: skip
def test_refused_polls(node: Daemon, path: str) -> None:
    status, headers, body = node.request("GET", f"/{path}")
    assert (status, headers["content-type"]) == (400, "application/problem+json") and json.loads(body)["detail"]


def test_a_poll_acknowledges_what_there_is(node: Daemon, channel: str) -> None:
    """What is no claim of the durable's is late, even the largest offset."""
    poll(node, channel)
    (cursor,) = post(node, channel, 1)
    epoch = cursor.partition(":")[0]
    assert [message["cursor"] for message in poll(node, channel)[1]] == [cursor]
    largest = f"{epoch}:9223372036854775807"
    bare = cursor.rpartition(":")[0]
    status, _, body = node.request("GET", f"/{channel}?_durable=d&_ack=abc:1,{largest},{cursor},{bare},{cursor}")
    assert (status, json.loads(body)) == (200, {"late": ["abc:1", largest], "messages": []})
    status, _, body = node.request("GET", f"/{channel}?_durable=d&_ack={bare}&_nack=abc:1")
    assert (status, json.loads(body)) == (200, {"late": [bare, "abc:1"], "messages": []})


def test_a_poll_that_is_late_gets_its_messages(node: Daemon, channel: str) -> None:
    poll(node, channel)
    (cursor, other) = post(node, channel, 1, 2)
    assert len(poll(node, channel, "&_limit=1")[1]) == 1
    status, _, body = node.request("GET", f"/{channel}?_durable=d&_ack={cursor},{other}&_nack={cursor}&_wait=20")
    found = json.loads(body)
    assert (status, found["late"], [each["data"] for each in found["messages"]]) == (200, [other], [2])
    assert poll(node, channel, f"&_ack={other}")[0] == 204


def test_a_poll_names_as_many_epochs_as_there_are(node: Daemon, channel: str) -> None:
    """Of each the store is asked."""
    most = MAX_PAST + 1
    poll(node, channel)
    for name in ("_ack", "_nack"):
        cursors = [f"{number:08x}:1" for number in range(most + 1)]
        status, _, body = node.request("GET", f"/{channel}?_durable=d&{name}={','.join(cursors)}")
        assert status == 400 and f"at most {most} epochs" in json.loads(body)["detail"]
        status, _, body = node.request("GET", f"/{channel}?_durable=d&{name}={','.join(cursors[1:] * 2)}")
        assert (status, json.loads(body)["late"]) == (200, cursors[1:])


@pytest.mark.parametrize("command", ["ack", "nack"])
def test_a_message_has_two_cursors(node: Daemon, channel: str, command: str) -> None:
    """With its proof, and without: it is done with once, and neither is late. One with another proof is."""
    with Client(node) as client:
        consume(client, channel)
        for number in range(2):
            (cursor,) = post(node, channel, number)
            (bare, _, proof) = cursor.rpartition(":")
            wrong = f"{bare}:{'0' * len(proof)}"
            assert client.push()["attempt"] == 1
            cursors = [cursor, bare, wrong, cursor] if number else [wrong, bare, cursor]
            reply = client.ask(cmd=command, channel=channel, durable="d", cursors=cursors, **(
                {"delay": 60} if command == "nack" else {}))  # fmt: skip
            assert reply == {"acknowledged" if command == "ack" else "returned": 1, "late": [wrong]}


def test_a_poll_that_only_acknowledges(node: Daemon, channel: str) -> None:
    """With a limit of none it claims none, and does not wait."""
    poll(node, channel)
    (cursor, _) = post(node, channel, 1, 2)
    assert len(poll(node, channel, "&_limit=1")[1]) == 1
    assert poll(node, channel, f"&_limit=0&_wait=20&_ack={cursor}")[0] == 204
    assert [(each["data"], each["attempt"]) for each in poll(node, channel)[1]] == [(2, 1)]


def test_head_claims_nothing(node: Daemon, channel: str) -> None:
    poll(node, channel)
    post(node, channel, 1)
    assert node.request("HEAD", f"/{channel}?_durable=d")[0] == 200
    assert [message["attempt"] for message in poll(node, channel)[1]] == [1]


def test_a_channels_own_socket_is_no_consumer(node: Daemon, channel: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{node.host}:{node.port}/{channel}?_durable=d"):
        pass
    assert refused.value.response.status_code == 400


def test_too_many_commands_leave_nothing_behind(node: Daemon, channel: str) -> None:
    """A subscription that was refused for that can be asked for again."""
    with Client(node) as client:
        commands = [{"id": 1000 + n, "cmd": "history", "channel": channel} for n in range(200)]
        commands.append({"id": 1200, "cmd": "subscribe", "channel": channel, "durable": "d"})
        sock = client.ws.socket
        sock.sendall(b"".join(frame(json.dumps(command).encode()) for command in commands))
        replies = [client.reply(1000 + n) for n in range(201)]
        assert replies[0]["messages"] == [] and replies[-1]["error"]["code"] == 429
        assert sum("error" in reply for reply in replies) == 201 - 128
        consume(client, channel)
    wait_for(lambda: subscribers(node, channel) == 0, "its subscription is gone")


def frame(data: bytes) -> bytes:
    """A client's text frame of 126 to 65535 or fewer bytes, masked with zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
    return b"\x81" + size + bytes(4) + data


# What happens to the channel.


def test_deleting_the_channel_ends_it(node: Daemon, channel: str) -> None:
    """What was left is a gap, for whoever claims next: before the end, or after it."""
    gap = {"channel": channel, "durable": "d", "recovered": False, "missing": None}
    with Client(node) as client:
        consume(client, channel)
        post(node, channel, 1)
        assert client.push()["data"] == 1
        assert node.request("DELETE", f"/{channel}")[0] == 202
        told = [client.push()]
        while "ended" not in told[-1]:
            told.append(client.push())
        assert told.pop() == {"channel": channel, "durable": "d", "ended": True}
        consume(client, channel)
        post(node, channel, 2)
        told.append(client.push())
        while "data" not in told[-1]:
            told.append(client.push())
        push = told.pop()
        assert (push["data"], push["attempt"]) == (2, 1)
        assert told in ([], [gap])


def test_trimmed_messages_are_a_gap(node: Daemon) -> None:
    """A history of five: of ten messages that nobody claimed, five are gone."""
    with Client(node) as client:
        consume(client, "short")
        client.ask(cmd="unsubscribe", channel="short", durable="d")
        cursors = post(node, "short", *range(10))
        epoch = cursors[0].partition(":")[0]
        consume(client, "short")
        gap = {"epoch": epoch, "first": 1, "last": 5}
        assert client.push() == {"channel": "short", "durable": "d", "recovered": False, "missing": gap}
        assert [push["data"] for push in client.take(5)] == [5, 6, 7, 8, 9]
    poll(node, "short.b")
    post(node, "short.b", *range(7))
    answer = json.loads(node.request("GET", "/short.b?_durable=d")[2])
    assert answer["gap"]["recovered"] is False and answer["gap"]["missing"]["last"] == 2
    assert [message["data"] for message in answer["messages"]] == [2, 3, 4, 5, 6]


def test_a_claim_that_is_under_way_at_the_end_tells_its_gap(
    own_server: RedisServer, start: Callable[..., Daemon]
) -> None:
    """The durable stands behind the gap then, and no other consumer would hear of it."""
    with Relay(str(own_server.folder / "socket"), 0.05) as relay:
        node = start(store=f"redis://127.0.0.1:{relay.port}/0", channels=CHANNELS)
        with Client(node) as client:
            consume(client, "short")
            client.ask(cmd="unsubscribe", channel="short", durable="d")
            post(node, "short", *range(10))
            consume(client, "short")
            client.ask(cmd="unsubscribe", channel="short", durable="d")
            told = [push for push in client.rest() if "missing" in push]
        assert [gap["missing"]["last"] for gap in told] == [5]
        assert node.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_of_the_node(tmp_path: Path, number: int) -> None:
    """The place and what is claimed are there again. Who is told to go gives back; the dead can't, so their time must
    pass."""
    node = Daemon(tmp_path, channels=CHANNELS)
    with Client(node) as client:
        consume(client, "a", ack_wait=1 if number == signal.SIGKILL else 60)
        cursors = post(node, "a", *range(5))
        client.take(5)
        assert acknowledge(client, "a", cursors[0], cursors[3]) == {"acknowledged": 2}
        if number == signal.SIGKILL:
            kill(node)
        else:
            node.stop()
    node = Daemon(tmp_path, channels=CHANNELS)
    post(node, "a", 5)
    with Client(node) as client:
        consume(client, "a")
        found = sorted((push["data"], push["attempt"]) for push in client.take(4))
    assert node.stop() == 0
    assert found == [(1, 2), (2, 2), (4, 2), (5, 1)]


def test_what_comes_at_once_is_for_as_many_consumers_as_it_takes(node: Daemon, channel: str) -> None:
    clients = [consume(Client(node), channel, window=1) for _ in range(8)]
    for round_ in range(3):
        numbers = [8 * round_ + number for number in range(8)]
        post(node, channel, *numbers)
        pushes = [client.push() for client in clients]
        assert sorted(push["data"] for push in pushes) == numbers
        for client, push in zip(clients, pushes, strict=True):
            assert acknowledge(client, channel, push["cursor"]) == {"acknowledged": 1}
    assert node.json(f"/-/channels/{channel}")["subscribers"] == 8
    for client in clients:
        client.close()


def test_the_consumers_of_a_worker_are_bounded(start: Callable[..., Daemon]) -> None:
    node = start(max_consumers=2, channels=CHANNELS)
    with Client(node) as client:
        for name in "ab":
            assert client.ask(cmd="subscribe", channel=name, durable="d") == {"channel": name, "durable": "d"}
        error = client.ask(cmd="subscribe", channel="a", durable="e")["error"]
        assert error["code"] == 503 and "max_consumers" in error["message"]
        status, headers, body = node.request("GET", "/a?_durable=d")
        assert status == 503 and headers["retry-after"] and "max_consumers" in json.loads(body)["detail"]
        client.ask(cmd="unsubscribe", channel="b", durable="d")
        assert node.request("GET", "/a?_durable=d")[0] == 204


def test_no_history_at_all(start: Callable[..., Daemon]) -> None:
    node = start(store="none")
    assert node.request("GET", "/a?_durable=d")[0] == 400
    with Client(node) as client:
        for command in (
            {"cmd": "subscribe", "channel": "a", "durable": "d"}, {"cmd": "session"}, {"cmd": "resume", "session": "x"},
            {"cmd": "unsubscribe", "channel": "a", "durable": "d", "forget": True},
        ):  # fmt: skip
            error = client.ask(**command)["error"]
            assert error["code"] == 400 and "history" in error["message"]
        assert client.code(cmd="history", channel="a") == 404


def test_the_store_is_away(own_server: RedisServer, start: Callable[..., Daemon]) -> None:
    """A consumer goes on by itself when it is back; a new one is refused meanwhile, and leaves nothing behind."""
    node = start(store=own_server.url)
    with Client(node) as old, Client(node) as new:
        consume(old, "a")
        own_server.kill()
        assert new.code(cmd="subscribe", channel="a", durable="d") == 503
        assert node.request("GET", "/a?_durable=d")[0] == 503
        assert node.json("/-/channels")["channels"]["a"]["subscribers"] == 1, "the old one's"
        own_server.start()
        wait_for(lambda: node.request("GET", "/-/ready")[0] == 200, "the store is back")
        (cursor,) = post(node, "a", 1)
        assert old.push()["cursor"] == cursor
        assert acknowledge(old, "a", cursor) == {"acknowledged": 1}
        consume(new, "a")


def test_nothing_is_left_of_clients_that_are_gone(node: Daemon, channel: str) -> None:
    for _ in range(20):
        client = Client(node)
        consume(client, channel)
        client.abort()
        connection = http.client.HTTPConnection(node.host, node.port)
        connection.request("GET", f"/{channel}?_durable=d&_wait=20")
        sock = connection.sock
        assert isinstance(sock, socket.socket)
        connection.close()
    wait_for(lambda: subscribers(node, channel) == 0, "their subscriptions are gone")
    with Stream(node, f"/{channel}"), pytest.raises(ConnectionClosed):
        client.ws.recv()
