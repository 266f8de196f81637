"""Channels that refuse what is published rather than drop what a durable subscription still needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
import zmq
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import FORGET, Append, Appended, Store
from raiden.model.message import EARLIEST
from tests.daemons import Daemon, post, running, wait_for
from tests.multiplex import Client, on_each_worker
from tests.stores import Clock, RedisServer, Soon, payloads

NDJSON = {"Content-Type": "application/x-ndjson"}
CHANNELS = {"*": {}, "jobs*": {"history_size": 3, "discard": "new"}, "last*": {"history_size": 0, "retain": 60,
            "discard": "new"}}  # fmt: skip


# The store.


def new(store: Store, *payloads: bytes, channel: str = "a", size: int = 3, ttl: float = 300.0, key: str | None = None,
        retain: float = 0.0) -> Appended:  # fmt: skip
    """Append as a whole, or not at all."""
    messages = [(0, payload) for payload in payloads]
    (appended,) = store.append([Append(channel, messages, size, ttl, key, retain=retain, discard_new=True)])
    return appended


def take(store: Store, limit: int = 9, durable: str = "d") -> list[int]:
    return [record.offset for record, _ in store.claim("a", durable, limit, 60.0, EARLIEST).records]


def done(store: Store, epoch: str, *offsets: int, durable: str = "d") -> None:
    found = store.acknowledge("a", durable, epoch, [(offset, 0) for offset in offsets])
    assert found == list(offsets)


def test_without_a_durable_the_oldest_goes(store: Store) -> None:
    for number in range(10):
        assert not new(store, b"%d" % number).unmet
    assert payloads(store.after("a", None, 99)) == [b"7", b"8", b"9"]


def test_what_was_never_claimed_stays(store: Store) -> None:
    store.claim("a", "d", 0, 60.0)
    assert [new(store, b"%d" % n).unmet for n in range(3)] == [None] * 3
    refused = new(store, b"3")
    assert refused.unmet is not None and refused.cursors() == []
    why = refused.unmet.refusal().detail
    assert "a is full" in why and "3 messages" in why
    assert payloads(store.after("a", None, 99)) == [b"0", b"1", b"2"]


def test_what_is_claimed_stays_until_it_is_acknowledged(store: Store) -> None:
    store.claim("a", "d", 0, 60.0)
    epoch = new(store, b"0", b"1", b"2").epoch
    assert take(store) == [1, 2, 3]
    assert new(store, b"3").unmet
    done(store, epoch, 3, 2)
    assert new(store, b"3").unmet, "the oldest is needed yet"
    done(store, epoch, 1)
    assert new(store, b"3", b"4", b"5").offsets == range(4, 7)
    assert new(store, b"6").unmet


def test_each_durable_counts(store: Store) -> None:
    for name in "de":
        store.claim("a", name, 0, 60.0)
    epoch = new(store, b"0", b"1", b"2").epoch
    done(store, epoch, *take(store))
    assert new(store, b"3").unmet
    store.forget("a", "e")
    assert new(store, b"3").offsets == range(4, 5)


def test_a_durable_that_begins_later_needs_nothing_of_before(store: Store) -> None:
    new(store, b"0", b"1", b"2")
    store.claim("a", "d", 0, 60.0)
    assert new(store, b"3", b"4", b"5").offsets == range(4, 7)
    assert new(store, b"6").unmet
    other = store.claim("a", "earliest", 0, 60.0, EARLIEST)
    assert other.gap is None and new(store, b"6").unmet


def test_what_is_too_old_holds_nothing_up(store: Store, soon: Soon) -> None:
    store.claim("a", "d", 0, 60.0)
    new(store, b"0", b"1", b"2", ttl=0.1)
    soon(lambda: not store.after("a", None, 9).records, "all are too old")
    assert new(store, b"3").offsets == range(4, 5)
    gap = store.claim("a", "d", 9, 60.0).gap
    assert gap is not None and (gap.first, gap.last) == (1, 3)


def test_a_cleared_channel_has_room(store: Store) -> None:
    store.claim("a", "d", 0, 60.0)
    new(store, b"0", b"1", b"2")
    take(store, 1)
    store.clear("a")
    assert [bool(new(store, b"%d" % n).unmet) for n in range(4)] == [False, False, False, True], "it needs these, too"
    assert take(store) == [1, 2, 3]


def test_the_next_life_of_a_store_knows(open_store: Callable[[], Store]) -> None:
    store = open_store()
    store.claim("a", "d", 0, 60.0)
    epoch = new(store, b"0", b"1", b"2").epoch
    done(store, epoch, *take(store, 2))
    store.close()
    store = open_store()
    later = new(store, b"3", b"4").epoch
    assert new(store, b"5").unmet
    assert take(store) == [3, 4, 5]
    done(store, epoch, 3)
    done(store, later, 4, 5) if later != epoch else done(store, epoch, 4, 5)
    assert not new(store, b"5", b"6", b"7").unmet


def test_a_key_that_was_used_gets_its_answer(store: Store) -> None:
    store.claim("a", "d", 0, 60.0)
    first = new(store, b"0", b"1", b"2", key="k")
    assert new(store, b"x", key="k") == first._replace(repeated=True)
    assert new(store, b"x", key="other").unmet
    done(store, first.epoch, *take(store))
    assert new(store, b"x", key="other").offsets == range(4, 5), "what was refused was not published under its key"


def test_more_than_fits_is_refused(store: Store) -> None:
    store.claim("a", "d", 0, 60.0)
    assert new(store, b"0", b"1", b"2", b"3").unmet
    assert payloads(store.after("a", None, 9)) == []
    assert new(store, b"0", b"1").offsets == range(1, 3)
    assert new(store, b"2", b"3").unmet, "a batch is appended as a whole or not at all"
    assert new(store, b"2").offsets == range(3, 4)


def test_the_last_one_alone(store: Store) -> None:
    store.claim("a", "d", 0, 60.0)
    epoch = new(store, b"0", size=0, ttl=0.0, retain=60.0).epoch
    assert new(store, b"1", size=0, ttl=0.0, retain=60.0).unmet
    done(store, epoch, *take(store))
    assert new(store, b"1", size=0, ttl=0.0, retain=60.0).offsets == range(2, 3)


def test_a_smaller_size(store: Store) -> None:
    """As after a restart with another history_size."""
    store.claim("a", "d", 0, 60.0)
    epoch = new(store, *[b"x"] * 300, size=1000).epoch
    taken = take(store, 300)
    done(store, epoch, *taken[:-5])
    assert new(store, b"y", size=5).unmet
    done(store, epoch, 296)
    assert new(store, b"y", size=5).offsets == range(301, 302)


def test_redis_looks_at_few_for_a_smaller_size(redis_store: Redis, redis_server: RedisServer) -> None:
    redis_store.claim("a", "d", 0, 60.0)
    epoch = new(redis_store, *[b"x"] * 5000, size=9000).epoch
    while taken := take(redis_store, 1000):
        done(redis_store, epoch, *[offset for offset in taken if offset < 4990])
    with redis.Redis.from_url(redis_server.url) as client:
        for needed in (True, False):
            client.config_resetstat()
            assert bool(new(redis_store, b"y", size=5).unmet) == needed
            calls = {name: told["calls"] for name, told in client.info("commandstats").items()}
            looks = sum([calls.get(f"cmdstat_{name}", 0) for name in ("xrange", "xrevrange", "hexists", "zscore")])
            assert looks < 20, calls
            done(redis_store, epoch, *(range(4990, 4997) if needed else range(4997, 5001)))


def test_a_smaller_size_and_many_that_are_too_old(store: Store, soon: Soon) -> None:
    """What is too old holds up nothing, once that was found out."""
    store.claim("a", "d", 0, 60.0)
    new(store, *[b"x"] * 3500, size=5000, ttl=0.1)
    new(store, b"y", size=5000, ttl=60.0)
    soon(lambda: len(store.after("a", None, 9).records) == 1, "the others are too old")
    soon(lambda: not new(store, b"z", size=2).unmet, "it is taken")
    assert payloads(store.after("a", None, 9)) == [b"y", b"z"] and new(store, b"z", size=2).unmet


def test_many_in_one_go(store: Store) -> None:
    """What one group appends is looked at by the next append of the same group."""
    store.claim("a", "d", 0, 60.0)
    appends = [Append("a", [(0, b"%d" % n)], 3, discard_new=True) for n in range(5)]
    others = [Append("b", [(0, b"%d" % n)], 3) for n in range(5)]
    found = store.append([*appends, *others])
    assert [bool(each.unmet) for each in found] == [False] * 3 + [True] * 2 + [False] * 5
    assert payloads(store.after("a", None, 9)) == [b"0", b"1", b"2"]
    assert payloads(store.after("b", None, 9)) == [b"2", b"3", b"4"]


def test_a_call_is_done_as_a_whole(store: Store) -> None:
    def call(*channels: str) -> list[Appended]:
        appends = [Append(name, [(0, b"x")], 3, key="k" + "".join(channels), discard_new=name != "old") for name in
                   channels]  # fmt: skip
        return store.append([*appends, Append("single", [(0, b"x")], 3)], [len(appends), 1])

    store.claim("a", "d", 0, 60.0)
    new(store, b"0", b"1", b"2")
    for channels in (("b", "old", "a"), ("a", "b")):
        *refused, single = call(*channels)
        assert {each.unmet and each.unmet.channel for each in refused} == {"a"} and not single.unmet
    assert store.positions(["b", "old"]) == {}
    assert [each.unmet for each in call("b", "old")] == [None] * 3
    assert [each.repeated for each in call("b", "old")] == [True, True, False]


def test_sqlite_forgets_a_durable_that_holds_up(sqlite_store: Sqlite, clock: Clock) -> None:
    store = sqlite_store
    store.claim("a", "d", 0, 60.0)
    new(store, b"0", b"1", b"2", ttl=9 * FORGET)
    assert new(store, b"3").unmet
    clock.pass_by(2 * FORGET)
    assert not new(store, b"3").unmet


def test_redis_forgets_a_durable_that_holds_up(redis_store: Redis, redis_server: RedisServer) -> None:
    redis_store.claim("a", "d", 0, 60.0)
    new(redis_store, b"0", b"1", b"2")
    assert new(redis_store, b"3").unmet
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.smembers("raiden:{a}:durables") == {b"d"}
        assert client.ttl("raiden:{a}:durables") > FORGET
        client.delete("raiden:{a}:durable:d", "raiden:{a}:pending:d")  # as when their time is over
    assert not new(redis_store, b"3").unmet


def test_the_engines_refuse_alike(sqlite_store: Sqlite, redis_store: Redis) -> None:
    """A thousand random calls, beside a model of what each durable needs."""
    random = Random(7)
    stores: tuple[Store, Store] = (sqlite_store, redis_store)
    kept: list[int] = []
    needs: dict[str, set[int]] = {}
    epochs = ["", ""]
    refused, last = 0, 0
    for _ in range(1000):
        call, durable = random.random(), random.choice("de")
        if call < 0.5:
            count, size = random.choice([1, 1, 2, 5]), random.choice([5, 8])
            numbers = list(range(last + 1, last + 1 + count))
            after = (kept + numbers)[-size:]
            gone = (set(kept) | set(numbers)) - set(after)
            full = any(gone & (need | set(numbers)) for need in needs.values())
            found = [new(store, *[b"x"] * count, size=size) for store in stores]
            assert [bool(each.unmet) for each in found] == [full, full]
            refused += full
            if not full:
                last, kept = last + count, after
                epochs = [each.epoch for each in found]
                for need in needs.values():
                    need |= set(numbers)
        elif call < 0.75:
            limit = random.choice([0, 1, 3])
            since = None if durable not in needs else EARLIEST
            claimed = [store.claim("a", durable, limit, random.choice([0.0, 60.0]), since) for store in stores]
            needs.setdefault(durable, set())
            assert all({record.offset for record, _ in each.records} <= needs[durable] for each in claimed)
        elif call < 0.98 and needs.get(durable):
            offsets = [(offset, 0) for offset in random.sample(range(max(1, last - 9), last + 1), min(last, 4))]
            found_ = [set(store.acknowledge("a", durable, epochs[n], offsets)) for n, store in enumerate(stores)]
            needs[durable] -= found_[0] & found_[1]
            if found_[0] != found_[1]:
                for n, store in enumerate(stores):  # one of them had handed out less: so is the other's now
                    both = found_[1 - n] - found_[n]
                    store.claim("a", durable, 99, 0.0)
                    store.acknowledge("a", durable, epochs[n], [(offset, 0) for offset in both])
                needs[durable] -= found_[0] | found_[1]
        elif call > 0.99:
            for store in stores:
                store.forget("a", durable)
            needs.pop(durable, None)
    assert refused > 50 and last > 50


# The doors.


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    store = "sqlite" if request.param == "sqlite" else request.getfixturevalue("shared_server").url
    folder = tmp_path_factory.mktemp(request.param)
    yield from running(folder, workers=2, channels=CHANNELS, store=store, zmq_push_port=0, zmq_req_port=0)


@pytest.fixture
def jobs(channel: str) -> str:
    return f"jobs.{channel}"


def poll(node: Daemon, channel: str, query: str = "") -> list[Any]:
    status, _, body = node.request("GET", f"/{channel}?_durable=d{query}")
    found: list[Any] = json.loads(body)["messages"] if status == 200 else []
    return found


def publish(node: Daemon, channel: str, body: bytes, **headers: str) -> tuple[int, Any, Any]:
    status, told, answer = node.request("POST", f"/{channel}", body, {"Content-Type": "application/json", **headers})
    return status, told, json.loads(answer)


def test_a_queue_loses_nothing(node: Daemon, jobs: str) -> None:
    """A hundred and fifty jobs are wanted, three fit: each that was accepted is handed out once, and none is gone."""
    poll(node, jobs)
    accepted, got = [], []
    for number in range(150):
        while True:
            status, headers, body = publish(node, jobs, b"%d" % number)
            if status == 200:
                accepted.append(number)
                break
            assert status == 503 and 1 <= int(headers["retry-after"]) <= 5
            assert f"{jobs} is full" in body["detail"] and "acknowledged" in body["detail"]
            messages = poll(node, jobs, "&_limit=2")
            got += [message["data"] for message in messages]
            poll(node, jobs, "&_limit=0&_ack=" + ",".join(message["cursor"] for message in messages))
    got += [message["data"] for message in poll(node, jobs)]
    assert got == accepted == list(range(150))


def test_one_turn_takes_what_fits(node: Daemon, jobs: str) -> None:
    """Commands that come together are judged one by one, on each of the workers."""
    poll(node, jobs)
    clients = [client for each in on_each_worker(node).values() for client in each]
    asked = [(client, client.send(cmd="publish", channel=jobs, data=n)) for n in range(10) for client in clients]
    replies = [client.reply(number) for client, number in asked]
    assert sum("cursor" in reply for reply in replies) == 3
    assert {reply["error"]["code"] for reply in replies if "error" in reply} == {503}
    assert len(poll(node, jobs)) == 3
    for client in clients:
        client.close()


def test_a_batch_is_published_as_a_whole(node: Daemon, jobs: str) -> None:
    poll(node, jobs)
    assert node.request("POST", f"/{jobs}", b"1\n2", NDJSON)[0] == 200
    assert node.request("POST", f"/{jobs}", b"3\n4", NDJSON)[0] == 503
    status, _, body = node.request("POST", f"/{jobs}", b"1\n2\n3\n4", NDJSON)
    assert status == 413 and "at most 3" in json.loads(body)["detail"], "it would never fit"
    assert [message["data"] for message in poll(node, jobs)] == [1, 2]


def test_several_channels_are_published_to_as_a_whole(node: Daemon, jobs: str) -> None:
    poll(node, jobs)
    post(node, jobs, 1, 2, 3)
    names = [f"{jobs}.free", jobs, f"old.{jobs}"]
    status, _, body = publish(node, "-/publish", json.dumps({"channels": names, "data": 4}).encode())
    assert status == 503 and f"{jobs} is full" in body["detail"]
    assert node.json(f"/-/channels/{jobs}.free")["cursor"] is None
    assert node.json(f"/-/channels/old.{jobs}")["cursor"] is None
    names.remove(jobs)
    status, _, body = publish(node, "-/publish", json.dumps({"channels": names, "data": 4}).encode())
    assert status == 200 and len(body["cursors"]) == 2


def test_a_key_is_free_when_it_was_refused(node: Daemon, jobs: str) -> None:
    poll(node, jobs)
    key = {"Idempotency-Key": "k"}
    first = publish(node, jobs, b"1", **key)
    post(node, jobs, 2, 3)
    assert publish(node, jobs, b"1", **key)[2] == first[2], "it was published"
    assert publish(node, jobs, b"4", **{"Idempotency-Key": "other"})[0] == 503
    cursors = ",".join(message["cursor"] for message in poll(node, jobs))
    poll(node, jobs, f"&_limit=0&_ack={cursors}")
    assert publish(node, jobs, b"4", **{"Idempotency-Key": "other"})[0] == 200
    assert [message["data"] for message in poll(node, jobs)] == [4]


def test_a_channels_socket_is_closed(node: Daemon, jobs: str) -> None:
    poll(node, jobs)
    post(node, jobs, 1, 2, 3)
    with connect(f"ws://{node.host}:{node.port}/{jobs}") as socket:
        socket.send("4")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
    assert "is full" in closed.value.rcvd.reason


def test_a_zeromq_client_is_told_or_waits(node: Daemon, jobs: str) -> None:
    """REQ is answered; what is pushed is taken when there is room, and in its order."""
    poll(node, jobs)
    post(node, jobs, 0)
    context = zmq.Context()
    req, push = context.socket(zmq.REQ), context.socket(zmq.PUSH)
    for socket, door in ((req, "REQ"), (push, "PUSH")):
        socket.linger = 0
        socket.connect(node.doors()[door])
    try:
        for number in range(1, 8):
            push.send_multipart([jobs.encode(), b"%d" % number, b"application/json"])
        wait_for(lambda: publish(node, jobs, b'"x"')[0] == 503, "it is full")
        req.send_multipart([b"publish", jobs.encode(), b"9", b"application/json"])
        status, body = req.recv_multipart()
        assert status == b"503" and "is full" in json.loads(body)["detail"]
        got: list[Any] = []

        def all_of_them() -> bool:
            messages = poll(node, jobs, "&_wait=1")
            got.extend(message["data"] for message in messages)
            poll(node, jobs, "&_limit=0&_ack=" + ",".join(message["cursor"] for message in messages))
            return 7 in got

        wait_for(all_of_them, "all that was pushed comes")
        assert [value for value in got if value != "x"] == list(range(8))
    finally:
        context.destroy(linger=0)


def test_who_forgets_a_name_makes_room(node: Daemon, jobs: str) -> None:
    poll(node, jobs)
    post(node, jobs, 1, 2, 3)
    assert publish(node, jobs, b"4")[0] == 503
    with Client(node) as client:
        client.ask(cmd="unsubscribe", channel=jobs, durable="d", forget=True)
    assert publish(node, jobs, b"4")[0] == 200


def test_a_retained_value_waits_for_its_consumer(node: Daemon, channel: str) -> None:
    name = f"last.{channel}"
    poll(node, name)
    assert publish(node, name, b"1")[0] == 200
    assert publish(node, name, b"2")[0] == 503
    (message,) = poll(node, name)
    poll(node, name, f"&_limit=0&_ack={message['cursor']}")
    assert publish(node, name, b"2")[0] == 200


def test_other_channels_drop_the_oldest(node: Daemon, channel: str) -> None:
    poll(node, f"old.{channel}")
    assert len(post(node, f"old.{channel}", *range(150))) == 150


def test_both_drop_alike_after_a_restart(tmp_path: Path) -> None:
    node = Daemon(tmp_path, channels=CHANNELS)
    poll(node, "jobs")
    post(node, "jobs", 1, 2, 3)
    assert node.stop() == 0
    node = Daemon(tmp_path, channels=CHANNELS)
    status = publish(node, "jobs", b"4")[0]
    found = [message["data"] for message in poll(node, "jobs")]
    assert node.stop() == 0
    assert (status, found) == (503, [1, 2, 3])
