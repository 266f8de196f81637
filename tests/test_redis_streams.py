"""Streams in Redis: what is left behind, time, forks that expire, and servers that fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
import redis

from raiden.history import streams
from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import Append, Appended, Store, StoreFailed
from raiden.history.streams import Add, Fork, Make, Producer, Stream
from raiden.model.message import Cursor, Kind
from tests.daemons import wait_for
from tests.stores import RedisServer, payloads
from tests.test_history_streams import TEXT, add, put, texts, what


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def keys_of(client: redis.Redis) -> set[str]:
    """The names of all keys, without those by which the next history is told from the last one."""
    return {key.decode() for key in client.keys("*") if not key.endswith(b":begun")}


def test_streams_leave_nothing_behind(redis_store: Redis, client: redis.Redis) -> None:
    store = redis_store
    put(store, "s", b"a", b"b")
    add(store, "s", b"c", producer=("p", 0, 0), seq="1")
    put(store, "f", content_type="", ttl=1000, fork=Fork("s"))
    put(store, "g", content_type="", fork=Fork("f"))
    add(store, "g", closes=True)
    assert len(keys_of(client)) == 10, keys_of(client)
    for name in "s", "f", "g":
        store.delete(name)
    assert keys_of(client) == set()
    put(store, "s", b"a")
    append(store, "channel", b"1")
    for name in "s", "channel":
        store.clear(name)
    assert keys_of(client) == set()


def test_each_use_of_a_stream_puts_its_end_off(redis_store: Redis, client: redis.Redis) -> None:
    """All of its keys expire together; one that lasts long enough is not written again."""
    store = redis_store
    put(store, "s", b"a", ttl=100)
    producers = iter(range(9))
    names = [f"raiden:{{s}}:{what}" for what in ("meta", "stream", "producers")]

    def look() -> None:
        store.stream("s", touch=True)

    for use in (
        lambda: add(store, "s", b"b", producer=("p", 0, next(producers))),
        lambda: append(store, "s", kind=Kind.BYTES),
        look,
        lambda: put(store, "s", ttl=100),
        lambda: add(store, "s", b"b", producer=("p", 0, 0)),
        lambda: add(store, "s", closes=True),
        lambda: add(store, "s", closes=True),
    ):
        for name in names:
            client.pexpire(name, 90_000)
        store.stream("s")
        assert max(client.pttl(name) for name in names) <= 90_000
        use()
        ends = {client.pexpiretime(name) for name in names}
        assert len(ends) == 1 and min(client.pttl(name) for name in names) > 100_000, use
        look()
        assert {client.pexpiretime(name) for name in names} == ends, "it lasts long enough"
    page = store.stream("s")
    assert page.stream is not None and page.stream.ttl == 100


def append(store: Redis, channel: str, *payloads: bytes, kind: int = Kind.JSON) -> None:
    store.append([Append(channel, [(kind, payload) for payload in payloads or (b"1",)])])


def test_a_stream_that_lasts_has_no_time(redis_store: Redis, client: redis.Redis) -> None:
    store = redis_store
    put(store, "s", b"a")
    store.append([Append("s", [(Kind.BYTES, b"b")], size=1, ttl=0.001, retain=0.001)])
    add(store, "s", b"c", producer=("p", 0, 0))
    put(store, "f", content_type="", fork=Fork("s"))
    for key in keys_of(client):
        assert client.pttl(key) == -1, key
    assert texts(store, "f") == [b"a", b"b", b"c"]


def test_a_fork_that_expires_frees_its_source(redis_store: Redis, open_redis: Callable[[], Redis]) -> None:
    """Another store looks: that one is gone. A source of forks that are gone goes with them."""
    store = redis_store
    put(store, "a", b"1")
    put(store, "b", content_type="", ttl=1, fork=Fork("a"))
    put(store, "c", content_type="", ttl=1, fork=Fork("b"))
    put(store, "d", content_type="", ttl=1000, fork=Fork("a"))
    store.delete("a")
    other = open_redis()
    wait_for(lambda: other.stream("c").stream is None, "its time is over")
    wait_for(lambda: other.stream("b").stream is None or not other.tidy(100), "all that was due is done")
    while other.tidy(100):
        pass
    assert other.stream("b").stream is None, "it was kept for one fork"
    assert what(put(other, "a")) == streams.RESERVED, "another fork is there"
    other.delete("d")
    assert what(put(other, "a")) == ""


def test_a_fork_that_lives_on_keeps_its_source(redis_store: Redis, client: redis.Redis) -> None:
    """A fork whose time was put off is looked at again later, and one that was made anew is another one."""
    store = redis_store
    put(store, "s", b"a")
    put(store, "f", content_type="", ttl=1000, fork=Fork("s"))
    ((_, due),) = client.zrange("raiden:forks", 0, -1, withscores=True)
    store.tidy(100)
    assert client.zrange("raiden:forks", 0, -1, withscores=True)[0][1] > due, "by now it knows when its time is over"
    client.zadd("raiden:forks", {client.zrange("raiden:forks", 0, -1)[0]: 0})
    store.delete("s")
    assert store.tidy(100) == 1 and store.tidy(100) == 0
    assert what(put(store, "s")) == streams.RESERVED
    store.delete("f")
    put(store, "f", b"another")
    assert what(put(store, "s")) == "" and texts(store, "f") == [b"another"]


def test_a_crash_amid_a_deletion_is_made_good(redis_store: Redis, client: redis.Redis) -> None:
    """The node that deleted a fork did not come to tell its source."""
    store = redis_store
    put(store, "s", b"a")
    put(store, "f", content_type="", fork=Fork("s"))
    store.delete("s")
    keys = [f"raiden:{{f}}:{what}" for what in ("meta", "stream", "producers", "forks")]
    store._streams._delete_script([*keys, "raiden:forks"], [1])
    assert what(put(store, "s")) == streams.RESERVED
    store.tidy(100)
    assert what(put(store, "s")) == ""


def test_a_long_fork_is_copied_in_short_steps(redis_store: Redis, client: redis.Redis) -> None:
    """However long it is, a step takes as long; its copies are gone soon if nobody goes on."""
    store = redis_store
    size = 3000
    put(store, "s", *[b"%d" % number for number in range(size)])
    make = [Append("f", [(Kind.BYTES, b"own")], terms=Make(fork=Fork("s")))]
    steps = 0
    while (made := store.append(make)[0]).outcome is not None and made.outcome.more:
        steps += 1
        copied = client.xlen("raiden:{f}:copies")
        assert copied <= 500 * steps and store.positions(["f"]) == {}
        assert 0 < client.pttl("raiden:{f}:copies") <= 60_000 and 0 < client.pttl("raiden:{f}:beginning") <= 60_000
    assert steps >= 5 and client.exists("raiden:{f}:copies", "raiden:{f}:beginning") == 0
    assert payloads(store.after("f", None, size + 9)) == [*[b"%d" % number for number in range(size)], b"own"]


def test_a_source_that_goes_amid_a_fork(redis_store: Redis, client: redis.Redis) -> None:
    store = redis_store
    put(store, "s", *[b"1"] * 2500)
    make = [Append("f", [], terms=Make(fork=Fork("s")))]
    (made,) = store.append(make)
    assert made.outcome is not None and made.outcome.more
    store.delete("s")
    put(store, "s", *[b"2"] * 2500)
    while (made := store.append(make)[0]).outcome is not None and made.outcome.more:
        pass
    assert set(payloads(store.after("f", None, 3000))) == {b"2"}, "what it has is of one stream"


def test_a_server_without_room_changes_nothing(redis_store: Redis, client: redis.Redis) -> None:
    store = redis_store
    put(store, "s", b"a", ttl=1000)
    put(store, "g", content_type="", fork=Fork("s"))
    client.config_set("maxmemory", 1)
    try:
        for work in (
            lambda: add(store, "s", b"b", producer=("p", 0, 0), seq="1"),
            lambda: put(store, "t", b"b"),
            lambda: put(store, "f", content_type="", fork=Fork("s")),
        ):
            with pytest.raises(StoreFailed, match="maxmemory"):
                work()
        page = store.stream("s", Cursor("", 0), 10, touch=True)
        assert page.stream is not None and page.stream.tail.offset == 1
        assert store.delete("g") != "" and store.stream("g").stream is None, "what frees memory needs none"
    finally:
        client.config_set("maxmemory", 0)
    assert what(add(store, "s", b"b", producer=("p", 0, 0), seq="1")) == ""
    assert {name for name in keys_of(client) if "{t}" in name or "{f}" in name} == set()


def test_a_producer_asks_again_where_nobody_knows(own_server: RedisServer) -> None:
    """The server is killed before its answer comes; the answer is the same whether it had appended or not."""
    store = Redis(own_server.url)
    put(store, "s")
    append = [Append("s", [(Kind.BYTES, b"once")], terms=Add(TEXT, Producer("p", 0, 0)))]
    own_server.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        failure = pool.submit(store.append, append)
        wait_for(lambda: store._redis.connection_pool._available_connections == [], "it asks")
        own_server.process.send_signal(signal.SIGCONT)
        own_server.kill()
        try:
            failure.result()
        except StoreFailed as error:
            assert "nobody knows" in str(error)
    own_server.start()
    (again,) = store.append(append)
    assert again.unmet is None and texts(store, "s") == [b"once"]
    store.close()


def test_streams_that_others_wrote(redis_store: Redis, client: redis.Redis) -> None:
    """Garbage fails a call, and nothing else."""
    store = redis_store
    for garbage in (
        {"stream": "x"},
        {"stream": "4 never", "epoch": "e"},
        {"stream": b"\xff", "epoch": "e", "next": "3"},
    ):
        client.delete("raiden:{s}:meta")
        client.hset("raiden:{s}:meta", mapping=garbage)
        for call in (
            lambda: store.stream("s", None, 10, touch=True),
            lambda: add(store, "s", b"a", producer=("p", 0, 0)),
            lambda: put(store, "s"),
            lambda: put(store, "f", content_type="", fork=Fork("s")),
            lambda: store.append([Append("s", [(0, b"1")])]),
            lambda: store.delete("f"),
        ):
            try:
                call()
            except StoreFailed:
                continue
    client.zadd("raiden:forks", {b"\xff": 0, "no\0fork": 0})
    assert store.tidy(100) == 2 and store.tidy(100) == 0
    assert what(put(store, "other", b"1")) == ""


# Both engines.


class Twins:
    """The same calls of both engines, whose answers must be the same. A place is told by its offset, because the proofs
    of two engines differ."""

    def __init__(self, random: Random, stores: Sequence[Store]) -> None:
        self.random = random
        self.stores = stores

    def same(self, call: Callable[[Store], Any]) -> Any:
        first, second = [call(store) for store in self.stores]
        assert first == second
        return first

    def place(self, store: Store, channel: str, offset: int) -> Cursor:
        found = [record.proof for record in store.after(channel, None, 1000).records if record.offset == offset]
        return Cursor("", offset, found[0] if found else "0" * 12)

    def step(self) -> None:
        random, name = self.random, self.random.choice("abc")
        kind = random.choice(["put", "fork", "fork", "add", "add", "add", "add", "add", "native", "delete", "read"])
        body = [b"%d" % random.randrange(100) * random.choice([1, 1, 5]) for _ in range(random.choice([0, 1, 1, 3]))]
        content_type = random.choice([TEXT, TEXT, "Text/Plain; x=y", "application/json"])
        closes = random.random() < 0.1
        if kind == "put":
            ttl = random.choice([-1, -1, -1, 1000])
            self.same(lambda store: told(put(store, name, *body, content_type=content_type, ttl=ttl, closes=closes)))
        elif kind == "fork":
            source, offset = random.choice("abc"), random.choice([None, 0, 1, 2, 4, 9])
            sub, fork_type = random.choice([0, 0, 1, 3]), random.choice(["", "", content_type])

            def make(store: Store) -> Any:
                at = None if offset is None else self.place(store, source, offset)
                return told(put(store, name, *body, content_type=fork_type, closes=closes, fork=Fork(source, at, sub)))

            self.same(make)
        elif kind == "add":
            producer = random.choice([None, ("p", random.randrange(3), random.randrange(4)), ("q", 0, 0)])
            seq = random.choice([None, None, "1", "10", "2", "a", "B", "é"])
            self.same(
                lambda store: told(
                    add(store, name, *body, content_type=content_type, producer=producer, seq=seq, closes=closes)
                )
            )
        elif kind == "native":
            message = random.choice([Kind.JSON, Kind.TEXT, Kind.BYTES]), b"1"
            self.same(lambda store: told(store.append([Append(name, [message])])[0]))
        elif kind == "delete":
            self.same(lambda store: (store.delete if content_type == TEXT else store.clear)(name) != "")
        offset, limit = random.randrange(6), random.choice([0, 1, 3, 100])

        def read(store: Store) -> Any:
            page = store.stream(name, self.place(store, name, offset), limit, touch=True)
            found = [(record.offset, record.kind, record.payload) for record in page.records]
            native = [(record.offset, record.kind, record.payload) for record in store.after(name, None, 1000).records]
            return shown(page.stream), page.place is None, found, page.more, native

        self.same(read)


def told(appended: Appended) -> Any:
    outcome = appended.outcome if appended.unmet is None else appended.unmet.outcome
    return what(appended), appended.offsets, outcome and (shown(outcome.stream), outcome.producer)


def shown(stream: Stream | None) -> Any:
    if stream is None or stream.deleted:
        return stream is None
    return (*stream[:1], stream.tail.offset, bool(stream.tail.proof), *stream[2:])


def test_both_engines_say_the_same(redis_store: Redis, sqlite_store: Sqlite) -> None:
    seed = os.environ.get("TESTS_SEED") or str(Random().random())
    twins = Twins(Random(seed), (redis_store, sqlite_store))
    for number in range(300):
        try:
            twins.step()
        except AssertionError as error:
            raise AssertionError(f"step {number}, TESTS_SEED={seed}") from error
