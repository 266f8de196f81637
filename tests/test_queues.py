"""How durable subscriptions do: what waits, what is handed out, what was given up."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
import redis

from raiden.history.figures import COUNTED, LOOKED
from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import FORGET, Append, Figures, FiguresAsked, GiveUp, Store
from raiden.http.queues import MAX_ROWS
from raiden.model.message import EARLIEST
from tests.daemons import Daemon, post, running, wait_for
from tests.multiplex import Client
from tests.stores import Clock, RedisServer, Soon, append

CHANNELS = {"*": {"history_size": 1000}, "jobs*": {"max_attempts": 2}}


# The store.


def figures(store: Store, **asked: Any) -> list[Figures]:
    return store.figures(FiguresAsked(**asked)).rows


def row(store: Store, name: str = "d") -> Figures:
    (found,) = figures(store, channel="a", durable=name)
    assert found[:2] == ("a", name)
    return found


def test_what_waits_and_what_is_handed_out(store: Store) -> None:
    assert figures(store) == []
    store.claim("a", "d", 0, 60.0)
    assert row(store) == Figures("a", "d", 0, 0.0, 0, 0, 0)
    epoch = append(store, "a", *[b"x"] * 5).epoch
    assert row(store)._replace(oldest=0.0) == Figures("a", "d", 5, 0.0, 0, 0, 0)
    store.claim("a", "d", 2, 60.0)
    store.claim("a", "d", 1, 0.0)
    assert (row(store).lag, row(store).in_flight, row(store).redelivered) == (5, 2, 0)
    store.claim("a", "d", 1, 60.0)
    assert (row(store).in_flight, row(store).redelivered) == (3, 1)
    assert store.acknowledge("a", "d", epoch, [(1, 1), (3, 2)]) == [1, 3]
    assert (row(store).lag, row(store).in_flight) == (3, 1)
    store.release("a", "d", epoch, [(2, 1)], 60.0)
    assert (row(store).lag, row(store).in_flight) == (3, 1), "put off"
    store.release("a", "d", epoch, [(2, 1)])
    assert (row(store).lag, row(store).in_flight) == (3, 0)
    store.forget("a", "d")
    assert figures(store) == []


def test_what_is_given_up_is_counted(store: Store) -> None:
    append(store, "a", b"1", b"2")
    for _ in range(3):
        store.claim("a", "d", 9, 0.0, EARLIEST, GiveUp(2, Append("dead", [])))
    for _ in range(2):
        store.claim("a", "e", 9, 0.0, EARLIEST, GiveUp(1))
    assert (row(store).dead, row(store).redelivered, row(store).lag) == (2, 2, 0)
    assert (row(store, "e").dead, row(store, "e").redelivered) == (2, 0)


def test_the_oldest(store: Store, clock: Clock, soon: Soon) -> None:
    store.claim("a", "d", 0, 60.0)
    epoch = append(store, "a", b"1").epoch
    soon(lambda: row(store).oldest >= 0.3, "it grows old")
    append(store, "a", b"2")
    assert row(store).oldest >= 0.3
    store.claim("a", "d", 1, 60.0)
    assert row(store).oldest >= 0.3, "it is handed out"
    store.acknowledge("a", "d", epoch, [(1, 1)])
    assert row(store).oldest < 0.3


def test_what_is_gone_does_not_wait(store: Store, soon: Soon) -> None:
    store.claim("a", "d", 0, 60.0)
    append(store, "a", *[b"x"] * 9, size=5)
    assert row(store).lag == 5
    store.claim("a", "d", 2, 60.0)
    append(store, "a", b"y", size=3)
    assert (row(store).lag, row(store).in_flight) == (3, 0)
    append(store, "a", b"z", ttl=0.1, size=1)
    soon(lambda: row(store).lag == 0, "the last is too old")
    assert row(store).oldest == 0.0


def test_a_history_that_was_cleared(store: Store) -> None:
    append(store, "a", b"1", b"2")
    store.claim("a", "d", 1, 60.0, EARLIEST)
    store.clear("a")
    assert (row(store).lag, row(store).in_flight) == (0, 0)
    append(store, "a", b"3")
    assert (row(store).lag, row(store).in_flight) == (1, 0)


def test_they_come_by_channel_and_name(store: Store) -> None:
    places = [("a", "d"), ("a", "e"), ("a.b", "d"), ("a\u00e9", "d"), ("b", "d"), ("b", "\U0001f600"), ("\uffff", "d"),
              ("\U0001f600", "d")]  # fmt: skip
    mixed = list(places)
    Random(3).shuffle(mixed)
    for channel, name in mixed:
        store.claim(channel, name, 0, 60.0)
    assert [found[:2] for found in figures(store)] == places
    assert [found[:2] for found in figures(store, prefix="a")] == places[:4]
    assert [found[:2] for found in figures(store, channel="a")] == places[:2]
    assert [found[:2] for found in figures(store, durable="e")] == [("a", "e")]
    assert figures(store, prefix="z") == figures(store, channel="a.") == figures(store, channel="b", prefix="a") == []
    for limit in (1, 3, 8):
        found: list[tuple[str, ...]] = []
        after: tuple[str, str] | None = ("", "")
        while after is not None:
            page = store.figures(FiguresAsked(after=after, limit=limit))
            assert len(page.rows) <= limit
            found += [each[:2] for each in page.rows]
            after = page.next
        assert found == places


def test_a_page_looks_at_so_many(store: Store) -> None:
    for number in range(LOOKED + 5):
        store.claim("a", f"{number:04}", 0, 60.0)
    page = store.figures(FiguresAsked(durable="none"))
    assert page == ([], ("a", f"{LOOKED - 1:04}"))
    assert store.figures(FiguresAsked(durable="none", after=("a", f"{LOOKED - 1:04}"))) == ([], None)


def test_a_page_of_sqlite_counts_so_many(sqlite_store: Sqlite) -> None:
    sqlite_store.append([Append("a", [(0, b"x")] * 10_000, size=10_000)])
    for name in "de":
        while sqlite_store.claim("a", name, 10_000, 60.0, EARLIEST).records:
            pass
    assert COUNTED == 10_000
    page = sqlite_store.figures(FiguresAsked())
    assert [each.durable for each in page.rows] == ["d"] and page.next == ("a", "d")
    assert [each.in_flight for each in figures(sqlite_store, after=("a", "d"))] == [10_000]


def test_past_what_is_too_old(store: Store, soon: Soon) -> None:
    store.claim("a", "d", 0, 60.0)
    store.append([Append("a", [(0, b"x")] * 500, size=5000, ttl=0.1)])
    append(store, "a", b"1", b"2", size=5000)
    soon(lambda: row(store).lag == 2, "the first are too old")
    assert row(store).oldest < 60


def test_redis_looks_at_few_of_what_is_too_old(redis_store: Redis, redis_server: RedisServer, soon: Soon) -> None:
    """And at none of the claims one by one."""
    redis_store.claim("a", "d", 0, 60.0)
    redis_store.append([Append("a", [(0, b"x")] * 10_000, size=50_000, ttl=0.1)])
    redis_store.append([Append("a", [(0, b"x")] * 300, size=50_000)])
    soon(lambda: row(redis_store).lag == 300, "the first are too old")
    while redis_store.claim("a", "d", 1000, 60.0).more:
        pass
    assert (row(redis_store).lag, row(redis_store).in_flight) == (300, 300)
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_resetstat()
        row(redis_store)
        calls = {name: told["calls"] for name, told in client.info("commandstats").items()}
    assert calls.get("cmdstat_xrange", 0) < 30 and calls.get("cmdstat_zscore", 0) == 0, calls


def test_sqlite_tells_of_none_that_is_forgotten(sqlite_store: Sqlite, clock: Clock) -> None:
    sqlite_store.claim("a", "d", 0, 60.0)
    clock.pass_by(2 * FORGET)
    assert figures(sqlite_store) == []


def test_redis_tells_of_none_that_is_forgotten(redis_store: Redis, redis_server: RedisServer) -> None:
    redis_store.claim("a", "d", 0, 60.0)
    redis_store.claim("a", "e", 0, 60.0)
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.zrange("raiden:durables", 0, -1) == [b"a\0d", b"a\0e"]
        client.delete("raiden:{a}:durable:d")  # as when its time is over
        assert [each.durable for each in figures(redis_store)] == ["e"]
        assert client.zrange("raiden:durables", 0, -1) == [b"a\0e"]
        client.delete("raiden:durables", "raiden:{a}:durables")  # as a release before this one has it
    append(redis_store, "a", b"1")
    redis_store.claim("a", "e", 1, 60.0)
    assert [each.durable for each in figures(redis_store)] == ["e"], "it is listed when it is used"


def test_the_engines_count_alike(sqlite_store: Sqlite, redis_store: Redis) -> None:
    random = Random(11)
    stores: tuple[Store, Store] = (sqlite_store, redis_store)
    epochs = ["", ""]
    for _ in range(600):
        call, durable = random.random(), random.choice("de")
        if call < 0.02:
            for store in stores:
                store.clear("a")
        elif call < 0.4:
            count, size = random.choice([1, 3]), random.choice([5, 20])
            epochs = [append(store, "a", *[b"x"] * count, size=size).epoch for store in stores]
        elif call < 0.7:
            limit, wait = random.choice([0, 1, 4]), random.choice([0.0, 60.0])
            give_up = random.choice([GiveUp(), GiveUp(2), GiveUp(2, Append("dead", []))])
            for store in stores:
                store.claim("a", durable, limit, wait, EARLIEST, give_up)
        else:
            claims = [(random.randrange(1, 99), 0) for _ in range(20)]
            delay = random.choice([0.0, 60.0])
            for store, epoch in zip(stores, epochs, strict=True):
                if call < 0.85:
                    store.acknowledge("a", durable, epoch, claims)
                else:
                    store.release("a", durable, epoch, claims, delay)
        one, two = ([each._replace(oldest=0.0) for each in figures(store)] for store in stores)
        assert one == two


# The page.


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    store = "sqlite" if request.param == "sqlite" else request.getfixturevalue("shared_server").url
    yield from running(tmp_path_factory.mktemp(request.param), workers=2, store=store, channels=CHANNELS)


def test_the_page(node: Daemon, channel: str) -> None:
    name = f"jobs.{channel}"
    with Client(node) as client:
        assert client.ask(cmd="subscribe", channel=name, durable="d", ack=True, window=2)["durable"] == "d"
        cursors = post(node, name, *range(5))
        client.take(2)
        (found,) = node.json(f"/-/durables?_channel={name}")["durables"]
        assert list(found) == ["channel", "durable", "lag", "oldest", "in_flight", "redelivered", "dead"]
        assert 0 <= found.pop("oldest") < 60
        assert found == {"channel": name, "durable": "d", "lag": 5, "in_flight": 2, "redelivered": 0, "dead": 0}
        client.ask(cmd="nack", channel=name, durable="d", cursor=cursors[0])
        while (push := client.push())["cursor"] != cursors[0]:
            # It came before the other was back, and took its place.
            client.ask(cmd="ack", channel=name, durable="d", cursor=push["cursor"])
        client.ask(cmd="nack", channel=name, durable="d", cursor=cursors[0])

        def told() -> bool:
            (found,) = node.json(f"/-/durables?_channel={name}")["durables"]
            return [found[each] for each in ("dead", "redelivered")] == [1, 1]

        wait_for(told, "it was handed out twice, and given up")


def test_a_store_that_is_away(start: Callable[..., Daemon], own_server: RedisServer) -> None:
    """It says so, to all who ask, and not that too many do."""
    node = start(store=own_server.url)
    assert node.json("/-/durables") == {"durables": []}
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            paths = [f"/-/durables?_prefix={number}" for number in range(3)] + ["/-/channels/a/history"]
            for status, headers, body in pool.map(lambda path: node.request("GET", path), paths):
                assert (status, "retry-after" in headers) == (503, True)
                assert "does not answer: try again later" in json.loads(body)["detail"]
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    wait_for(lambda: node.request("GET", "/-/durables")[0] == 200, "it is there again")


def test_pages_follow_each_other(node: Daemon, channel: str) -> None:
    names = [f"{channel}/{mark}" for mark in ("a b", "b&c", "z", "\u00e9+")]
    for name in names:
        for durable in ("one", "tw+o"):
            status, _, body = node.request("GET", f"/{quote(name, safe='')}?_durable={quote(durable)}")
            assert status == 204, body
    found: list[Any] = []
    query = f"?_prefix={channel}/&_limit=3"
    after = ""
    while True:
        page = node.json(f"/-/durables{query}{after}")
        found += [(each["channel"], each["durable"]) for each in page["durables"]]
        assert all(each["oldest"] is None and each["lag"] == 0 for each in page["durables"])
        if "next" not in page:
            break
        assert re.fullmatch("[A-Za-z0-9_-]+", page["next"])
        after = f"&_after={page['next']}"
    assert found == [(name, durable) for name in names for durable in ("one", "tw+o")]
    page = node.json(f"/-/durables?_prefix={channel}/&_durable=one&_limit={MAX_ROWS}")
    assert [each["channel"] for each in page["durables"]] == names


@pytest.mark.parametrize(
    "query", ["_limit=0", f"_limit={MAX_ROWS + 1}", "_after=*", "_after=a", "_after=_w", "_name=d"]
)
def test_refused_pages(node: Daemon, query: str) -> None:
    status, _, body = node.request("GET", f"/-/durables?{query}")
    assert status == 400 and json.loads(body)["detail"]
    assert node.request("POST", "/-/durables")[0] == 405


def test_many_ask_at_once(node: Daemon, channel: str) -> None:
    """They share the questions, and all are answered."""
    post(node, channel, 1)
    node.request("GET", f"/{channel}?_durable=d&_since=earliest")

    def ask() -> int:
        connection = node.open()
        connection.request("GET", f"/-/durables?_channel={channel}")
        response = connection.getresponse()
        found = json.loads(response.read())["durables"]
        connection.close()
        return int(found[0]["lag"])

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda _: ask(), range(100))) == [1] * 100


def test_the_metrics(node: Daemon, channel: str) -> None:
    node.request("GET", f"/{channel}?_durable=d")
    post(node, channel, 1, 2, 3)

    def told() -> bool:
        text = node.request("GET", "/-/metrics")[2].decode()
        labels = rf'{{channel="{re.escape(channel)}",durable="d",worker="0"}}'
        lag = re.search(rf"^raiden_durable_lag{labels} 3\.0$", text, re.MULTILINE)
        oldest = re.search(rf"^raiden_durable_oldest_seconds{labels} [0-9.e-]+$", text, re.MULTILINE)
        dead = re.search(rf"^raiden_durable_dead_total{labels} 0\.0$", text, re.MULTILINE)
        in_flight = re.search(rf"^raiden_durable_in_flight{labels} 0\.0$", text, re.MULTILINE)
        return bool(lag and oldest and dead and in_flight)

    wait_for(told, "its figures are told within some seconds")


def test_the_store_is_away(own_server: RedisServer, start: Callable[..., Daemon]) -> None:
    node = start(store=own_server.url)
    node.request("GET", "/a?_durable=d")
    own_server.kill()
    status, headers, body = node.request("GET", "/-/durables")
    assert status == 503 and headers["retry-after"] and json.loads(body)["detail"]
    own_server.start()
    wait_for(lambda: node.request("GET", "/-/durables")[0] == 200, "it is back")


def test_no_history_at_all(start: Callable[..., Daemon]) -> None:
    assert start(store="none").json("/-/durables") == {"durables": []}
