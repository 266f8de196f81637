"""Stores that go back at random: nobody is ever told that all is there where it is not, nor the other way around."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from raiden.history.sqlite import Sqlite
from raiden.history.store import Store
from raiden.model.message import Cursor
from raiden.model.page import Gap
from tests.stores import append, payloads
from tests.test_chain import Past, RedisPast, SqlitePast

SIZE = 10_000


class World:
    """What was appended and is there, what was remembered, and each cursor that was ever given out. Lost ones have the
    offset of the first message that whoever has them can't have seen; None: it is not sure which that is."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.there: list[tuple[int, Cursor]] = []
        self.remembered = 0
        self.lost: dict[Cursor, int | None] = {}
        self.before: dict[str, str] = {}  # of each epoch that followed another one
        self.last = 0

    def publish(self, store: Store) -> None:
        for _ in range(self.random.choice([0, 1, 1, 3])):
            values = range(self.last + 1, self.last + 1 + self.random.choice([1, 1, 2, 20]))
            self.last = values[-1]
            cursors = append(store, "a", *[b"%d" % value for value in values], size=SIZE).cursors()
            self.there += zip(values, cursors, strict=True)

    def went_back(self, count: int) -> None:
        """So many messages are there still, in a new life of the store."""
        self.lost |= dict.fromkeys([cursor for _, cursor in self.there[count:]], count + 1)
        self.begins(count)
        for cursor, first in self.lost.items():
            self.lost[cursor] = first and min(first, count + 1)
        del self.there[count:]

    def begins(self, count: int) -> None:
        """A new life begins with so many messages. Where nothing is left of the epoch of a cursor that was lost, nor of
        the one before it, it is not sure any more with which life that came."""
        epochs = [cursor.epoch for _, cursor in self.there]
        self.before |= {epoch: before for before, epoch in pairwise(epochs) if before != epoch}
        left = set(epochs[:count])
        for cursor in self.lost:
            if cursor.epoch not in left and self.before.get(cursor.epoch) not in left:
                self.lost[cursor] = None

    def check(self, store: Store) -> None:
        values = [value for value, _ in self.there]
        for number, (_, cursor) in enumerate(self.there, 1):
            for asked in (cursor, Cursor(*cursor.place)):
                page = store.after("a", asked, SIZE)
                assert page.gap is None and list(map(int, payloads(page))) == values[number:], asked
        assert [message.cursor for message in store.after("a", None, SIZE).messages("a")] == [c for _, c in self.there]
        for cursor, first in self.lost.items():
            for asked in (cursor, Cursor(*cursor.place)):
                page = store.after("a", asked, SIZE)
                came = list(map(int, payloads(page)))
                if not self.there:
                    assert page.gap == Gap(cursor.epoch, 0, 0)
                    continue
                assert page.gap == Gap(cursor.epoch, 0, 0), f"{asked} was lost"
                if first is not None:
                    assert came == values[first - 1 :], asked
                else:
                    assert came == values[len(values) - len(came) :], asked


def go_on(world: World, past: Past, steps: int) -> None:
    for _ in range(steps):
        world.publish(past.store)
        match world.random.choice(["remember", "remember", "reopen", "back", "back", "nothing"]):
            case "remember":
                past.remember()
                world.remembered = len(world.there)
            case "reopen":
                past.reopen()
                world.begins(len(world.there))
                # What stays in a Redis server's folder is what was saved last.
                world.remembered = len(world.there) if isinstance(past, RedisPast) else world.remembered
            case "back" if world.remembered:
                past.go_back()
                world.went_back(world.remembered)
        world.check(past.store)


@contextmanager
def sqlite(folder: Path) -> Iterator[SqlitePast]:
    past = SqlitePast(folder)
    yield past
    past.store.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_file_that_is_put_back(seed: int, tmp_path: Path) -> None:
    with sqlite(tmp_path) as past:
        go_on(World(Random(seed)), past, 12)


@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_goes_back(seed: int, tmp_path: Path, installed_redis: None) -> None:
    past = RedisPast(tmp_path)
    try:
        go_on(World(Random(seed)), past, 8)
    finally:
        past.store.close()
        past.stop()


@pytest.mark.parametrize("seed", range(8))
def test_a_log_that_lost_its_end(seed: int, tmp_path: Path) -> None:
    """As a power cut leaves it: SQLite goes back to the last transaction that is whole."""
    random = Random(seed)
    world, path, cut = World(random), tmp_path / "history.db", tmp_path / "cut.db"
    store = Sqlite(path)
    try:
        for _ in range(6):
            for _ in range(random.randrange(1, 6)):
                world.publish(store)
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{cut}{suffix}")
            store.close()
            for part in tmp_path.glob("history.db*"):
                part.unlink()
            log = Path(f"{cut}-wal")
            with log.open("r+b") as file:
                file.truncate(random.randrange(log.stat().st_size + 1))
            for suffix in ("", "-wal"):
                Path(f"{cut}{suffix}").rename(f"{path}{suffix}")
            store = Sqlite(path)
            left = list(map(int, payloads(store.after("a", None, SIZE))))
            assert left == [value for value, _ in world.there][: len(left)], "what is left is the beginning"
            world.went_back(len(left))
            world.check(store)
    finally:
        store.close()
