"""What tells one history from another: proofs and lives, alone and in each engine; and histories that went back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import redis

from raiden.delivery.order import Order
from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import Append, Appended, Store
from raiden.model.chain import MAX_PAST, ROOT_DIGITS, Lives, link, read_past, write_past
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.page import Gap, Page, Record, Stand
from tests.stores import RedisServer, append, payloads

# Lives.

ROOT = "0123abcd"
SECOND, THIRD = f"{ROOT}222222", f"{ROOT}333333"
LIVES = Lives(THIRD, 13, ((ROOT, 6), (SECOND, 9)))


def test_each_message_has_the_epoch_that_it_was_appended_in() -> None:
    epochs = [LIVES.epoch_of(offset) for offset in range(1, 13)]
    assert epochs == [ROOT] * 5 + [SECOND] * 3 + [THIRD] * 4


@pytest.mark.parametrize(
    ("cursor", "holds", "stands"),
    [
        (Cursor(ROOT, 5), True, 5),
        (Cursor(ROOT, 6), False, 5),
        (Cursor(ROOT, 99), False, 5),
        (Cursor(SECOND, 5), True, 5),
        (Cursor(SECOND, 9), False, 8),
        (Cursor(THIRD, 12), True, 12),
        (Cursor(THIRD, 13), False, 12),
        (EARLIEST, True, 0),
        (Cursor("deadbeef", 3), False, 0),
        # Cursors of a life that was lost as a whole: it had ended before the life that was known then.
        (Cursor(f"{ROOT}ffffff", 12), False, 8),
        (Cursor(f"{ROOT}ffffff", 7), False, 5),
    ],
)
def test_where_a_reader_stands(cursor: Cursor, holds: bool, stands: int) -> None:
    assert (LIVES.holds(cursor), LIVES.stand(cursor)) == (holds, stands)


def numbered(number: int, digits: str = "aaaaaa") -> str:
    return f"{ROOT}{number:x}{digits}"


@pytest.mark.parametrize(
    ("cursor", "stands"),
    [
        # The whole epoch was lost, and the one that has as many before it in this history began with that.
        (Cursor(numbered(1, "ffffff"), 20), 5),
        (Cursor(numbered(2, "ffffff"), 20), 8),
        (Cursor(numbered(3, "ffffff"), 20), 11),
        (Cursor(numbered(4, "ffffff"), 20), 12),
        # More was lost than this epoch, or it is of a release that did not count: the last one before the number.
        (Cursor(numbered(2, "ffffff"), 7), 5),
        (Cursor(numbered(99, "ffffff"), 20), 12),
        (Cursor(f"{ROOT}ffffff", 12), 11),
        (Cursor(f"{ROOT}xyffffff", 12), 11),
    ],
)
def test_the_name_of_an_epoch_tells_how_many_there_were_before(cursor: Cursor, stands: int) -> None:
    lives = Lives(numbered(3), 13, ((ROOT, 6), (numbered(1), 9), (numbered(2), 12)), over=True)
    assert (lives.holds(cursor), lives.stand(cursor)) == (False, stands)


def test_epochs_are_counted() -> None:
    lives = Lives(ROOT, 2)
    for number in range(1, 20):
        epoch, past = lives.begin()
        assert len(epoch) == len(numbered(number)) and epoch[:-6] == numbered(number)[:-6]
        lives = Lives(epoch, number + 2, past)
    assert Lives(SECOND, 9).begin()[0][:-6] == f"{ROOT}1", "behind one of a release that did not count"


def test_a_lost_life_whose_fork_was_forgotten() -> None:
    """Where the next one began is not known any more: all that is there may be new."""
    lives = Lives(numbered(7), 30, ((numbered(6), 20),))
    assert lives.stand(Cursor(numbered(6, "ffffff"), 25)) == 0
    assert lives.stand(Cursor(numbered(7, "ffffff"), 25)) == 19


def test_a_lost_life_before_anything_followed_it() -> None:
    assert LIVES._replace(over=True).stand(Cursor(f"{ROOT}ffffff", 20)) == 12


def test_the_last_epochs_are_remembered() -> None:
    epoch, past = LIVES.begin()
    assert epoch[:ROOT_DIGITS] == ROOT and past == (*LIVES.past, (THIRD, 13))
    assert read_past(write_past(past)) == past and read_past("") == ()
    lives = LIVES
    for end in range(14, 200):
        epoch, past = lives.begin()
        lives = Lives(epoch, end, past)
    assert len(lives.past) == MAX_PAST and lives.past[-1][1] == 198


# What went back, in each engine.


class Past(Protocol):
    """A store whose data can be put back to what they were."""

    store: Store

    def remember(self) -> None: ...

    def reopen(self) -> None:
        """A new life begins with nothing lost."""

    def go_back(self) -> None:
        """A new life begins with what was remembered."""


class SqlitePast:
    def __init__(self, folder: Path) -> None:
        self._path, self._copy = folder / "history.db", folder / "copy.db"
        self.store: Store = Sqlite(self._path)

    def remember(self) -> None:
        with sqlite3.connect(self._path) as source, sqlite3.connect(self._copy) as copy:
            source.backup(copy)
        source.close()
        copy.close()

    def reopen(self) -> None:
        self.store.close()
        self.store = Sqlite(self._path)

    def go_back(self) -> None:
        self.store.close()
        shutil.copy(self._copy, self._path)
        self.store = Sqlite(self._path)


class RedisPast:
    def __init__(self, folder: Path) -> None:
        self._server = RedisServer(folder, "--appendonly", "no")
        self.store: Store = Redis(self._server.url)

    def remember(self) -> None:
        with redis.Redis.from_url(self._server.url) as client:
            client.save()

    def reopen(self) -> None:
        self.remember()
        self.go_back()

    def go_back(self) -> None:
        self._server.kill()
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(params=["sqlite", "redis"])
def past(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Past]:
    if request.param == "sqlite":
        sqlite = SqlitePast(tmp_path)
        yield sqlite
        sqlite.store.close()
    else:
        request.getfixturevalue("installed_redis")
        served = RedisPast(tmp_path)
        yield served
        served.store.close()
        served.stop()


def published(store: Store, *numbers: int) -> list[Cursor]:
    return append(store, "a", *[b"%d" % number for number in numbers]).cursors()


def came(page: Page) -> list[int]:
    return list(map(int, payloads(page)))


def bare(cursor: Cursor) -> Cursor:
    return Cursor(cursor.epoch, cursor.offset)


def test_cursors_of_what_was_lost(past: Past) -> None:
    cursors = published(past.store, 1, 2, 3, 4, 5)
    past.remember()
    cursors += published(past.store, 6, 7, 8, 9, 10)
    past.go_back()
    # Before anything else is published, and after that, up to more than there was.
    for others in ([], [11, 12, 13], [14, 15], [16, 17]):
        if others:
            published(past.store, *others)
        new = list(range(11, others[-1] + 1)) if others else []
        for cursor in (cursors[9], bare(cursors[9]), cursors[5], bare(cursors[5])):
            page = past.store.after("a", cursor, 100)
            assert (came(page), page.gap) == (new, Gap(cursor.epoch, 0, 0))
        for cursor in (cursors[4], bare(cursors[4])):
            page = past.store.after("a", cursor, 100)
            assert (came(page), page.gap) == (new, None)
        page = past.store.after("a", cursors[1], 100)
        assert (came(page), page.gap) == ([3, 4, 5, *new], None)
        assert [message.cursor for message in page.messages("a")][:3] == cursors[2:5], "they keep their cursors"


def test_nothing_is_lost_by_a_new_life(past: Past) -> None:
    cursors = []
    for number in range(1, 6):
        cursors += published(past.store, number)
        past.reopen()
    assert [cursor.offset for cursor in cursors] == [1, 2, 3, 4, 5] and len({cursor.epoch for cursor in cursors}) == 5
    for number, cursor in enumerate(cursors, 1):
        for each in (cursor, bare(cursor)):
            page = past.store.after("a", each, 100)
            assert (came(page), page.gap) == (list(range(number + 1, 6)), None)
            assert [message.cursor for message in page.messages("a")] == cursors[number:]
    before = past.store.before("a", cursors[3], 2)
    assert [message.cursor for message in before.messages("a")] == cursors[1:3]


def test_a_life_of_which_no_message_is_left(past: Past) -> None:
    """Whoever comes from there is told how many messages are missing."""
    cursors: list[Cursor] = []
    for number in range(1, 6):
        cursors += append(past.store, "a", b"%d" % number, size=2).cursors()
        past.reopen()
    for number, cursor in enumerate(cursors[:3], 1):
        page = past.store.after("a", cursor, 100)
        assert came(page) == [4, 5] and page.epoch == cursors[4].epoch
        assert page.gap == (Gap(cursors[2].epoch, number + 1, 3) if number < 3 else None)


def test_a_whole_life_was_lost(past: Past) -> None:
    published(past.store, 1, 2)
    past.reopen()
    known = published(past.store, 3)
    past.remember()
    past.reopen()
    lost = published(past.store, 4, 5)
    past.go_back()
    page = past.store.after("a", lost[1], 100)
    assert (came(page), page.gap) == ([], Gap(lost[1].epoch, 0, 0))
    published(past.store, 6, 7, 8)
    for cursor in (lost[1], bare(lost[1])):
        page = past.store.after("a", cursor, 100)
        assert (came(page), page.gap) == ([6, 7, 8], Gap(cursor.epoch, 0, 0))
    assert came(past.store.after("a", known[0], 100)) == [6, 7, 8]


def test_a_whole_life_was_lost_and_others_followed(past: Past) -> None:
    """Which of them began with the loss is known."""
    published(past.store, 1, 2)
    past.remember()
    past.reopen()
    lost = published(past.store, 3, 4, 5, 6, 7, 8)
    past.go_back()
    published(past.store, 9)
    past.reopen()
    published(past.store, 10, 11)
    past.reopen()
    for cursor in (lost[5], bare(lost[5]), lost[0]):
        page = past.store.after("a", cursor, 100)
        assert (came(page), page.gap) == ([9, 10, 11], Gap(cursor.epoch, 0, 0))
        page = past.store.after("a", cursor._replace(epoch=f"{cursor.epoch[:8]}xyz{cursor.epoch[-6:]}"), 100)
        assert page.gap is not None, "a name that nobody has given out"
        claimed = past.store.claim("a", str(cursor), 100, 600.0, cursor)
        assert [int(record.payload) for record, _ in claimed.records] == [9, 10, 11]


def test_keys_of_what_was_lost(past: Past) -> None:
    first = append(past.store, "a", b"1", key="first")
    past.remember()
    lost = append(past.store, "a", b"2", key="lost")
    past.go_back()
    again = append(past.store, "a", b"2", key="lost")
    assert not again.repeated and again.cursors() != lost.cursors() and again.offsets == lost.offsets
    known = append(past.store, "a", b"1", key="first")
    assert known.repeated and known.cursors() == first.cursors()
    assert append(past.store, "a", b"2", key="lost") == again._replace(repeated=True)


def test_durables_go_on(past: Past) -> None:
    def claim() -> tuple[list[int], Gap | None, dict[int, Cursor]]:
        claimed = past.store.claim("a", "d", 100, 600.0, EARLIEST)
        messages = [message for message, _ in claimed.messages("a")]
        cursors = {int(message.payload): message.cursor for message in messages if message.cursor}
        return list(cursors), claimed.gap, cursors

    def acknowledge(cursor: Cursor) -> list[int]:
        return past.store.acknowledge("a", "d", cursor.epoch, [(cursor.offset, 0)])

    published(past.store, 1, 2)
    numbers, gap, first = claim()
    assert (numbers, gap) == ([1, 2], None)
    past.remember()
    published(past.store, 3, 4)
    numbers, gap, lost = claim()
    assert (numbers, gap) == ([3, 4], None)
    past.go_back()
    assert acknowledge(lost[3]) == []
    published(past.store, 5, 6)
    numbers, gap, second = claim()
    assert (numbers, gap) == ([5, 6], None), "it does not begin anew"
    assert lost[3].place != second[5].place and lost[3].offset == second[5].offset
    assert acknowledge(lost[3]) == acknowledge(lost[4]) == []
    assert acknowledge(first[1]) == [1] and acknowledge(second[5]) == [3]
    past.store.release("a", "d", lost[4].epoch, [(4, 0)])
    assert claim() == ([], None, {}), "what is claimed was not given back by the wrong name"


def test_a_durable_that_begins_behind_what_is_there(past: Past) -> None:
    published(past.store, 1, 2)
    past.remember()
    cursors = published(past.store, 3, 4)
    past.go_back()
    published(past.store, 5)
    claimed = past.store.claim("a", "d", 100, 600.0, cursors[1])
    assert [record.payload for record, _ in claimed.records] == [b"5"]
    assert claimed.gap == Gap(cursors[1].epoch, 0, 0)


# Proofs.


def test_a_proof_covers_the_message_and_all_before_it() -> None:
    proof = link("", Kind.JSON, 7, b"1")
    others = [
        link("", Kind.TEXT, 7, b"1"), link("", Kind.JSON, 8, b"1"), link("", Kind.JSON, 7, b"2"),
        link(proof, Kind.JSON, 7, b"1"),
    ]  # fmt: skip
    assert len({proof, *others}) == 5 and all(len(each) == 12 for each in (proof, *others))


def test_each_engine_proves_what_it_stores(store: Store) -> None:
    messages = [(0, b"1"), (2, b"\0\xff" * 1000), (1, b"")]
    (first,), (rest,) = store.append([Append("a", messages[:1])]), store.append([Append("a", messages[1:])])
    cursors = [*first.cursors(), *rest.cursors()]
    assert first.before == "" and rest.before == cursors[0].proof
    expected, records = "", store.after("a", None, 9).records
    for cursor, record in zip(cursors, records, strict=True):
        expected = link(expected, record.kind, record.published, record.payload)
        assert cursor.proof == record.proof == expected
    assert store.positions(["a"])["a"].position == cursors[-1]


def test_the_proof_of_a_message_that_is_gone(store: Store) -> None:
    """The message after it tells."""
    cursors = [append(store, "a", b"%d" % number, size=1).cursors()[0] for number in range(1, 4)]
    page = store.after("a", cursors[1], 9)
    assert (payloads(page), page.gap) == ([b"3"], None)
    page = store.after("a", cursors[1]._replace(proof="0123456789ab"), 9)
    assert (payloads(page), page.gap) == ([b"3"], Gap(cursors[1].epoch, 0, 0))
    page = store.after("a", cursors[0], 9)
    assert page.gap == Gap(cursors[0].epoch, 2, 2)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_another_history_within_one_life(store: Store, offset: int) -> None:
    """As when a machine with its memory was put back: only the proof tells."""
    cursors = append(store, "a", b"1", b"2", b"3").cursors()
    other = cursors[offset - 1]._replace(proof="0123456789ab")
    page = store.after("a", other, 9)
    assert (payloads(page), page.gap) == ([b"1", b"2", b"3"], Gap(other.epoch, 0, 0))
    page = store.after("a", other, 1)
    assert (payloads(page), page.more) == ([b"1"], True)
    page = store.after("a", bare(other), 9)
    assert (len(page.records), page.gap) == (3 - offset, None), "the epoch alone can't tell"


# Data of a release that knew no proofs.

_SCHEMA_1 = """
CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL, next INTEGER NOT NULL,
    first INTEGER NOT NULL, removed INTEGER NOT NULL, fades INTEGER NOT NULL, ends INTEGER NOT NULL);
CREATE INDEX channels_by_end ON channels (ends);
CREATE TABLE messages (channel INTEGER NOT NULL, position INTEGER NOT NULL, kind INTEGER NOT NULL,
    published INTEGER NOT NULL, expires INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (channel, position))
    WITHOUT ROWID;
CREATE INDEX messages_by_age ON messages (expires);
CREATE TABLE keys (channel INTEGER NOT NULL, key TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL,
    count INTEGER NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (channel, key)) WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (expires);
CREATE TABLE kept (name TEXT PRIMARY KEY, expires INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX kept_by_age ON kept (expires);
CREATE TABLE durables (id INTEGER PRIMARY KEY, channel TEXT NOT NULL, name TEXT NOT NULL, epoch TEXT NOT NULL,
    next INTEGER NOT NULL, ends INTEGER NOT NULL, UNIQUE (channel, name));
CREATE INDEX durables_by_end ON durables (ends);
CREATE TABLE claims (durable INTEGER NOT NULL, position INTEGER NOT NULL, attempt INTEGER NOT NULL,
    deadline INTEGER NOT NULL, PRIMARY KEY (durable, position)) WITHOUT ROWID;
CREATE INDEX claims_by_deadline ON claims (durable, deadline);
PRAGMA user_version = 1;
"""
_LATER = 1 << 60


def begun(record: Record) -> str:
    """The proof of a message before which none has any."""
    return link("", record.kind, record.published, record.payload)


def earlier_sqlite(folder: Path) -> Store:
    with sqlite3.connect(folder / "history.db") as db:
        db.executescript(_SCHEMA_1)
        db.execute("INSERT INTO channels VALUES (1, 'a', '0123abcd', 3, 1, 1, 0, ?)", (_LATER,))
        rows = [(1, offset, 0, 7, _LATER, b"%d" % offset) for offset in (1, 2)]
        db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)
        db.execute("INSERT INTO keys VALUES (1, 'k', '0123abcd', 2, 1, ?)", (_LATER,))
        db.execute("INSERT INTO durables VALUES (1, 'a', 'd', '0123abcd', 3, ?)", (_LATER,))
        db.execute("INSERT INTO claims VALUES (1, 2, 1, ?)", (_LATER,))
    db.close()
    return Sqlite(folder / "history.db")


def earlier_redis(server: RedisServer) -> Store:
    with redis.Redis.from_url(server.url) as client:
        client.hset("raiden:{a}:meta", mapping={"epoch": "0123abcd", "next": 3})
        for offset in (1, 2):
            fields = {"kind": 0, "published": 7, "expires": _LATER, "payload": b"%d" % offset}
            client.xadd("raiden:{a}:stream", fields, id=f"{offset}-0")
        client.set("raiden:{a}:key:k", "0123abcd 2 3")
        client.hset("raiden:{a}:durable:d", mapping={"epoch": "0123abcd", "next": 3, "2": 1})
        client.zadd("raiden:{a}:pending:d", {"2": _LATER})
    return Redis(server.url)


@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_data_of_an_earlier_release(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = earlier_sqlite(tmp_path) if engine == "sqlite" else earlier_redis(request.getfixturevalue("redis_server"))
    assert [message.cursor for message in store.after("a", None, 9).messages("a")] == [
        Cursor("0123abcd", 1), Cursor("0123abcd", 2),
    ]  # fmt: skip
    assert store.positions(["a"]) == {"a": Stand(Cursor("0123abcd", 2))}
    assert append(store, "a", b"again", key="k") == Appended("0123abcd", range(2, 3), True)
    assert store.acknowledge("a", "d", "0123abcd", [(2, 1)]) == [2]
    new = append(store, "a", b"3").cursors()[0]
    assert new.offset == 3 and new.proof == begun(store.after("a", None, 9).records[-1])
    page = store.after("a", Cursor("0123abcd", 1), 9)
    assert (payloads(page), page.gap) == ([b"2", b"3"], None)
    assert store.after("a", Cursor("0123abcd", 3), 9).gap == Gap("0123abcd", 0, 0), "which nobody was given"
    assert payloads(store.after("a", new, 9)) == [] and store.after("a", new, 9).gap is None
    assert [message.cursor for message, _ in store.claim("a", "d", 9, 60.0).messages("a")] == [new]
    store.close()


def test_a_node_that_knows_no_proofs_appends_too(redis_store: Redis, redis_server: RedisServer) -> None:
    """The chain begins anew behind what it has appended."""
    known = append(redis_store, "a", b"1").cursors()[0]
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset("raiden:{a}:meta", "next", 3)
        fields = {"kind": 0, "published": 7, "expires": _LATER, "payload": b"2"}
        client.xadd("raiden:{a}:stream", fields, id="2-0")
    assert redis_store.positions(["a"]) == {"a": Stand(Cursor(known.epoch, 2))}
    new = append(redis_store, "a", b"3")
    assert new.before == ""
    assert new.cursors()[0].proof == begun(redis_store.after("a", None, 9).records[-1])
    page = redis_store.after("a", known, 9)
    assert (payloads(page), page.gap) == ([b"2", b"3"], None)


# What a router makes of it.


def at(number: int, epoch: str = ROOT, proof: str = "") -> Cursor:
    return Cursor(epoch, number, proof or f"{number:012x}")


def message(number: int, epoch: str = ROOT, before: str = "", proof: str = "") -> Message:
    before = before or f"{number - 1:012x}"
    return Message("a", Kind.JSON, b"%d" % number, at(number, epoch, proof), 7, before)


def standing(number: int) -> Order:
    order = Order()
    assert order.open(at(number)) == []
    return order


def taken(order: Order, *messages: Message) -> list[int]:
    return [int(each.payload) for one in messages for each in order.take(one)]


def fill(order: Order, page: Page) -> tuple[Gap | None, list[Message]]:
    """The page has no hole."""
    steps = list(order.fill("a", page, order.newest))
    assert len(steps) <= 1
    return steps[0] if steps else (None, [])


def test_an_order_goes_on_in_a_new_life() -> None:
    order = standing(5)
    assert taken(order, message(6), message(7, SECOND), message(8, SECOND)) == [6, 7, 8]
    assert order.position == at(8, SECOND) and not order.behind


def test_an_order_goes_on_in_a_new_life_that_came_early() -> None:
    order = standing(5)
    assert taken(order, message(8, SECOND), message(7, SECOND)) == [] and order.behind
    assert taken(order, message(6)) == [6, 7, 8]
    assert order.position == at(8, SECOND) and not order.behind


@pytest.mark.parametrize("epoch", [ROOT, SECOND])
def test_what_does_not_follow_is_not_delivered(epoch: str) -> None:
    order = standing(5)
    other = message(6, epoch, before="0123456789ab", proof="ab0123456789")
    assert taken(order, other) == [] and order.behind
    page = Page([], epoch, other.cursor, Gap(ROOT, 0, 0))
    assert fill(order, page) == (Gap(ROOT, 0, 0), [])
    assert order.position == other.cursor and not order.behind
    assert taken(order, message(7, epoch, before="ab0123456789")) == [7]


def test_what_comes_again_with_another_proof_is_looked_into() -> None:
    order = standing(5)
    assert taken(order, message(5)) == [] and not order.behind
    assert taken(order, message(5, proof="0123456789ab")) == [] and order.behind
    assert fill(order, Page([], ROOT, at(5))) == (None, [])
    assert not order.behind and order.position == at(5), "it was nothing"


@pytest.mark.parametrize(
    ("position", "behind"),
    [
        (at(5), False),
        (Cursor(ROOT, 5), False),
        (at(6), True),
        (at(4), True),
        (at(5, SECOND), True),
        (at(5, proof="0123456789ab"), True),
    ],
)
def test_positions_are_compared(position: Cursor, behind: bool) -> None:
    order = standing(5)
    order.compare(order.position, position)
    assert order.behind == behind


def test_a_position_that_was_asked_for_earlier() -> None:
    order = standing(5)
    place = order.position
    assert taken(order, message(6)) == [6]
    order.compare(place, at(5))
    assert not order.behind, "it was so when it was asked for"


def test_a_history_that_went_back_before_an_order() -> None:
    """Nothing was published since."""
    order = standing(10)
    order.compare(order.position, at(5))
    assert order.behind
    gap, messages = fill(order, Page([], ROOT, at(5), Gap(ROOT, 0, 0)))
    assert (gap, messages, order.position) == (Gap(ROOT, 0, 0), [], at(5)) and not order.behind
    assert taken(order, message(6, SECOND)) == [6]
