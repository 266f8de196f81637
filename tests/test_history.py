"""The history's store: what all engines promise, tried with each; what they survive; and what becomes of a file that is
not as it should be, and of a server that is away."""

from __future__ import annotations

import itertools
import logging
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import redis

from raiden.history.appending import SLACK
from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import FORGET, KEY_WINDOW, TOUCH, Append, Appended, Store, StoreFailed
from raiden.history.wal import ENOUGH, MOST
from raiden.model.message import EARLIEST, Cursor
from raiden.model.options import Durability
from raiden.model.page import Gap, Page, Stand
from tests.daemons import ROOT, environment, wait_for
from tests.stores import Clock, RedisServer, Soon, append, payloads

# Offsets.


def test_offsets_have_no_holes(store: Store) -> None:
    first = append(store, "a", b"1")
    second = append(store, "a", b"2", b"3")
    other = append(store, "b", b"x")
    assert (first.offsets, second.offsets, other.offsets) == (range(1, 2), range(2, 4), range(1, 2))
    assert first.epoch == second.epoch != other.epoch
    assert [cursor.place for cursor in second.cursors()] == [(first.epoch, 2), (first.epoch, 3)]
    assert store.positions(["a", "b", "none"]) == {"a": Stand(second.cursors()[1]), "b": Stand(other.cursors()[0])}


def test_a_group_keeps_its_order(store: Store) -> None:
    group = [Append(f"c{n % 3}", [(0, b"%d" % n)]) for n in range(30)]
    appended = store.append(group)
    assert [a.offsets[0] for a in appended] == [n // 3 + 1 for n in range(30)]
    assert payloads(store.after("c1", None, 100)) == [b"%d" % n for n in range(1, 30, 3)]


def test_what_was_appended_comes_back_as_it_was(store: Store) -> None:
    before = store.now()
    store.append([Append("ä", [(2, b"\0\xff" * 1000), (0, b"")])])
    after = store.now()
    first, second = store.after("ä", None, 10).records
    assert first[:3] == (1, 2, b"\0\xff" * 1000) and second[:3] == (2, 0, b"")
    assert before <= first.published <= second.published <= after, "by the clock of the store"


def test_the_next_life_goes_on(open_store: Callable[[], Store]) -> None:
    store = open_store()
    before = append(store, "a", b"1")
    store.close()
    store = open_store()
    after = append(store, "a", b"2")
    assert after.offsets == range(2, 3)
    page = store.after("a", before.cursors()[0], 9)
    assert (payloads(page), page.gap) == ([b"2"], None)


def test_two_stores_on_one_history(open_store: Callable[[], Store]) -> None:
    """As two processes have them: every offset once."""
    stores = [open_store(), open_store()]
    taken: list[int] = []

    def work(store: Store) -> None:
        for _ in range(200):
            taken.extend(append(store, "a", b"x", b"y", size=1000).offsets)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 801))


# Pages.


def test_pages_forwards_and_backwards(store: Store) -> None:
    epoch = append(store, "a", *[b"%d" % n for n in range(1, 11)]).epoch
    page = store.after("a", None, 4)
    assert (payloads(page), page.more, page.gap) == ([b"1", b"2", b"3", b"4"], True, None)
    assert page.position is not None and (page.epoch, page.position.place) == (epoch, (epoch, 10))
    page = store.after("a", Cursor(epoch, 8), 4)
    assert (payloads(page), page.more, page.gap) == ([b"9", b"10"], False, None)
    page = store.after("a", Cursor(epoch, 10), 4)
    assert (payloads(page), page.more, page.gap) == ([], False, None)
    page = store.before("a", None, 3)
    assert (payloads(page), page.more) == ([b"8", b"9", b"10"], True)
    page = store.before("a", Cursor(epoch, 3), 3)
    assert (payloads(page), page.more) == ([b"1", b"2"], False)


def test_cursors_that_lead_nowhere(store: Store) -> None:
    assert store.after("a", None, 9) == Page()
    assert store.after("a", Cursor("gone", 3), 9).gap == Gap("gone", 0, 0)
    epoch = append(store, "a", b"1", b"2").epoch
    page = store.after("a", Cursor("foreign", 1), 9)
    assert page.gap == Gap("foreign", 0, 0) and payloads(page) == [b"1", b"2"]
    for cursor in (Cursor(epoch, 3), Cursor(epoch, 1 << 62)):  # whoever was given that has had what there is
        page = store.after("a", cursor, 9)
        assert page.gap == Gap(epoch, 0, 0) and payloads(page) == []
    assert store.before("a", Cursor("foreign", 1), 9).gap is None


def test_size_is_kept_and_a_gap_is_told(store: Store) -> None:
    for n in range(1, 3 * SLACK):
        epoch = append(store, "a", b"%d" % n, size=10).epoch
    newest = 3 * SLACK - 1
    page = store.after("a", None, 1000)
    assert payloads(page) == [b"%d" % n for n in range(newest - 9, newest + 1)]
    page = store.after("a", Cursor(epoch, 5), 1000)
    assert page.gap == Gap(epoch, 6, newest - 10) and len(page.records) == 10
    assert store.after("a", Cursor(epoch, newest - 10), 1000).gap is None


def test_sqlite_removes_what_is_over_the_size_now_and_then(sqlite_store: Sqlite) -> None:
    for n in range(3 * SLACK):
        append(sqlite_store, "a", b"%d" % n, size=10)
    (rows,) = sqlite_store._db.execute("SELECT count(*) FROM messages").fetchone()
    assert rows <= 10 + SLACK


def test_sqlite_keeps_age_and_tells_a_gap(sqlite_store: Sqlite, clock: Clock) -> None:
    epoch = append(sqlite_store, "a", b"1", b"2", ttl=10).epoch
    clock.pass_by(6)
    append(sqlite_store, "a", b"3", ttl=10)
    clock.pass_by(5)
    page = sqlite_store.after("a", Cursor(epoch, 1), 9)
    assert (payloads(page), page.gap) == ([b"3"], Gap(epoch, 2, 2))
    clock.pass_by(6)
    page = sqlite_store.after("a", Cursor(epoch, 1), 9)
    assert page.position and (payloads(page), page.gap, page.position.offset) == ([], Gap(epoch, 2, 3), 3)
    assert sqlite_store.after("a", Cursor(epoch, 3), 9).gap is None, "nothing was missed"
    assert sqlite_store.tidy(2) == 2 and sqlite_store.tidy(9) == 1 and sqlite_store.tidy(9) == 0
    assert append(sqlite_store, "a", b"4").offsets == range(4, 5)


def test_redis_keeps_age_and_tells_a_gap(redis_store: Redis, redis_server: RedisServer) -> None:
    store = redis_store
    epoch = append(store, "a", b"1", b"2", ttl=0.2).epoch
    append(store, "a", b"3", ttl=60)
    wait_for(lambda: payloads(store.after("a", None, 9)) == [b"3"], "two of three are too old")
    page = store.after("a", Cursor(epoch, 1), 9)
    assert (payloads(page), page.gap, page.more) == ([b"3"], Gap(epoch, 2, 2), False)
    assert payloads(store.before("a", None, 1)) == [b"3"]
    append(store, "a", b"4", ttl=0.2)
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.xlen("raiden:{a}:stream") == 2, "what is too old is removed"
        assert 40 < client.ttl("raiden:{a}:stream") <= 60, "the last of all ages counts"


def test_redis_removes_an_idle_channel(redis_store: Redis, redis_server: RedisServer) -> None:
    store = redis_store
    epoch = append(store, "a", b"1", b"2", ttl=0.2).epoch
    with redis.Redis.from_url(redis_server.url) as client:
        wait_for(lambda: not client.exists("raiden:{a}:stream"), "the messages are gone")
        page = store.after("a", Cursor(epoch, 1), 9)
        assert page.position and (payloads(page), page.gap, page.position.offset) == ([], Gap(epoch, 2, 2), 2)
        assert store.after("a", Cursor(epoch, 2), 9).gap is None, "nothing was missed"
        assert append(store, "a", b"3").cursors()[0].place == (epoch, 3), "the offsets go on"
        assert FORGET - 20 < client.ttl("raiden:{a}:meta") <= FORGET
        append(store, "a", b"4", ttl=2 * FORGET)
        assert client.ttl("raiden:{a}:meta") > FORGET + 20, "not before its last message"
        client.delete("raiden:{a}:meta")
    after = append(store, "a", b"5")
    assert after.epoch != epoch and after.offsets == range(1, 2)
    assert payloads(store.after("a", None, 9)) == [b"5"], "no messages of another epoch"


def test_sqlite_forgets_a_channel_long_after_its_last_message(sqlite_store: Sqlite, clock: Clock) -> None:
    epoch = append(sqlite_store, "a", b"1", ttl=10).epoch
    clock.pass_by(FORGET - 1)
    sqlite_store.tidy(9)
    assert sqlite_store.positions(["a"])["a"].position.place == (epoch, 1)
    clock.pass_by(TOUCH + 2)
    assert sqlite_store.tidy(9) == 1 and sqlite_store.positions(["a"]) == {}
    assert append(sqlite_store, "a", b"2").epoch != epoch


def test_the_earliest_place_is_in_every_epoch(store: Store) -> None:
    assert store.after("a", EARLIEST, 9) == Page() == store.before("a", EARLIEST, 9)
    epoch = append(store, "a", b"1", b"2", size=2).epoch
    page = store.after("a", EARLIEST, 1)
    assert (payloads(page), page.gap, page.more) == ([b"1"], None, True)
    append(store, "a", b"3", b"4", size=3)
    page = store.after("a", EARLIEST, 9)
    assert (payloads(page), page.gap) == ([b"2", b"3", b"4"], Gap(epoch, 1, 1))
    assert store.after("a", None, 9).gap is None
    append(store, "a", b"5", size=0)
    assert store.after("a", EARLIEST, 9).gap == Gap(epoch, 1, 5)
    store.clear("a")
    append(store, "a", b"new")
    assert store.after("a", EARLIEST, 9).gap is None
    assert store.after("a", Cursor(EARLIEST.epoch, 1), 9).gap == Gap(EARLIEST.epoch, 0, 0)


# The last message.


def test_the_last_message_is_retained(store: Store, soon: Soon) -> None:
    epoch = append(store, "a", b"1", b"2", ttl=0.2, retain=60).epoch
    soon(lambda: payloads(store.after("a", None, 9)) == [b"2"], "only the last is left")
    while store.tidy(1):
        pass
    assert payloads(store.after("a", None, 9)) == payloads(store.before("a", None, 9)) == [b"2"]
    append(store, "a", b"3", ttl=60)
    page = store.after("a", Cursor(epoch, 1), 9)
    assert (payloads(page), page.gap) == ([b"3"], Gap(epoch, 2, 2)), "it was the last no more"
    append(store, "a", b"4", ttl=60)
    assert payloads(store.before("a", None, 9)) == [b"3", b"4"]


def test_retained_or_not_a_message_is_as_old_as_others(store: Store, soon: Soon) -> None:
    append(store, "a", b"1", ttl=60, retain=0.2)
    append(store, "b", b"1", ttl=0.2, retain=0.3)
    soon(lambda: payloads(store.after("b", None, 9)) == [], "retain ends, too")
    assert payloads(store.after("a", None, 9)) == [b"1"], "the longer one counts"
    append(store, "a", b"2", ttl=60, retain=90)
    append(store, "a", b"3", ttl=60)
    assert payloads(store.after("a", None, 9)) == [b"1", b"2", b"3"]


def test_without_a_history_the_last_message_is_retained(store: Store, soon: Soon) -> None:
    append(store, "a", b"1", b"2", size=0, retain=60)
    assert payloads(store.after("a", None, 9)) == [b"2"]
    append(store, "a", b"3", size=0, ttl=60, retain=0.2)
    assert payloads(store.after("a", None, 9)) == [b"3"]
    soon(lambda: payloads(store.after("a", None, 9)) == [], "for as long as it is retained")
    append(store, "a", b"4", size=0, retain=60)
    append(store, "a", b"5", size=0)
    assert payloads(store.after("a", None, 9)) == []


def test_a_group_retains_its_last_message(store: Store, soon: Soon) -> None:
    """Also where the one before is of the same group, and where a group adds nothing."""
    groups = [Append("a", [(0, b"%d" % n)], ttl=0.2, retain=60) for n in range(3)]
    store.append([*groups, Append("a", [])])
    soon(lambda: payloads(store.after("a", None, 9)) == [b"2"], "one is left of three")


def test_sqlite_does_not_forget_what_is_retained(sqlite_store: Sqlite, clock: Clock) -> None:
    epoch = append(sqlite_store, "a", b"1", ttl=10, retain=3 * FORGET).epoch
    clock.pass_by(2 * FORGET)
    assert sqlite_store.tidy(9) == 0 and payloads(sqlite_store.after("a", None, 9)) == [b"1"]
    assert append(sqlite_store, "a", b"2").epoch == epoch
    assert sqlite_store.tidy(9) == 1, "the first is too old now"
    clock.pass_by(FORGET + TOUCH + 1)
    assert sqlite_store.tidy(9) == 2 and sqlite_store.positions(["a"]) == {}


def test_redis_does_not_forget_what_is_retained(redis_store: Redis, redis_server: RedisServer, soon: Soon) -> None:
    append(redis_store, "a", b"1", b"2", ttl=0.1, retain=2 * FORGET)
    with redis.Redis.from_url(redis_server.url) as client:
        assert min(client.ttl("raiden:{a}:meta"), client.ttl("raiden:{a}:stream")) > FORGET + 20
        soon(lambda: payloads(redis_store.after("a", None, 9)) == [b"2"], "only the last is left")
        append(redis_store, "a", b"3", ttl=60)
        append(redis_store, "a", b"4", ttl=60)
        assert client.xlen("raiden:{a}:stream") == 2, "what was retained is removed"
        assert not client.hexists("raiden:{a}:meta", "retained")


def test_clear_ends_the_epoch(store: Store) -> None:
    before = append(store, "a", b"1", key="k")
    assert store.clear("a") == before.epoch
    assert store.clear("a") == store.clear("none") == ""
    assert store.after("a", before.cursors()[0], 9).gap == Gap(before.epoch, 0, 0)
    after = append(store, "a", b"2", key="k")
    assert after.epoch != before.epoch and after.offsets == range(1, 2) and not after.repeated


def test_the_engines_answer_alike(sqlite_store: Sqlite, redis_store: Redis) -> None:
    """A thousand random calls; epochs are named by their order."""
    random, stores = Random(3), (sqlite_store, redis_store)
    epochs: tuple[list[str], list[str]] = ([], [])

    def plain(engine: int, page: Page) -> tuple[object, ...]:
        names = {epoch: str(number) for number, epoch in enumerate(epochs[engine])}
        position = page.position and page.position._replace(epoch=names[page.position.epoch], proof="")
        gap = page.gap and page.gap._replace(epoch=names[page.gap.epoch])
        # Each has a clock of its own, and so its own proofs.
        records = [record._replace(published=0, proof="") for record in page.records]
        return records, names.get(page.epoch), position, gap, page.more

    for _ in range(1000):
        call, size, limit = random.random(), random.choice([0, 5, *[200] * 30]), random.choice([1, 2, 7, 150])
        if call < 0.02:
            for store in stores:
                store.clear("a")
        elif call < 0.5:
            retain = random.choice([0, 0, 0, 900])
            key = random.choice([None, None, f"k{random.randrange(100)}"])
            messages = [b"%d" % random.randrange(1000) for _ in range(random.choice([1, 1, 2, 9]))]
            first, second = (append(store, "a", *messages, size=size, key=key, retain=retain) for store in stores)
            assert (first.offsets, first.repeated) == (second.offsets, second.repeated)
            if first.epoch not in epochs[0]:
                epochs[0].append(first.epoch)
                epochs[1].append(second.epoch)
        elif epochs[0]:
            epoch = random.choice([None, random.randrange(len(epochs[0])), -1, -1, -1])
            offset = random.randrange(300)
            cursors = [None if epoch is None else Cursor(known[epoch], offset) for known in epochs]
            first_pages = [plain(n, stores[n].after("a", cursors[n], limit)) for n in (0, 1)]
            assert first_pages[0] == first_pages[1], cursors
            last_pages = [plain(n, stores[n].before("a", cursors[n], limit)) for n in (0, 1)]
            assert last_pages[0] == last_pages[1], cursors


# Keys.


def test_a_key_appends_once(store: Store) -> None:
    first = append(store, "a", b"1", b"2", key="k")
    again = append(store, "a", b"1", b"2", key="k")
    assert again == first._replace(repeated=True) and not first.repeated
    assert append(store, "b", b"1", key="k").repeated is False, "another channel's"
    assert append(store, "a", b"3").offsets == range(3, 4), "without a key"


def test_sqlite_forgets_a_key_after_its_window(sqlite_store: Sqlite, clock: Clock) -> None:
    append(sqlite_store, "a", b"1", b"2", key="k")
    clock.pass_by(KEY_WINDOW - 1)
    assert append(sqlite_store, "a", b"1", b"2", key="k").repeated
    clock.pass_by(2)
    assert append(sqlite_store, "a", b"1", b"2", key="k").offsets == range(3, 5)


def test_redis_forgets_a_key_after_its_window(redis_store: Redis, redis_server: RedisServer) -> None:
    append(redis_store, "a", b"1", key="k")
    with redis.Redis.from_url(redis_server.url) as client:
        assert KEY_WINDOW - 20 < client.ttl("raiden:{a}:key:k") <= KEY_WINDOW
        client.delete("raiden:{a}:key:k")
    assert append(redis_store, "a", b"1", key="k").offsets == range(2, 3)


def test_a_key_twice_in_one_group(store: Store) -> None:
    first, second = store.append([Append("a", [(0, b"1")], key="k")] * 2)
    assert second == first._replace(repeated=True)
    assert payloads(store.after("a", None, 9)) == [b"1"]


def test_a_key_at_the_same_time_in_four_stores(open_store: Callable[[], Store]) -> None:
    stores = [open_store() for _ in range(4)]
    barrier = threading.Barrier(len(stores))
    results: list[list[Appended]] = [[] for _ in range(50)]

    def work(store: Store) -> None:
        for number, result in enumerate(results):
            barrier.wait()
            result.append(append(store, "a", b"x", key=f"k{number}"))

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in enumerate(results):
        assert {appended.offsets for appended in result} == {range(number + 1, number + 2)}
        assert sorted(appended.repeated for appended in result) == [False, True, True, True]


# Values.


def test_values_are_kept_for_a_while(store: Store, soon: Soon) -> None:
    assert store.take("a", "me") is None
    assert store.keep("a", b"1\0\xff", 60, "me") and store.keep("b", b"2", 0.1, "me")
    assert (store.take("a", "me"), store.take("b", "me")) == ((b"1\0\xff", "me"), (b"2", "me"))
    soon(lambda: store.take("b", "me") is None, "its time is over")
    while store.tidy(1):
        pass
    assert store.keep("a", b"", 60, "me") and store.take("a", "me") == (b"", "me")
    assert store.keep("b", b"3", 60, "other"), "what is over has no holder"


def test_a_value_has_one_holder(store: Store) -> None:
    assert store.keep("a", b"1", 60, "one")
    assert not store.keep("a", b"2", 60, "two")
    assert store.take("a", "two", only_from="three") is None
    assert store.take("a", "two") == (b"1", "one")
    assert not store.keep("a", b"3", 60, "one"), "however long it was on its way"
    assert store.keep("a", b"4", 60, "two")
    assert store.take("a", "one", only_from="two") == (b"4", "two"), "it is given back"
    assert store.keep("a", b"5", 60, "one") and store.take("a", "x") == (b"5", "one")


def test_sqlite_tidies_values(sqlite_store: Sqlite, clock: Clock) -> None:
    assert sqlite_store.keep("a", b"1", 1, "me") and sqlite_store.keep("b", b"2", 3, "me")
    clock.pass_by(2)
    assert sqlite_store.tidy(9) == 1 and sqlite_store.tidy(9) == 0


# What it survives.

# How often a process that appends is killed.
KILLS = int(os.environ.get("TESTS_KILLS", "12"))
WRITER = """
import sys
from pathlib import Path
from raiden.history.store import Append
from raiden.model.options import Durability
from raiden.history.sqlite import Sqlite
store, durability = Sqlite(Path(sys.argv[1])), Durability[sys.argv[2]]
print("open", flush=True)
for line in sys.stdin:
    appends = [Append("a", [(0, b"%d" % n)], size=10**9, durability=durability) for n in range(int(line))]
    print(*[cursor for appended in store.append(appends) for cursor in appended.cursors()], flush=True)
"""


def writer(path: Path, durability: Durability, *prefix: str) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-c", WRITER, str(path), durability.name]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "open\n"
    return process


def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    """60,000 messages, and the process that appends them killed 12 times in the middle of it."""
    path, acknowledged = tmp_path / "history.db", []
    for _ in range(KILLS):
        process = writer(path, Durability.STORED)
        assert process.stdin and process.stdout
        process.stdin.write("100\n" * 1000)  # more than it gets to do
        process.stdin.flush()
        for _ in range(50):
            acknowledged += process.stdout.readline().split()
        process.kill()
        # What it had acknowledged before it was killed, though nobody had read that yet.
        acknowledged += [cursor for line in process.stdout if line.endswith("\n") for cursor in line.split()]
        process.stdin.close()
        process.stdout.close()
        process.wait()
    store = Sqlite(path)
    stored = store.after("a", None, 10**9)
    assert [record.offset for record in stored.records] == list(range(1, len(stored.records) + 1))
    assert len(acknowledged) >= KILLS * 5000 and len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= {str(message.cursor) for message in stored.messages("a")}
    store.close()


def test_what_was_acknowledged_survives_kills_of_redis(own_server: RedisServer) -> None:
    """Killed five times while two clients append groups, of which all or none is there."""
    acknowledged: list[tuple[int, bytes]] = []
    numbers = itertools.count()

    def work(store: Redis) -> None:
        while True:
            group = [Append("a", [(0, b"%d" % next(numbers))] * 2, size=10**9) for _ in range(10)]
            try:
                appended = store.append(group)
            except StoreFailed:
                return
            for one, result in zip(group, appended, strict=True):
                acknowledged.extend(zip(result.offsets, [payload for _, payload in one.messages], strict=True))

    stores = [Redis(own_server.url) for _ in range(2)]
    for life in range(1, 6):
        threads = [threading.Thread(target=work, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        while len(acknowledged) < life * 1000 and any(thread.is_alive() for thread in threads):
            threads[0].join(0.01)
        own_server.kill()
        for thread in threads:
            thread.join()
        begin = time.monotonic()
        with pytest.raises(StoreFailed, match=r"the history at unix://.* fails: Error 111 "):
            append(stores[0], "a", b"x")
        assert time.monotonic() - begin < 1
        own_server.start()
    stored = {record.offset: record.payload for record in stores[0].after("a", None, 10**6).records}
    assert list(stored) == list(range(1, len(stored) + 1)) and len(stored) % 20 == 0
    assert len(acknowledged) >= 5000 and len(dict(acknowledged)) == len(acknowledged), "no offset twice"
    assert set(acknowledged) <= stored.items()
    for store in stores:
        store.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("durability", [Durability.STORED, Durability.SYNCED])
def test_synced_is_flushed_before_the_answer(tmp_path: Path, durability: Durability) -> None:
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=write,pwrite64,fsync,fdatasync"]
    process = writer(tmp_path / "history.db", durability, *strace)
    assert process.stdin and process.stdout
    for _ in range(3):
        process.stdin.write("1\n")
        process.stdin.flush()
        assert process.stdout.readline()
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == 0
    lines = trace.read_text().splitlines()
    answers = [n for n, line in enumerate(lines) if re.search(r' write\(1<.*, "[0-9a-f]+:\d', line)]
    assert len(answers) == 3
    for begin, end in itertools.pairwise(answers):
        between = lines[begin + 1 : end]
        written = [n for n, line in enumerate(between) if "history.db-wal" in line and "pwrite64(" in line]
        flushed = [
            n for n, line in enumerate(between) if "history.db-wal" in line and re.search(r"f(data)?sync\(", line)
        ]
        assert written
        assert bool(flushed) == (durability == Durability.SYNCED)
        assert not flushed or max(flushed) > max(written), "after the last of it was written"


# Files that are not as they should be.


def test_a_damaged_file_is_set_aside(open_sqlite: Callable[[], Sqlite], caplog: pytest.LogCaptureFixture) -> None:
    store = open_sqlite()
    before = append(store, "a", *[b"x" * 1000] * 100)
    store.close()
    path = store._file.path
    data = bytearray(path.read_bytes())
    data[4096:40960] = b"\xa5" * 36864
    path.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        store = open_sqlite()
    assert "was damaged and set aside" in caplog.text
    (aside,) = [file for file in path.parent.iterdir() if re.search(r"\.damaged-[\d-]+$", file.name)]
    assert aside.read_bytes() == data
    after = append(store, "a", b"new")
    assert after.epoch != before.epoch and after.offsets == range(1, 2)


def test_what_is_no_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(b"something else\n" * 100)
    store = Sqlite(path)
    assert append(store, "a", b"1").offsets == range(1, 2)
    store.close()
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_a_later_schema_is_left_alone(open_sqlite: Callable[[], Sqlite]) -> None:
    store = open_sqlite()
    append(store, "a", b"1")
    store._db.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreFailed, match=r"written by a later release .*another data_dir"):
        open_sqlite()
    with sqlite3.connect(store._file.path) as db:
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    db.close()


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed, match="the history at"):
        Sqlite(tmp_path / "file" / "history.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreFailed, match="Is a directory"):
        Sqlite(tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_full_disk_fails_the_append_and_nothing_else(open_sqlite: Callable[[], Sqlite]) -> None:
    store = open_sqlite()
    append(store, "a", b"1")
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFailed, match="full"):
        append(store, "a", b"x" * 1_000_000, b"y")
    assert payloads(store.after("a", None, 9)) == [b"1"], "not half done"
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert append(store, "a", b"2").offsets == range(2, 3)


def test_a_file_of_a_largest_size(tmp_path: Path, clock: Clock) -> None:
    """Appends fail over it, and work again after the old messages' time."""
    most = 1 << 20
    store = Sqlite(tmp_path / "history.db", most, clock=clock)
    append(store, "a", b"x", ttl=60)
    store.claim("a", "d", 0, 60, EARLIEST)
    with pytest.raises(StoreFailed, match=r"is full: raise max_data \(it may take 1048576 bytes\), keep less history"):
        while True:
            append(store, "a", b"x" * 10_000, size=10**9, ttl=60)
    with pytest.raises(StoreFailed, match="is full"):
        append(store, "b", b"x" * 50_000)
    held = len(store.after("a", None, 10**9).records)
    assert held > 60 and store.positions(["b"]) == {}
    claimed = store.claim("a", "d", 1000, 60)
    assert len(claimed.records) == held, "claims have room left"
    store.acknowledge("a", "d", claimed.epoch, [(offset, 0) for (offset, *_), _ in claimed.records])
    clock.pass_by(61)
    while store.tidy(10):
        pass
    for _ in range(held - 1):
        append(store, "b", b"x" * 10_000, size=10**9)
    assert store._file.path.stat().st_size <= most < store.size() <= most + MOST + 100_000
    store.close()


def test_the_wal_does_not_keep_the_size_of_a_large_group(sqlite_store: Sqlite) -> None:
    wal = sqlite_store._file.path.with_name("history.db-wal")
    append(sqlite_store, "a", *[b"x" * 1_000_000] * 10)
    assert wal.stat().st_size > 2 * ENOUGH

    def small() -> bool:
        append(sqlite_store, "a", b"1", size=3)
        return wal.stat().st_size <= ENOUGH < sqlite_store.size()

    wait_for(small, "it has begun anew")


def test_a_store_that_can_be_written(store: Store) -> None:
    store.check()
    append(store, "a", b"1")
    store.check()
    assert payloads(store.after("a", None, 9)) == [b"1"] and store.size() >= 0


def test_a_file_that_can_not_be_written_now(open_sqlite: Callable[[], Sqlite]) -> None:
    store = open_sqlite()
    append(store, "a", b"1")
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreFailed, match="readonly"):
        store.check()
    store._db.execute("PRAGMA query_only = 0")
    with limited_files():
        with pytest.raises(StoreFailed):
            store.check()
        with pytest.raises(StoreFailed):
            append(store, "a", b"2")
    store.check()
    aside = store._file.path.rename(store._file.path.with_name("aside"))
    with pytest.raises(StoreFailed, match="moved or replaced"):
        store.check()
    store._file.path.touch()
    with pytest.raises(StoreFailed, match="moved or replaced"):
        store.check()
    aside.rename(store._file.path)
    store.check()


def test_a_log_that_was_removed(open_sqlite: Callable[[], Sqlite]) -> None:
    """Nothing is written to a log that nobody would find, and what was is in the file, also after a kill."""
    store = open_sqlite()
    append(store, "a", b"1", b"2")
    wal = store._file.path.with_name(f"{store._file.path.name}-wal")
    kept = wal.read_bytes()
    wal.unlink()
    for _ in range(2):
        with pytest.raises(StoreFailed, match="moved or replaced"):
            append(store, "a", b"3")
        wal.write_bytes(kept)
    wal.unlink()
    store._file.path.with_name(f"{store._file.path.name}-shm").unlink()
    again = open_sqlite()
    assert payloads(again.after("a", None, 9)) == [b"1", b"2"]
    append(again, "a", b"3")


@contextmanager
def limited_files() -> Iterator[None]:
    """No file may be written beyond its first page, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_file_is_not_ready(tmp_path: Path) -> None:
    store = Sqlite(tmp_path / "history.db", 1 << 18)
    store.check()
    with pytest.raises(StoreFailed, match="is full"):
        while True:
            append(store, "a", b"x" * 3000, size=10**9)
    with pytest.raises(StoreFailed, match="is full: raise max_data"):
        store.check()
    store.clear("a")
    store.check()
    store.close()


def test_a_file_that_others_keep_locked(open_sqlite: Callable[[], Sqlite]) -> None:
    store = open_sqlite()
    append(store, "a", b"1")
    store._db.execute("PRAGMA busy_timeout = 50")
    with sqlite3.connect(store._file.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"):
            append(store, "a", b"2")
        assert payloads(store.after("a", None, 9)) == [b"1"], "readers don't wait"
        other.execute("ROLLBACK")
    other.close()
    assert append(store, "a", b"2").offsets == range(2, 3)


def test_nobody_else_may_read_it(sqlite_store: Sqlite) -> None:
    for file in sqlite_store._file.path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert os.stat(sqlite_store._file.path.parent).st_mode & 0o777 == 0o700
