"""Durables: who claims what, when it comes again, and what is lost; each engine is tried with the same tests."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
import redis

from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import FORGET, LOOKED, MAX_PENDING, NEVER, TOUCH, Append, Claimed, FiguresAsked, GiveUp, Store
from raiden.model.message import EARLIEST, Cursor
from raiden.model.page import PAGE_BYTES, Gap
from tests.stores import Clock, RedisServer, Soon, append


def offsets(claimed: Claimed) -> list[tuple[int, int]]:
    """Offsets and attempts."""
    return [(record.offset, attempt) for record, attempt in claimed.records]


def claim(store: Store, limit: int = 9, wait: float = 60.0, since: Cursor | None = EARLIEST) -> Claimed:
    return store.claim("a", "d", limit, wait, since)


# Claiming.


def test_each_message_is_claimed_once(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2", b"3").epoch
    first = claim(store, limit=2)
    records = [(record[:3], attempt) for record, attempt in first.records]
    assert (records, first.epoch, first.gap) == ([((1, 0, b"1"), 1), ((2, 0, b"2"), 1)], epoch, None)
    assert offsets(claim(store)) == [(3, 1)] and offsets(claim(store)) == []
    append(store, "a", b"4")
    assert offsets(claim(store)) == [(4, 1)]
    assert offsets(store.claim("a", "other", 9, 60, EARLIEST)) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert claim(store) == Claimed([], epoch, None)


def test_the_next_life_of_a_store_goes_on(open_store: Callable[[], Store]) -> None:
    store = open_store()
    append(store, "a", b"1", b"2")
    claim(store, limit=1)
    store.close()
    assert offsets(claim(open_store())) == [(2, 1)]


def test_where_a_durable_begins(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2", b"3").epoch
    assert offsets(store.claim("a", "now", 9, 60)) == []
    assert offsets(store.claim("a", "after", 9, 60, Cursor(epoch, 2))) == [(3, 1)]
    assert offsets(store.claim("a", "end", 9, 60, Cursor(epoch, 3))) == []
    claimed = store.claim("a", "foreign", 9, 60, Cursor("foreign", 1))
    assert offsets(claimed) == [(1, 1), (2, 1), (3, 1)] and claimed.gap == Gap("foreign", 0, 0)
    assert store.claim("a", "future", 9, 60, Cursor(epoch, 4)) == Claimed([], epoch, Gap(epoch, 0, 0))
    append(store, "a", b"4")
    for name in ("now", "after", "end", "foreign", "future"):
        assert offsets(store.claim("a", name, 9, 60, EARLIEST)) == [(4, 1)], "only the first claim says where"


@pytest.mark.parametrize("since", [None, EARLIEST])
def test_a_durable_begins_before_its_channel(store: Store, since: Cursor | None) -> None:
    assert claim(store, since=since) == Claimed([], EARLIEST.epoch, None)
    assert claim(store, since=since) == Claimed([], EARLIEST.epoch, None)
    epoch = append(store, "a", b"1").epoch
    claimed = claim(store, since=since)
    assert (offsets(claimed), claimed.epoch, claimed.gap) == ([(1, 1)], epoch, None)


def test_a_place_in_what_is_no_more(store: Store) -> None:
    assert claim(store, since=Cursor("gone", 3)) == Claimed([], EARLIEST.epoch, Gap("gone", 0, 0))
    append(store, "a", b"1")
    assert claim(store).gap is None


def test_claims_come_again_after_their_time_and_first(store: Store, soon: Soon) -> None:
    epoch = append(store, "a", b"1", b"2", b"3").epoch
    claim(store, limit=1, wait=0.1)
    claim(store, limit=1, wait=60)
    claim(store, limit=1, wait=0.05)
    found: list[tuple[int, int]] = []

    def two() -> bool:
        found.extend(offsets(claim(store)))
        return len(found) == 2

    soon(two, "two of three come again")
    assert sorted(found) == [(1, 2), (3, 2)]
    append(store, "a", b"4")
    assert offsets(claim(store)) == [(4, 1)]
    assert store.acknowledge("a", "d", epoch, [(1, 1), (3, 2)]) == [3]


def test_claims_come_again_in_their_order(store: Store) -> None:
    append(store, "a", *[b"%d" % n for n in range(1, 13)])
    for n in range(12):
        assert offsets(claim(store, limit=12 if n else 0, wait=0.0))[:1] == ([(1, n)] if n else [])
    assert [offset for offset, _ in offsets(claim(store, limit=7))] == [1, 2, 3, 4, 5, 6, 7]
    assert [offset for offset, _ in offsets(claim(store, limit=7))] == [8, 9, 10, 11, 12]


def test_acknowledged_is_done(store: Store) -> None:
    epoch = append(store, "a", *[b"x"] * 5).epoch
    claim(store, wait=0.0)
    claim(store, limit=2, wait=60.0)  # 1 and 2 in their second attempt
    asked = [(5, 1), (2, 1), (1, 2), (4, 0), (4, 0), (9, 0), (3, 2)]
    assert store.acknowledge("a", "d", epoch, asked) == [5, 1, 4]
    assert store.acknowledge("a", "d", epoch, asked) == []
    assert store.acknowledge("a", "d", "another", [(2, 0)]) == []
    assert store.acknowledge("a", "unknown", epoch, [(2, 0)]) == store.acknowledge("b", "d", epoch, [(2, 0)]) == []
    assert store.acknowledge("a", "d", epoch, []) == []
    assert offsets(claim(store, wait=0.0)) == [(3, 2)]
    store.release("a", "d", epoch, [(2, 2)])
    assert offsets(claim(store)) == [(2, 3), (3, 3)]


def test_released_comes_again_at_once(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2", b"3").epoch
    claim(store)
    store.release("a", "d", epoch, [(3, 0), (1, 1), (2, 7), (9, 0)])
    store.release("a", "d", "another", [(2, 1)])
    store.release("a", "unknown", epoch, [(2, 1)])
    append(store, "a", b"4")
    assert offsets(claim(store)) == [(1, 2), (3, 2), (4, 1)]


def test_forget_ends_a_durable(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2").epoch
    claim(store, limit=1)
    store.forget("a", "d")
    store.forget("a", "none")
    assert store.acknowledge("a", "d", epoch, [(1, 0)]) == []
    assert offsets(claim(store)) == [(1, 1), (2, 1)], "another one"


# What is lost.


def test_a_claim_that_makes_no_durable(store: Store) -> None:
    append(store, "a", b"1", b"2")
    ended = Claimed([], EARLIEST.epoch, ended=True)
    assert store.claim("a", "d", 9, 60.0, EARLIEST, make=False) == ended
    assert store.figures(FiguresAsked()).rows == []
    store.claim("a", "d", 0, 60.0, EARLIEST)
    assert len(store.claim("a", "d", 9, 60.0, make=False).records) == 2
    assert not store.claim("a", "d", 9, 60.0, make=False).ended, "it is there, and has nothing"
    store.forget("a", "d")
    assert store.claim("a", "d", 9, 60.0, make=False) == ended


def test_another_epoch_begins_anew(store: Store) -> None:
    before = append(store, "a", b"1", b"2").epoch
    claim(store, limit=1)
    store.clear("a")
    after = append(store, "a", b"3").epoch
    claimed = claim(store)
    assert (offsets(claimed), claimed.epoch, claimed.gap) == ([(1, 1)], after, Gap(before, 0, 0))
    assert store.acknowledge("a", "d", before, [(1, 0)]) == []
    assert store.acknowledge("a", "d", after, [(1, 1)]) == [1]
    assert claim(store) == Claimed([], after, None), "it is told once"
    store.clear("a")
    assert claim(store) == Claimed([], EARLIEST.epoch, Gap(after, 0, 0))
    assert claim(store) == Claimed([], EARLIEST.epoch, None)
    last = append(store, "a", b"4").epoch
    claimed = claim(store)
    assert (offsets(claimed), claimed.epoch, claimed.gap) == ([(1, 1)], last, None)


def test_what_was_trimmed_is_lost(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2", b"3", size=3).epoch
    claim(store, limit=1, wait=0.0)
    claim(store, limit=0)
    append(store, "a", b"4", b"5", size=3)
    claimed = claim(store)
    assert (offsets(claimed), claimed.gap) == ([(3, 1), (4, 1), (5, 1)], Gap(epoch, 1, 2))
    assert claim(store).gap is None, "it is told once"
    append(store, "a", b"6", b"7", b"8", b"9", size=3)
    assert store.acknowledge("a", "d", epoch, [(3, 1)]) == [3], "it is gone, but done in time"
    store.release("a", "d", epoch, [(4, 0), (5, 0)])
    claimed = claim(store, limit=1)
    assert (offsets(claimed), claimed.gap) == ([(7, 1)], Gap(epoch, 4, 6))
    append(store, "a", b"10", b"11", size=0)
    claimed = claim(store)
    assert (offsets(claimed), claimed.gap) == ([], Gap(epoch, 8, 11))
    assert claim(store) == Claimed([], epoch, None)


def test_what_is_too_old_is_lost(store: Store, soon: Soon) -> None:
    epoch = append(store, "a", b"1", b"2", ttl=60).epoch
    append(store, "a", b"3", b"4", ttl=0.1)
    append(store, "a", b"5", b"6", ttl=60)
    assert offsets(claim(store, limit=1, wait=0.0)) == [(1, 1)]
    soon(lambda: len(store.after("a", None, 9).records) == 4, "two are too old")
    claimed = claim(store, limit=3)
    assert (offsets(claimed), claimed.gap) == ([(1, 2), (2, 1), (5, 1)], Gap(epoch, 3, 4))
    claimed = claim(store)
    assert (offsets(claimed), claimed.gap) == ([(6, 1)], None)


def test_what_is_retained_is_claimed(store: Store, soon: Soon) -> None:
    epoch = append(store, "a", b"1", b"2", ttl=0.1, retain=60).epoch
    claim(store, limit=0)
    soon(lambda: len(store.after("a", None, 9).records) == 1, "one is too old")
    claimed = claim(store, wait=0.0)
    assert (offsets(claimed), claimed.gap) == ([(2, 1)], Gap(epoch, 1, 1))
    append(store, "a", b"3")
    claimed = claim(store)
    assert (offsets(claimed), claimed.gap) == ([(3, 1)], Gap(epoch, 2, 2))


def test_the_first_are_gone_before_a_durable_begins(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2", b"3", size=1).epoch
    claimed = claim(store)
    assert (offsets(claimed), claimed.gap) == ([(3, 1)], Gap(epoch, 1, 2))


# Bounds.


def test_only_so_many_are_pending(store: Store) -> None:
    epoch = store.append([Append("a", [(0, b"x")] * (MAX_PENDING + 5), size=2 * MAX_PENDING)])[0].epoch
    assert len(claim(store, limit=MAX_PENDING - 1).records) == MAX_PENDING - 1
    assert offsets(claim(store, limit=3)) == [(MAX_PENDING, 1)]
    assert claim(store) == Claimed([], epoch, None)
    store.release("a", "d", epoch, [(7, 1)])
    assert offsets(claim(store)) == [(7, 2)], "those that come again"
    store.acknowledge("a", "d", epoch, [(5, 0), (7, 0)])
    assert offsets(claim(store)) == [(MAX_PENDING + 1, 1), (MAX_PENDING + 2, 1)]


def drain(store: Store, give_up: GiveUp = NEVER) -> list[Claimed]:
    """Claims until nothing more is to be looked at."""
    found = [store.claim("a", "d", 9, 60.0, EARLIEST, give_up)]
    while found[-1].more:
        found.append(store.claim("a", "d", 9, 60.0, EARLIEST, give_up))
    return found


def test_so_many_are_looked_at(store: Store) -> None:
    """Dropped, given up, or gone: what takes long takes several claims, and what follows is claimed behind it."""
    for case in ("dropped", "letters", "gone"):
        (appended,) = store.append([Append("a", [(0, b"x")] * (2 * LOOKED + 10), size=5000)])
        while store.claim("a", "d", 1000, 60.0, EARLIEST).records:
            pass
        store.release("a", "d", appended.epoch, [(offset, 0) for offset in appended.offsets])
        last = append(store, "a", b"y", size=1 if case == "gone" else 5000).offsets[0]
        give_up = GiveUp(0 if case == "gone" else 1, Append("dead", [], size=5000) if case == "letters" else None)
        claims = drain(store, give_up)
        assert len(claims) == 3 and [offsets(claimed) for claimed in claims] == [[], [], [(last, 1)]]
        counts = [len(claimed.letters.payloads) for claimed in claims if claimed.letters]
        assert counts == ([LOOKED, LOOKED, 10] if case == "letters" else [])
        if case == "gone":
            gaps = [(claimed.gap.first, claimed.gap.last) for claimed in claims if claimed.gap]
            first = appended.offsets[0]
            assert gaps == [(first, first + LOOKED - 1), (first + LOOKED, first + 2 * LOOKED - 1),
                            (first + 2 * LOOKED, last - 1)]  # fmt: skip
        store.acknowledge("a", "d", appended.epoch, [(last, 0)])


def test_past_what_is_too_old(store: Store, soon: Soon) -> None:
    """Also where that is more than one claim looks at; all of it is told as lost."""
    epoch = append(store, "a", b"1").epoch
    store.acknowledge("a", "d", epoch, offsets(claim(store)))
    store.append([Append("a", [(0, b"x")] * 3000, size=5000, ttl=0.1)])
    append(store, "a", b"2", size=5000)
    soon(lambda: len(store.after("a", None, 9).records) == 2, "all others are too old")
    claims = drain(store)
    gaps = [claimed.gap for claimed in claims if claimed.gap]
    assert (gaps[0].first, gaps[-1].last) == (2, 3001) and offsets(claims[-1]) == [(3002, 1)]
    assert all(one.last + 1 == other.first for one, other in itertools.pairwise(gaps))


def test_claims_of_a_release_that_kept_no_order(redis_store: Redis, redis_server: RedisServer) -> None:
    epoch = append(redis_store, "a", b"1", b"2", b"3").epoch
    claim(redis_store, limit=2)
    with redis.Redis.from_url(redis_server.url) as client:

        def forget() -> None:
            client.delete("raiden:{a}:claimed:d")

        forget()
        (figures,) = redis_store.figures(FiguresAsked()).rows
        assert (figures.lag, figures.in_flight) == (3, 2)
        forget()
        assert redis_store.acknowledge("a", "d", epoch, [(2, 1)]) == [2]
        assert [each.unmet for each in redis_store.append([Append("a", [(0, b"4")], 3, discard_new=True)])] != [None]
        assert FORGET < client.ttl("raiden:{a}:claimed:d") <= FORGET + TOUCH
        forget()
        assert offsets(claim(redis_store)) == [(3, 1)]
        assert client.zrange("raiden:{a}:claimed:d", 0, -1) == [b"1", b"3"]


def test_sqlite_forgets_a_durable_that_nobody_uses(sqlite_store: Sqlite, clock: Clock) -> None:
    store = sqlite_store
    append(store, "a", b"1", b"2", b"3", ttl=9 * FORGET)
    claim(store, limit=2, wait=9 * FORGET)
    clock.pass_by(FORGET)
    assert store.tidy(9) == 0 and offsets(claim(store, limit=1)) == [(3, 1)]
    clock.pass_by(FORGET)
    assert offsets(claim(store)) == [(3, 2)], "claiming is using"
    clock.pass_by(FORGET + TOUCH)
    assert store.tidy(2) == 2
    assert offsets(claim(store)) == [(1, 1), (2, 1), (3, 1)], "half of it was removed, so all of it was"
    clock.pass_by(FORGET + TOUCH)
    assert store.tidy(9) == 4
    assert store._db.execute("SELECT (SELECT count(*) FROM durables), count(*) FROM claims").fetchone() == (0, 0)


def test_redis_forgets_a_durable_that_nobody_uses(redis_store: Redis, redis_server: RedisServer) -> None:
    append(redis_store, "a", b"1", b"2")
    claim(redis_store, limit=1)
    with redis.Redis.from_url(redis_server.url) as client:
        keys = ["raiden:{a}:durable:d", "raiden:{a}:pending:d"]
        assert all(FORGET < client.ttl(key) <= FORGET + TOUCH for key in keys)
        claim(redis_store)
        for key in keys:
            client.expire(key, int(FORGET) - 10)
        claim(redis_store)
        assert all(FORGET < client.ttl(key) <= FORGET + TOUCH for key in keys), "claiming is using"


def test_nothing_to_claim_writes_nothing_in_sqlite(open_sqlite: Callable[[], Sqlite]) -> None:
    store, other = open_sqlite(), open_sqlite()
    append(store, "a", b"1")
    claim(store)
    store.claim("none", "d", 9, 60)
    other._db.execute("BEGIN IMMEDIATE")  # who wrote would wait for this
    store._db.execute("PRAGMA busy_timeout = 0")
    assert offsets(claim(store)) == offsets(store.claim("none", "d", 9, 60)) == []
    other._db.execute("ROLLBACK")


def test_nothing_to_claim_writes_nothing_in_redis(redis_store: Redis, redis_server: RedisServer) -> None:
    append(redis_store, "a", b"1")
    claim(redis_store)
    redis_store.claim("none", "d", 9, 60)
    with redis.Redis.from_url(redis_server.url) as client:
        before = client.info("persistence")["aof_current_size"]
        assert offsets(claim(redis_store)) == offsets(redis_store.claim("none", "d", 9, 60)) == []
        assert client.info("persistence")["aof_current_size"] == before


# Many at once.


def test_four_stores_claim_each_message_once(open_store: Callable[[], Store]) -> None:
    """While others are appended; then what was not acknowledged comes again to one."""
    writer, *stores = [open_store() for _ in range(5)]
    epoch = append(writer, "a", *[b"x"] * 500, size=10_000).epoch
    taken: list[list[tuple[int, int]]] = [[] for _ in stores]
    done = threading.Event()

    def work(number: int) -> None:
        store, random = stores[number], Random(number)
        while True:
            last = done.is_set()
            found = offsets(claim(store, limit=random.choice([1, 3, 20])))
            taken[number] += found
            if last and not found:
                break
            store.acknowledge("a", "d", epoch, [one for one in found if one[0] % 10])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        append(writer, "a", *[b"y"] * 10, size=10_000)
    done.set()
    for thread in threads:
        thread.join()
    everything = [one for found in taken for one in found]
    assert sorted(everything) == [(offset, 1) for offset in range(1, 1001)]
    left = [(offset, 0) for offset in range(10, 1001, 10)]
    stores[0].release("a", "d", epoch, left)
    again: list[tuple[int, int]] = []
    threads = [
        threading.Thread(target=lambda store=store: again.extend(offsets(claim(store, limit=50)))) for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(again) == [(offset, 2) for offset, _ in left]


def test_the_engines_claim_alike(sqlite_store: Sqlite, redis_store: Redis) -> None:
    """A thousand random calls; epochs are named by their order."""
    random, stores = Random(5), (sqlite_store, redis_store)
    epochs: tuple[list[str], list[str]] = ([EARLIEST.epoch], [EARLIEST.epoch])
    seen: Counter[str] = Counter()

    def plain(engine: int, claimed: Claimed) -> tuple[object, ...]:
        names = {epoch: str(number) for number, epoch in enumerate(epochs[engine])}
        gap = claimed.gap and claimed.gap._replace(epoch=names[claimed.gap.epoch])
        records = [(record[:3], attempt) for record, attempt in claimed.records]  # each engine has a clock of its own
        return records, names[claimed.epoch], gap

    for _ in range(1000):
        call, durable = random.random(), random.choice("de")
        if call < 0.03:
            for store in stores:
                store.clear("a")
        elif call < 0.04:
            for store in stores:
                store.forget("a", durable)
        elif call < 0.3:
            messages = [b"%d" % random.randrange(1000) for _ in range(random.choice([1, 2, 9]))]
            size, retain = random.choice([0, 5, 50, 50, 50]), random.choice([0, 900])
            first, second = (append(store, "a", *messages, size=size, retain=retain) for store in stores)
            if first.epoch not in epochs[0]:
                epochs[0].append(first.epoch)
                epochs[1].append(second.epoch)
        elif call < 0.6:
            limit, wait = random.choice([0, 1, 5, 30]), random.choice([0, 60])
            number, offset = random.randrange(len(epochs[0])), random.randrange(20)
            since = [random.choice([None, EARLIEST])] * 2
            if random.random() < 0.5:
                since = [Cursor(known[number], offset) for known in epochs]
            claims = [plain(n, stores[n].claim("a", durable, limit, wait, since[n])) for n in (0, 1)]
            assert claims[0] == claims[1]
            seen.update(records=bool(claims[0][0]), gaps=bool(claims[0][2]))
        else:
            number = random.choice([random.randrange(len(epochs[0])), len(epochs[0]) - 1])
            asked = [(random.randrange(1, 60), random.choice([0, 0, 1, 2])) for _ in range(random.choice([1, 5, 20]))]
            if call < 0.9:
                done = [stores[n].acknowledge("a", durable, epochs[n][number], asked) for n in (0, 1)]
                assert done[0] == done[1]
                seen.update(acknowledged=len(done[0]))
            else:
                for n in (0, 1):
                    stores[n].release("a", durable, epochs[n][number], asked)
    assert min(seen["records"], seen["gaps"], seen["acknowledged"]) > 20, seen


def test_what_is_claimed_at_once_is_bounded_in_bytes(store: Store) -> None:
    store.append([Append("a", [(0, b"%d" % n * (PAGE_BYTES // 4)) for n in range(10)])])
    first = store.claim("a", "d", 100, 60, EARLIEST)
    assert [(record.offset, attempt) for record, attempt in first.records] == [(n, 1) for n in range(1, 6)]
    store.release("a", "d", first.epoch, [(record.offset, attempt) for record, attempt in first.records])
    again, rest = store.claim("a", "d", 100, 60), store.claim("a", "d", 100, 60)
    assert [(record.offset, attempt) for record, attempt in again.records] == [(n, 2) for n in range(1, 6)]
    assert [(record.offset, attempt) for record, attempt in rest.records] == [(n, 1) for n in range(6, 11)]
    assert (first.gap, again.gap, rest.gap) == (None, None, None)


def test_redis_reads_no_more_than_it_tells(own_server: RedisServer) -> None:
    """What a script reads takes the server's memory, and its time: of forty large messages it reads some."""
    store = Redis(own_server.url)
    for _ in range(40):
        append(store, "a", b"x" * PAGE_BYTES)
    assert len(claim(store, limit=1000).records) == len(store.after("a", None, 1000).records) == 2
    assert len(store.before("a", None, 1000).records) == 2
    with redis.Redis.from_url(own_server.url) as client:
        memory = client.info("memory")
        assert memory["used_memory_peak"] - memory["used_memory"] < 25 * PAGE_BYTES
    store.close()
