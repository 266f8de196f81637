"""Messages that nobody acknowledges: after how many attempts they are given up, and where they go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis

from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import LOOKED, Append, Claimed, GiveUp, Store, StoreFailed
from raiden.model import encoding
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.payload import WRAPPING
from tests.daemons import Daemon, Stream, post, running, wait_for
from tests.multiplex import Client, kill, on_each_worker, two_nodes
from tests.stores import Clock, RedisServer, append

CHANNELS = {
    "*": {}, "jobs*": {"max_attempts": 2, "dead_letter": "dead"}, "drop*": {"max_attempts": 2, "history_size": 1000},
    "once*": {"max_attempts": 1, "dead_letter": "dead", "history_size": 2, "discard": "new"},
}  # fmt: skip
DEAD = GiveUp(2, Append("dead", []))


# The store.


def claim(store: Store, give_up: GiveUp = DEAD, limit: int = 9, wait: float = 0.0) -> Claimed:
    return store.claim("a", "d", limit, wait, EARLIEST, give_up)


def offsets(claimed: Claimed) -> list[tuple[int, int]]:
    return [(record.offset, attempt) for record, attempt in claimed.records]


def letters(store: Store) -> list[Any]:
    return [json.loads(record.payload) for record in store.after("dead", None, 999).records]


def test_a_message_is_given_up_once(store: Store) -> None:
    appended = append(store, "a", b"1", b'{"n":2}')
    assert offsets(claim(store)) == [(1, 1), (2, 1)]
    second = claim(store)
    assert offsets(second) == [(1, 2), (2, 2)] and second.letters is None
    third = claim(store)
    assert (offsets(third), third.gap) == ([], None) and third.letters is not None
    assert third.letters.appended.offsets == range(1, 3)
    one, two = map(str, appended.cursors())
    expected = [
        {"channel": "a", "durable": "d", "cursor": one, "attempts": 2, "data": 1},
        {"channel": "a", "durable": "d", "cursor": two, "attempts": 2, "data": {"n": 2}},
    ]
    assert letters(store) == [json.loads(payload) for payload in third.letters.payloads] == expected
    page = store.after("dead", EARLIEST, 9)
    assert [message.cursor for message in page.messages("dead")] == third.letters.appended.cursors()
    assert claim(store).letters is None and claim(store).records == []
    assert store.acknowledge("a", "d", appended.epoch, [(1, 0), (2, 0)]) == []
    assert payloads(store, "a") == [b"1", b'{"n":2}'], "others may need it"
    assert len(letters(store)) == 2


def payloads(store: Store, channel: str) -> list[bytes]:
    return [record.payload for record in store.after(channel, None, 999).records]


def test_what_is_held_is_not_given_up(store: Store) -> None:
    epoch = append(store, "a", b"1", b"2", b"3").epoch
    claim(store)
    claim(store, wait=60.0)
    assert claim(store) == Claimed([], epoch)
    store.release("a", "d", epoch, [(2, 2)])
    assert offsets(claim(store)) == []
    assert [letter["data"] for letter in letters(store)] == [2]
    assert store.acknowledge("a", "d", epoch, [(1, 2), (2, 2), (3, 2)]) == [1, 3]


def test_others_are_claimed_with_it(store: Store) -> None:
    """What is given up takes no place of what is claimed."""
    append(store, "a", b"1", b"2", b"3", b"4")
    for _ in range(2):
        claim(store, limit=2)
    claimed = claim(store, limit=2)
    assert offsets(claimed) == [(3, 1), (4, 1)] and claimed.letters is not None
    assert [letter["data"] for letter in letters(store)] == [1, 2]


@pytest.mark.parametrize("attempts", [0, 2])
def test_without_a_channel_it_is_dropped(store: Store, attempts: int) -> None:
    append(store, "a", b"1")
    for number in range(5):
        claimed = claim(store, GiveUp(attempts))
        assert claimed.letters is None and claimed.gap is None
        assert offsets(claimed) == ([(1, number + 1)] if not attempts or number < 2 else [])


def test_each_durable_gives_up_for_itself(store: Store) -> None:
    append(store, "a", b"1")
    for name in "dede":
        assert len(store.claim("a", name, 9, 0.0, EARLIEST, DEAD).records) == 1
    for name in "dede":
        store.claim("a", name, 9, 0.0, EARLIEST, DEAD)
    assert [letter["durable"] for letter in letters(store)] == ["d", "e"]


def test_what_is_given_up_makes_room(store: Store) -> None:
    def full() -> bool:
        (appended,) = store.append([Append("a", [(0, b"x")], 1, discard_new=True)])
        return appended.unmet is not None

    store.claim("a", "d", 0, 0.0, EARLIEST, DEAD)
    assert [full(), full()] == [False, True]
    for _ in range(3):
        assert full()
        claim(store)
    assert not full()


def test_what_is_gone_is_a_gap(store: Store) -> None:
    append(store, "a", b"1", size=1)
    for _ in range(2):
        claim(store)
    append(store, "a", b"2", size=1)
    claimed = claim(store)
    assert offsets(claimed) == [(2, 1)] and claimed.letters is None
    assert claimed.gap is not None and (claimed.gap.first, claimed.gap.last) == (1, 1)


def test_many_are_given_up_a_megabyte_at_a_time(store: Store) -> None:
    (appended,) = store.append([Append("a", [(0, b'"%b"' % (b"x" * 100_000))] * 25)])
    while claim(store, limit=99, wait=60.0).records:
        pass
    store.release("a", "d", appended.epoch, [(offset, 1) for offset in appended.offsets])
    give_up, counts = GiveUp(1, Append("dead", [])), list[int]()
    while sum(counts) < 25:
        claimed = claim(store, give_up, limit=99)
        assert claimed.letters is not None and claimed.records == []
        counts.append(len(claimed.letters.payloads))
    assert counts == [11, 11, 3] and store.positions(["dead"])["dead"].position.offset == 25


@pytest.mark.parametrize(
    ("kind", "payload", "data"),
    [(Kind.JSON, b'{"a":[1.50,"\xc3\xa9"]}', {"a": [1.5, "é"]}), (Kind.TEXT, 'é"\\/\x01\x7f\u2028\x85\n'.encode(),
     'é"\\/\x01\x7f\u2028\x85\n'), (Kind.TEXT, b"", ""), (Kind.BYTES, b"", {"base64": ""}),
     (Kind.BYTES, b"\x00", {"base64": "AA=="}), (Kind.BYTES, b"\xff\xfe", {"base64": "//4="}),
     (Kind.BYTES, bytes(range(255)), {"base64":
     "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJT"
     "VFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaan"
     "qKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7"
     "/P3+"})],
)  # fmt: skip
def test_what_kind_it_was(store: Store, kind: int, payload: bytes, data: Any) -> None:
    """A letter is JSON without raw line breaks, with the value as all clients get it; names are written as in JSON."""
    name = 'a"\\%}/é\u2028'
    store.append([Append(name, [(int(kind), payload)])])
    for _ in range(2):
        store.claim(name, 'd"\\é', 9, 0.0, EARLIEST, GiveUp(1, Append("dead", [])))
    (record,) = store.after("dead", None, 9).records
    (letter,) = letters(store)
    assert (record.kind, letter["data"], letter["channel"], letter["durable"]) == (Kind.JSON, data, name, 'd"\\é')
    assert not any(end in record.payload.decode() for end in "\n\u2028\u2029\x85")


def test_letters_have_their_place_in_a_history(store: Store) -> None:
    """The proofs hold, also where others were there before, and the channel's own limits count."""
    append(store, "dead", b"0", b"0", size=3)
    append(store, "a", b"1", b"2")
    give_up = GiveUp(1, Append("dead", [], size=3, ttl=60.0))
    for _ in range(2):
        claimed = claim(store, give_up)
    assert claimed.letters is not None and len(claimed.letters.appended.before) == 12
    assert len(payloads(store, "dead")) == 3
    later = append(store, "dead", b"9", size=3)
    assert later.before == claimed.letters.appended.cursors()[-1].proof
    page = store.after("dead", claimed.letters.appended.cursors()[0], 9)
    assert page.gap is None and len(page.records) == 2


def test_a_store_that_went_on_begins_an_epoch(open_store: Callable[[], Store]) -> None:
    store = open_store()
    append(store, "dead", b"0")
    append(store, "a", b"1")
    claim(store)
    store.close()
    store = open_store()
    claim(store)
    claimed = claim(store)
    assert claimed.letters is not None
    last = append(store, "dead", b"2")
    assert (last.epoch, last.offsets) == (claimed.letters.appended.epoch, range(3, 4))


def test_four_stores_give_up_once(open_store: Callable[[], Store]) -> None:
    stores = [open_store() for _ in range(4)]
    append(stores[0], "a", *[b"%d" % n for n in range(200)], size=1000)
    give_up = GiveUp(3, Append("dead", [], size=1000))

    def work(store: Store) -> None:
        for _ in range(100):
            store.claim("a", "d", 10, 0.0, EARLIEST, give_up)

    threads = [Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(letter["data"] for letter in letters(stores[0])) == list(range(200))
    assert {letter["attempts"] for letter in letters(stores[0])} == {3}


def test_a_full_file_keeps_what_is_given_up(tmp_path: Path, clock: Clock) -> None:
    """There it stays, and is not handed out again; when there is room, it goes."""
    store = Sqlite(tmp_path / "history.sqlite", 1 << 20, clock=clock)
    append(store, "a", b"1", ttl=9e5)
    claim(store)
    claim(store)
    number = 0
    while not store.refused(["dead"]):
        append(store, f"{number:04}", b"1", ttl=1)
        number += 1
    assert claim(store) == Claimed([], store.positions(["a"])["a"].position.epoch)
    append(store, "a", b"2", ttl=9e5)
    assert offsets(claim(store, wait=60.0)) == [(2, 1)], "others go on"
    clock.pass_by(2)

    def has_room() -> bool:
        while store.tidy(1000):
            pass
        return not store.refused(["dead"])

    wait_for(has_room, "there is room for a channel")
    assert offsets(claim(store)) == [] and [letter["data"] for letter in letters(store)] == [1]
    store.close()


def test_letters_that_do_not_fit_hold_up_nothing_else(tmp_path: Path, clock: Clock) -> None:
    """There is room for small messages, but not for copies of the large ones."""
    store = Sqlite(tmp_path / "history.sqlite", 4 << 20, clock=clock)
    append(store, "a", *[b'"%b"' % (b"y" * 250_000)] * 4, ttl=9e5)
    claim(store)
    claim(store)
    count = 0
    with pytest.raises(StoreFailed):
        while True:
            append(store, "fill", b"x" * 10_000, size=1000, ttl=9e5)
            count += 1
    store.clear("fill")
    for _ in range(count - 20):
        append(store, "fill", b"x" * 10_000, size=1000, ttl=9e5)
    append(store, "a", b"2", ttl=9e5)
    found = claim(store, wait=60.0)
    assert (offsets(found), found.letters) == ([(5, 1)], None)
    store.clear("fill")
    assert offsets(claim(store)) == [] and len(letters(store)) == 4
    store.close()


def test_the_engines_give_up_alike(sqlite_store: Sqlite, redis_store: Redis) -> None:
    """Byte for byte, but for epochs and proofs."""
    for store in (sqlite_store, redis_store):
        store.append(
            [Append("a", [(Kind.JSON, b"[1, 2]"), (Kind.BYTES, b"abcd"), (Kind.TEXT, "é/\x7f\u2029".encode())])]
        )
        for _ in range(3):
            claim(store)
    one, two = payloads(sqlite_store, "dead"), payloads(redis_store, "dead")
    for mine, other in zip(one, two, strict=True):
        first, second = json.loads(mine), json.loads(other)
        assert list(first) == list(second)
        assert mine.replace(first["cursor"].encode(), b"") == other.replace(second["cursor"].encode(), b"")


def test_letters_are_as_large_as_their_messages(store: Store) -> None:
    """Nothing is escaped that need not be, so what may be published may be a letter: `payload.WRAPPING` is left."""
    for number, payload in enumerate([b"/" * 500_000, b"\x7f" * 500_000], 1):
        (appended,) = store.append([Append("a", [(Kind.TEXT, payload)])])
        for _ in range(3):
            claim(store)
        letter = payloads(store, "dead")[number - 1]
        message = Message("a", Kind.TEXT, payload, appended.cursors()[0])
        assert letter == encoding.dead_letter("d", message, 2) and len(letter) < len(payload) + WRAPPING


def test_what_others_claim_meanwhile_is_not_given_up(redis_server: RedisServer, redis_store: Redis) -> None:
    """A message is handed out once more by a node that gives up later, between the two steps of this one."""

    class Slow(Redis):
        def _give_up(self, *arguments: Any) -> Any:
            assert offsets(redis_store.claim("a", "d", 1, 60.0)) == [(1, 3)]
            return super()._give_up(*arguments)

    append(redis_store, "a", b"1", b"2")
    for _ in range(2):
        claim(redis_store)
    store = Slow(redis_server.url)
    claimed = claim(store)
    assert claimed.letters is not None and len(claimed.letters.payloads) == 1
    assert [letter["data"] for letter in letters(redis_store)] == [2]
    store.close()


def test_what_is_handed_out_is_so_where_letters_fail(redis_server: RedisServer, redis_store: Redis) -> None:
    append(redis_store, "a", b"1", b"2")
    for _ in range(2):
        claim(redis_store, limit=1)
    with redis.Redis.from_url(redis_server.url) as client:
        append(redis_store, "dead", b"0")
        client.set("raiden:{dead}:stream", "what is not a stream")
        claimed = claim(redis_store, wait=60.0)
        assert (offsets(claimed), claimed.letters, claimed.more) == ([(2, 1)], None, False)
        with pytest.raises(StoreFailed):
            claim(redis_store)
        client.delete("raiden:{dead}:stream")
    assert claim(redis_store).records == [] and [letter["data"] for letter in letters(redis_store)] == [1]


# The doors.


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    store = "sqlite" if request.param == "sqlite" else request.getfixturevalue("shared_server").url
    yield from running(tmp_path_factory.mktemp(request.param), workers=2, store=store, channels=CHANNELS)


def consume(client: Client, channel: str, **options: Any) -> Client:
    told = client.ask(cmd="subscribe", channel=channel, durable="d", **{"ack": True, **options})
    assert told == {"channel": channel, "durable": "d"}
    return client


def poll(node: Daemon, channel: str, query: str = "") -> list[Any]:
    status, _, body = node.request("GET", f"/{channel}?_durable=d{query}")
    assert status in (200, 204), body
    return [(each["data"], each["attempt"]) for each in json.loads(body)["messages"]] if status == 200 else []


def test_who_follows_the_dead_hears_at_once(node: Daemon, channel: str) -> None:
    """Nacks and timeouts count alike; subscribers, patterns and consumers of the dead-letter channel get the letter."""
    name = f"jobs.{channel}"
    with Stream(node, "/dead") as stream, Stream(node, "/dea*") as pattern, Client(node) as client:
        assert client.ask(cmd="subscribe", channel="dead", durable="undertaker", ack=True)["channel"] == "dead"
        (consume(client, name, ack_wait=1), poll(node, name))
        (cursor,) = post(node, name, {"job": 1})
        push = client.push()
        assert push["attempt"] == 1
        assert client.ask(cmd="nack", channel=name, durable="d", cursor=cursor) == {"returned": 1}
        assert client.push()["attempt"] == 2  # and its time passes
        expected = {"channel": name, "durable": "d", "cursor": cursor, "attempts": 2, "data": {"job": 1}}
        assert stream.value() == expected and pattern.value()["data"] == expected
        push = client.push()
        assert (push["channel"], push["durable"], push["data"]) == ("dead", "undertaker", expected)
        assert client.ask(cmd="ack", channel=name, durable="d", cursor=cursor)["late"] == [cursor]
        client.ask(cmd="unsubscribe", channel="dead", durable="undertaker", forget=True)


def test_polls_give_up(node: Daemon, channel: str) -> None:
    name = f"jobs.{channel}"
    poll(node, name)
    cursors = post(node, name, "good", "bad")
    assert poll(node, name) == [("good", 1), ("bad", 1)]
    assert poll(node, name, f"&_ack={cursors[0]}&_nack={cursors[1]}") == [("bad", 2)]
    with Stream(node, "/dead") as stream:
        assert poll(node, name, f"&_nack={cursors[1]}") == []
        assert stream.value()["data"] == "bad"
    assert poll(node, name) == []


def test_it_is_dropped_where_there_is_no_such_channel(node: Daemon, channel: str) -> None:
    name = f"drop.{channel}"
    poll(node, name)
    cursors = ",".join(post(node, name, 1, 2))
    for attempt in (1, 2):
        assert poll(node, name, f"&_nack={cursors}") == [(1, attempt), (2, attempt)]
    assert poll(node, name, f"&_nack={cursors}") == []


def test_a_poll_gets_past_many_that_are_over(node: Daemon, channel: str) -> None:
    """It does not wait, and what is dropped takes more than one claim."""
    name, count = f"drop.{channel}", 2 * LOOKED + 10
    poll(node, name)
    body = b"\n".join([b"%d" % number for number in range(count)])
    assert node.request("POST", f"/{name}", body, {"Content-Type": "application/x-ndjson"})[0] == 200
    with Client(node) as client:
        for attempt in (1, 2):
            consume(client, name, window=1000)
            assert {push["attempt"] for push in client.take(count)} == {attempt}
            client.ask(cmd="unsubscribe", channel=name, durable="d")

            def is_back() -> bool:
                (found,) = node.json(f"/-/durables?_channel={name}")["durables"]
                return bool(found["in_flight"] == 0)

            wait_for(is_back, "all are given back")
    post(node, name, "last")
    assert poll(node, name) == [("last", 1)]


def test_a_queue_goes_on_past_what_fails(node: Daemon, channel: str) -> None:
    """One that is handed out once and drops nothing: each job is worked on or is a dead letter."""
    name = f"once.{channel}"
    poll(node, name)
    with Stream(node, "/dead") as stream, Client(node) as client:
        consume(client, name)
        for number in range(6):
            wait_for(lambda: node.request("POST", f"/{name}", b"%d" % number,  # noqa: B023
                                          {"Content-Type": "application/json"})[0] == 200, "there is room")  # fmt: skip
            push = client.push()
            command = "nack" if number % 2 else "ack"
            client.ask(cmd=command, channel=name, durable="d", cursor=push["cursor"])
        assert [stream.value()["data"] for _ in range(3)] == [1, 3, 5]


def test_two_nodes_give_up_once(redis_server: RedisServer, tmp_path: Path) -> None:
    """One of them dies with what it holds."""
    with two_nodes(tmp_path, redis_server.url, channels=CHANNELS) as (one, two):
        mine, theirs = Client(one), Client(two)
        with Stream(one, "/dead") as stream:
            consume(theirs, "jobs", window=100, ack_wait=1)
            post(one, "jobs", *range(20))
            assert {push["attempt"] for push in theirs.take(20)} == {1}
            kill(two)
            consume(mine, "jobs", window=100, ack_wait=1)
            assert {push["attempt"] for push in mine.take(20)} == {2}
            found = Counter(stream.value()["data"] for _ in range(20))
        assert found == Counter(range(20))
        assert one.json("/-/channels/dead/history?_limit=1000")["messages"][20:] == []
        mine.close()


def test_workers_of_a_node_give_up_once(node: Daemon, channel: str) -> None:
    name = f"jobs.{channel}"
    clients = [consume(client, name, ack_wait=1) for each in on_each_worker(node).values() for client in each]
    with Stream(node, "/dead") as stream:
        post(node, name, *range(30))
        found = [stream.value() for _ in range(30)]
    assert sorted(letter["data"] for letter in found) == list(range(30))
    assert {(letter["channel"], letter["attempts"]) for letter in found} == {(name, 2)}
    for client in clients:
        client.close()


def test_a_cursor_of_a_letter_is_good(node: Daemon, channel: str) -> None:
    """It names the message where it was, which the history still has."""
    name = f"jobs.{channel}"
    poll(node, name)
    (cursor,) = post(node, name, 1)
    with Stream(node, "/dead") as stream:
        for _ in range(3):
            poll(node, name, f"&_nack={cursor}")
        letter = stream.value()
    assert Cursor.parse(letter["cursor"]).place == Cursor.parse(cursor).place
    page = node.json(f"/-/channels/{name}/history?_since=earliest")
    assert [message["cursor"] for message in page["messages"]] == [letter["cursor"]]
