"""Messages that a consumer gives back: to whom they come again, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from raiden.history.sqlite import Sqlite
from raiden.history.store import Claimed, Store
from raiden.model.message import EARLIEST
from tests.daemons import Daemon, post, running, wait_for
from tests.multiplex import Client, on_each_worker
from tests.stores import Clock, Soon, append


def offsets(claimed: Claimed) -> list[tuple[int, int]]:
    return [(record.offset, attempt) for record, attempt in claimed.records]


def claim(store: Store, limit: int = 9) -> list[tuple[int, int]]:
    return offsets(store.claim("a", "d", limit, 60.0, EARLIEST))


# The store.


def test_it_comes_again_after_its_delay(store: Store, soon: Soon) -> None:
    epoch = append(store, "a", b"1", b"2", b"3").epoch
    assert claim(store) == [(1, 1), (2, 1), (3, 1)]
    asked = [(3, 1), (1, 1), (2, 7), (9, 0), (3, 1)]
    assert store.release("a", "d", epoch, asked, 0.2) == [3, 1, 3]
    assert store.release("a", "d", "another", [(2, 0)], 0.2) == store.release("a", "none", epoch, [(2, 0)], 0.2) == []
    assert claim(store) == [], "not yet"
    found: list[tuple[int, int]] = []

    def both() -> bool:
        found.extend(claim(store))
        return len(found) == 2

    soon(both, "both come again")
    assert found == [(1, 2), (3, 2)], "in their order"
    assert store.acknowledge("a", "d", epoch, [(1, 1), (3, 2), (2, 1)]) == [3, 2]


def test_what_is_put_off_may_be_acknowledged_or_put_off_again(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2").epoch
    claim(store)
    assert store.release("a", "d", epoch, [(1, 1), (2, 1)], 3600.0) == [1, 2]
    assert store.acknowledge("a", "d", epoch, [(1, 0)]) == [1]
    assert store.release("a", "d", epoch, [(1, 0), (2, 0)]) == [2]
    assert claim(store) == [(2, 2)]


def test_sqlite_counts_the_delay_by_its_own_clock(sqlite_store: Sqlite, clock: Clock) -> None:
    epoch = append(sqlite_store, "a", b"1", ttl=9 * 86400.0).epoch
    claim(sqlite_store)
    sqlite_store.release("a", "d", epoch, [(1, 1)], 86400.0)
    clock.pass_by(86399)
    assert claim(sqlite_store) == []
    clock.pass_by(1)
    assert claim(sqlite_store) == [(1, 2)]


# The doors.


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    store = "sqlite" if request.param == "sqlite" else request.getfixturevalue("shared_server").url
    yield from running(tmp_path_factory.mktemp(request.param), workers=2, store=store)


def consume(client: Client, channel: str, **options: Any) -> Client:
    told = client.ask(cmd="subscribe", channel=channel, durable="d", **{"ack": True, **options})
    assert told == {"channel": channel, "durable": "d"}
    return client


def nack(client: Client, channel: str, *cursors: str, **options: Any) -> Any:
    return client.ask(cmd="nack", channel=channel, durable="d", cursors=list(cursors), **options)


def poll(node: Daemon, channel: str, query: str = "") -> list[Any]:
    status, _, body = node.request("GET", f"/{channel}?_durable=d{query}")
    assert status in (200, 204), body
    return [(each["data"], each["attempt"]) for each in json.loads(body)["messages"]] if status == 200 else []


@pytest.mark.parametrize("first", [0, 1])
def test_another_consumer_gets_it_at_once(node: Daemon, channel: str, first: int) -> None:
    """Also on the other worker: there within the second in which it looks."""
    clients = [client for each in on_each_worker(node).values() for client in each]
    one, two = consume(clients[first], channel, window=1, ack_wait=3600), clients[1 - first]
    (cursor,) = post(node, channel, "x")
    assert one.push()["attempt"] == 1
    consume(two, channel, ack_wait=3600)
    assert nack(one, channel, cursor) == {"returned": 1}
    again: list[Any] = []

    def came() -> bool:
        again.extend(each for client in clients for each in client.rest())
        return bool(again)

    wait_for(came, "it comes again, to either of them")
    assert [(push["data"], push["cursor"], push["attempt"]) for push in again] == [("x", cursor, 2)]
    for client in clients:
        client.close()


def test_a_window_has_room_again(node: Daemon, channel: str) -> None:
    """What was given back for a while is not the consumer's any more, so it gets the next one; then it comes again."""
    with Client(node) as client:
        consume(client, channel, window=1)
        cursors = post(node, channel, "x", "y", "z")
        assert client.push()["data"] == "x"
        assert nack(client, channel, cursors[0], delay=1.5) == {"returned": 1}
        assert client.push()["data"] == "y"
        assert nack(client, channel, cursors[0], delay=5) == {"returned": 0, "late": [cursors[0]]}
        assert client.ask(cmd="ack", channel=channel, durable="d", cursor=cursors[1]) == {"acknowledged": 1}
        assert client.push()["data"] == "z"
        assert client.ask(cmd="ack", channel=channel, durable="d", cursor=cursors[2]) == {"acknowledged": 1}
        again = client.push()
        assert (again["data"], again["attempt"]) == ("x", 2)


def test_it_is_put_off_across_workers_and_consumers(node: Daemon, channel: str) -> None:
    clients = [client for each in on_each_worker(node).values() for client in each]
    (consume(clients[0], channel), consume(clients[1], channel))
    (cursor,) = post(node, channel, "x")
    wait_for(lambda: any(client.rest() for client in clients), "one has it")
    told = [nack(client, channel, cursor, delay=3600) for client in clients]
    assert sorted(told, key=str) == [{"returned": 0, "late": [cursor]}, {"returned": 1}]
    assert poll(node, channel, "&_wait=1.5") == []
    again = poll(node, channel, f"&_nack={cursor}")

    def came() -> bool:
        again.extend((push["data"], push["attempt"]) for client in clients for push in client.rest())
        return bool(again)

    wait_for(came, "who names it without a delay frees it at once, for this or another consumer")
    assert again == [("x", 2)]
    for client in clients:
        client.close()


def test_long_polls_give_back(node: Daemon, channel: str) -> None:
    poll(node, channel)
    cursors = post(node, channel, 1, 2, 3)
    assert poll(node, channel) == [(1, 1), (2, 1), (3, 1)]
    assert poll(node, channel, f"&_ack={cursors[0]}&_nack={cursors[2]},{cursors[0]}&_limit=0") == []
    assert poll(node, channel) == [(3, 2)], "what is acknowledged does not come again"
    assert poll(node, channel, f"&_nack={cursors[1]}&_nack_delay=1") == []
    assert poll(node, channel, "&_wait=20") == [(2, 2)]


def test_a_poll_wakes_who_waits(node: Daemon, channel: str) -> None:
    poll(node, channel)
    (cursor,) = post(node, channel, 1)
    assert poll(node, channel) == [(1, 1)]
    with Client(node) as client:
        consume(client, channel)
        assert poll(node, channel, f"&_limit=0&_nack={cursor}") == []
        push = client.push()
        assert (push["data"], push["attempt"]) == (1, 2)


@pytest.mark.parametrize("leave", [True, False])
def test_the_delay_holds_when_its_consumer_leaves_at_once(node: Daemon, channel: str, leave: bool) -> None:
    """Unsubscribed or closed right behind it, the message is not given back a second time, without the delay."""
    with Client(node) as client:
        consume(client, channel, ack_wait=3600)
        (cursor,) = post(node, channel, "x")
        assert client.push()["attempt"] == 1
        sent = client.send(cmd="nack", channel=channel, durable="d", cursor=cursor, delay=60)
        if leave:
            # Both at once, as clients do that end: the first is not over when the second comes.
            left = client.send(cmd="unsubscribe", channel=channel, durable="d")
            assert client.reply(sent)["returned"] == 1 and "error" not in client.reply(left)
    assert poll(node, channel, "&_wait=2") == []


@pytest.mark.parametrize(
    "options",
    [{}, {"cursor": "a:1", "cursors": ["a:1"]},
     {"cursor": "x"}, {"cursors": []}, {"cursors": ["a:1"] * 1001}, {"cursor": "a:1", "delay": -1},
     {"cursor": "a:1", "delay": 86401}, {"cursor": "a:1", "delay": "1"}, {"cursor": "a:1", "delay": True},
     {"cursor": "a:1", "delay": None}, {"cursor": "a:1", "dealy": 1}],
)  # fmt: skip
def test_malformed_commands(node: Daemon, options: dict[str, Any]) -> None:
    with Client(node) as client:
        consume(client, "malformed")
        assert client.code(**{"cmd": "nack", "channel": "malformed", "durable": "d", **options}) == 400
        assert client.code(cmd="nack", channel="malformed", durable="e", cursor="a:1") == 404
        assert client.code(cmd="ack", channel="malformed", durable="d", cursor="a:1", delay=1) == 400


@pytest.mark.parametrize("query", ["_nack=x", "_nack=a:1&_nack_delay=-1", "_nack=a:1&_nack_delay=86401",
                                   "_nack=a:1&_nack_delay=0.5", "nack=a:1", "_nack_dealy=1"])  # fmt: skip
def test_malformed_polls(node: Daemon, query: str) -> None:
    status, _, body = node.request("GET", f"/malformed?_durable=d&{query}")
    assert status == 400 and json.loads(body)["detail"]
