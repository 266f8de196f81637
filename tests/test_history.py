"""The history's store: offsets, pages, keys, expiry; what it survives, and what it makes of a file that is not as it
should be."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raiden.history import KEY_WINDOW, Append, Appended, Durability, Gap, Page, StoreFailed
from raiden.history.sqlite import FORGET, SLACK, Sqlite
from raiden.message import Cursor
from tests.daemons import ROOT, environment


class Clock:
    """Microseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Sqlite]]:
    stores = []

    def open_store() -> Sqlite:
        stores.append(Sqlite(tmp_path / "state" / "history.db", clock=clock))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Sqlite]) -> Sqlite:
    return open_store()


def append(store: Sqlite, channel: str, *payloads: bytes, size: int = 100, ttl: float = 300.0, key: str | None = None,
           durability: Durability = Durability.STORED) -> Appended:  # fmt: skip
    messages = [(0, payload, 7) for payload in payloads]
    (appended,) = store.append([Append(channel, messages, size=size, ttl=ttl, key=key, durability=durability)])
    return appended


def payloads(page: Page) -> list[bytes]:
    return [record.payload for record in page.records]


# Offsets.


def test_offsets_have_no_holes(store: Sqlite) -> None:
    first = append(store, "a", b"1")
    second = append(store, "a", b"2", b"3")
    other = append(store, "b", b"x")
    assert (first.offsets, second.offsets, other.offsets) == (range(1, 2), range(2, 4), range(1, 2))
    assert first.epoch == second.epoch != other.epoch
    assert list(map(str, second.cursors())) == [f"{first.epoch}:2", f"{first.epoch}:3"]
    assert store.positions(["a", "b", "none"]) == {"a": Cursor(first.epoch, 3), "b": Cursor(other.epoch, 1)}


def test_a_group_keeps_its_order(store: Sqlite) -> None:
    group = [Append(f"c{n % 3}", [(0, b"%d" % n, 7)]) for n in range(30)]
    appended = store.append(group)
    assert [a.offsets[0] for a in appended] == [n // 3 + 1 for n in range(30)]
    assert payloads(store.after("c1", None, 100)) == [b"%d" % n for n in range(1, 30, 3)]


def test_what_was_appended_comes_back_as_it_was(store: Sqlite) -> None:
    store.append([Append("ä", [(2, b"\0\xff" * 1000, 123), (0, b"", 456)])])
    first, second = store.after("ä", None, 10).records
    assert first == (1, 2, b"\0\xff" * 1000, 123) and second == (2, 0, b"", 456)


def test_the_next_life_goes_on(open_store: Callable[[], Sqlite]) -> None:
    store = open_store()
    before = append(store, "a", b"1")
    store.close()
    after = append(open_store(), "a", b"2")
    assert (after.epoch, after.offsets) == (before.epoch, range(2, 3))


def test_two_stores_on_one_file(open_store: Callable[[], Sqlite]) -> None:
    """As two processes have them: every offset once."""
    stores = [open_store(), open_store()]
    taken: list[int] = []

    def work(store: Sqlite) -> None:
        for _ in range(200):
            taken.extend(append(store, "a", b"x", b"y", size=1000).offsets)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 801))


# Pages.


def test_pages_forwards_and_backwards(store: Sqlite) -> None:
    epoch = append(store, "a", *[b"%d" % n for n in range(1, 11)]).epoch
    page = store.after("a", None, 4)
    assert (payloads(page), page.more, page.gap) == ([b"1", b"2", b"3", b"4"], True, None)
    assert (page.epoch, page.position) == (epoch, Cursor(epoch, 10))
    page = store.after("a", Cursor(epoch, 8), 4)
    assert (payloads(page), page.more, page.gap) == ([b"9", b"10"], False, None)
    page = store.after("a", Cursor(epoch, 10), 4)
    assert (payloads(page), page.more, page.gap) == ([], False, None)
    page = store.before("a", None, 3)
    assert (payloads(page), page.more) == ([b"8", b"9", b"10"], True)
    page = store.before("a", Cursor(epoch, 3), 3)
    assert (payloads(page), page.more) == ([b"1", b"2"], False)


def test_cursors_that_lead_nowhere(store: Sqlite) -> None:
    assert store.after("a", None, 9) == Page()
    assert store.after("a", Cursor("gone", 3), 9).gap == Gap("gone", 0, 0)
    epoch = append(store, "a", b"1", b"2").epoch
    for cursor in (Cursor("foreign", 1), Cursor(epoch, 3), Cursor(epoch, 1 << 62)):
        page = store.after("a", cursor, 9)
        assert page.gap == Gap(cursor.epoch, 0, 0) and payloads(page) == [b"1", b"2"]
    assert store.before("a", Cursor("foreign", 1), 9).gap is None


def test_size_is_kept_and_a_gap_is_told(store: Sqlite) -> None:
    for n in range(1, 3 * SLACK):
        epoch = append(store, "a", b"%d" % n, size=10).epoch
    newest = 3 * SLACK - 1
    page = store.after("a", None, 1000)
    assert payloads(page) == [b"%d" % n for n in range(newest - 9, newest + 1)]
    page = store.after("a", Cursor(epoch, 5), 1000)
    assert page.gap == Gap(epoch, 6, newest - 10) and len(page.records) == 10
    assert store.after("a", Cursor(epoch, newest - 10), 1000).gap is None
    (rows,) = store._db.execute("SELECT count(*) FROM messages").fetchone()
    assert rows <= 10 + SLACK, "what is hidden is removed now and then"


def test_age_is_kept_and_a_gap_is_told(store: Sqlite, clock: Clock) -> None:
    epoch = append(store, "a", b"1", b"2", ttl=10).epoch
    clock.pass_by(6)
    append(store, "a", b"3", ttl=10)
    clock.pass_by(5)
    page = store.after("a", Cursor(epoch, 1), 9)
    assert (payloads(page), page.gap) == ([b"3"], Gap(epoch, 2, 2))
    clock.pass_by(6)
    page = store.after("a", Cursor(epoch, 1), 9)
    assert (payloads(page), page.gap, page.position) == ([], Gap(epoch, 2, 3), Cursor(epoch, 3))
    assert store.after("a", Cursor(epoch, 3), 9).gap is None, "nothing was missed"
    assert store.tidy(2) == 2 and store.tidy(9) == 1 and store.tidy(9) == 0
    assert append(store, "a", b"4").offsets == range(4, 5)


def test_a_channel_is_forgotten_long_after_its_last_message(store: Sqlite, clock: Clock) -> None:
    epoch = append(store, "a", b"1", ttl=10).epoch
    clock.pass_by(FORGET - 1)
    store.tidy(9)
    assert store.positions(["a"]) == {"a": Cursor(epoch, 1)}
    clock.pass_by(2)
    assert store.tidy(9) == 1 and store.positions(["a"]) == {}
    assert append(store, "a", b"2").epoch != epoch


def test_clear_ends_the_epoch(store: Sqlite) -> None:
    before = append(store, "a", b"1", key="k")
    store.clear("a")
    store.clear("none")
    assert store.after("a", before.cursors()[0], 9).gap == Gap(before.epoch, 0, 0)
    after = append(store, "a", b"2", key="k")
    assert after.epoch != before.epoch and after.offsets == range(1, 2) and not after.repeated


# Keys.


def test_a_key_appends_once(store: Sqlite, clock: Clock) -> None:
    first = append(store, "a", b"1", b"2", key="k")
    again = append(store, "a", b"1", b"2", key="k")
    assert again == (first.epoch, first.offsets, True) and not first.repeated
    assert append(store, "b", b"1", key="k").repeated is False, "another channel's"
    clock.pass_by(KEY_WINDOW - 1)
    assert append(store, "a", b"1", b"2", key="k").repeated
    clock.pass_by(2)
    assert append(store, "a", b"1", b"2", key="k").offsets == range(3, 5)


def test_a_key_twice_in_one_group(store: Sqlite) -> None:
    first, second = store.append([Append("a", [(0, b"1", 7)], key="k")] * 2)
    assert second == (first.epoch, first.offsets, True)
    assert payloads(store.after("a", None, 9)) == [b"1"]


def test_a_key_at_the_same_time_in_two_stores(open_store: Callable[[], Sqlite]) -> None:
    stores = [open_store() for _ in range(4)]
    barrier = threading.Barrier(len(stores))
    results: list[list[Appended]] = [[] for _ in range(50)]

    def work(store: Sqlite) -> None:
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


# What it survives.

WRITER = """
import sys
from pathlib import Path
from raiden.history import Append, Durability
from raiden.history.sqlite import Sqlite
store, durability = Sqlite(Path(sys.argv[1])), Durability[sys.argv[2]]
print("open", flush=True)
for line in sys.stdin:
    appends = [Append("a", [(0, b"%d" % n, 7)], size=10**9, durability=durability) for n in range(int(line))]
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
    """100,000 messages, and the process that appends them killed 20 times in the middle of it."""
    path, acknowledged = tmp_path / "history.db", []
    for _ in range(20):
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
    assert len(acknowledged) >= 100_000 and len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= {str(Cursor(stored.epoch, record.offset)) for record in stored.records}
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


def test_a_damaged_file_is_set_aside(open_store: Callable[[], Sqlite], caplog: pytest.LogCaptureFixture) -> None:
    store = open_store()
    before = append(store, "a", *[b"x" * 1000] * 100)
    store.close()
    path = store._path
    data = bytearray(path.read_bytes())
    data[4096:40960] = b"\xa5" * 36864
    path.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        store = open_store()
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


def test_a_later_schema_is_left_alone(open_store: Callable[[], Sqlite]) -> None:
    store = open_store()
    append(store, "a", b"1")
    store._db.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreFailed, match=r"written by a later release .*another data_dir"):
        open_store()
    with sqlite3.connect(store._path) as db:
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


def test_a_full_disk_fails_the_append_and_nothing_else(open_store: Callable[[], Sqlite]) -> None:
    store = open_store()
    append(store, "a", b"1")
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFailed, match="full"):
        append(store, "a", b"x" * 1_000_000, b"y")
    assert payloads(store.after("a", None, 9)) == [b"1"], "not half done"
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert append(store, "a", b"2").offsets == range(2, 3)


def test_a_file_that_others_keep_locked(open_store: Callable[[], Sqlite]) -> None:
    store = open_store()
    append(store, "a", b"1")
    store._db.execute("PRAGMA busy_timeout = 50")
    with sqlite3.connect(store._path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"):
            append(store, "a", b"2")
        assert payloads(store.after("a", None, 9)) == [b"1"], "readers don't wait"
        other.execute("ROLLBACK")
    other.close()
    assert append(store, "a", b"2").offsets == range(2, 3)


def test_nobody_else_may_read_it(store: Sqlite) -> None:
    for file in store._path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert os.stat(store._path.parent).st_mode & 0o777 == 0o700
