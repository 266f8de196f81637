"""Conditions of an append: where a channel must stand, and whether it has come to its end."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raiden.history import durables, schema
from raiden.history.conditions import ELSEWHERE, ENDED, stands_at
from raiden.history.sqlite import Sqlite
from raiden.history.store import FORGET, Append, Appended, Store
from raiden.model.message import EARLIEST, Cursor
from tests.daemons import Daemon
from tests.multiplex import Client
from tests.stores import Clock, RedisServer, payloads

# The times that a counter is incremented by compare and set.
TIMES = int(os.environ.get("TESTS_INCREMENTS", 96))
PUBLISHERS = 16


# The stores.


def at(store: Store, place: Cursor | None, payload: bytes = b"x", channel: str = "a", **more: Any) -> Appended:
    (appended,) = store.append([Append(channel, [(0, payload)], at=place, **more)])
    return appended


def test_a_place_matches_by_its_epoch_offset_and_proof() -> None:
    known = Cursor("k3x9", 4, "8c1f02d9e7ab")
    assert stands_at(known, known) and stands_at(known, Cursor("k3x9", 4))
    assert not stands_at(known, Cursor("k3x9", 4, "000000000001"))
    assert not stands_at(known, Cursor("k3x9", 3)) and not stands_at(known, Cursor("other", 4))
    assert stands_at(EARLIEST, EARLIEST) and stands_at(Cursor("k3x9", 0), EARLIEST), "no message has come yet"
    assert not stands_at(known, EARLIEST) and not stands_at(EARLIEST, known)


def test_an_append_is_done_only_where_the_channel_stands(store: Store) -> None:
    first = at(store, EARLIEST, b"0")
    assert first.unmet is None, "nothing was published yet"
    (place,) = first.cursors()
    for wrong in (EARLIEST, Cursor("other", 1), Cursor(place.epoch, 1, "000000000001"), Cursor(place.epoch, 2)):
        unmet = at(store, wrong).unmet
        assert unmet is not None and (unmet.what, unmet.channel, unmet.position) == (ELSEWHERE, "a", place), wrong
    assert at(store, place, b"1").unmet is None and at(store, place, b"late").unmet is not None
    assert payloads(store.after("a", None, 9)) == [b"0", b"1"]
    bare = Cursor(place.epoch, 2)
    assert at(store, bare, b"2").unmet is None, "a cursor without a proof counts by its place"
    unmet = at(store, place, channel="new").unmet
    assert unmet is not None and unmet.position == store.begin(["new"])["new"] and store.positions(["new"]) == {}


def test_appends_of_one_group_see_each_other(store: Store) -> None:
    (place,) = at(store, None).cursors()
    appends = [Append("a", [(0, b"%d" % n)], at=place) for n in range(5)]
    assert [each.unmet is None for each in store.append(appends)] == [True] + [False] * 4
    assert payloads(store.after("a", place, 9)) == [b"0"]


def test_a_call_is_appended_as_a_whole_or_not_at_all(store: Store) -> None:
    (place,) = at(store, None).cursors()

    def call(where: Cursor) -> list[Appended]:
        both = [Append("b", [(0, b"b")]), Append("a", [(0, b"a")], at=where)]
        return store.append([*both, Append("alone", [(0, b"")])], [2, 1])

    *refused, alone = call(EARLIEST)
    assert {each.unmet and each.unmet.channel for each in refused} == {"a"} and alone.unmet is None
    assert store.positions(["b"]) == {} and store.positions(["a"])["a"].position == place
    assert [each.unmet for each in call(place)] == [None] * 3


def test_a_key_gets_its_first_answer_whatever_the_conditions(store: Store) -> None:
    first = at(store, EARLIEST, key="k")
    again = at(store, EARLIEST, key="k", ends=True)
    assert again.repeated and again.cursors() == first.cursors() and not store.positions(["a"])["a"].ended
    assert at(store, None, key="end", ends=True).unmet is None
    assert at(store, None, key="k").repeated and at(store, None, key="end").repeated
    assert at(store, None, key="other").unmet is not None


def test_a_channel_that_has_ended_takes_nothing_until_it_is_deleted(store: Store) -> None:
    (last,) = at(store, None, b"last", ends=True).cursors()
    for more in ({}, {"ends": True}, {"at": last}):
        (appended,) = store.append([Append("a", [(0, b"more")], **more)])
        assert appended.unmet is not None and (appended.unmet.what, appended.unmet.position) == (ENDED, last)
    assert store.positions(["a", "b"]) == {"a": (last, True)}
    assert store.after("a", None, 9).ended and store.before("a", None, 9).ended and store.after("a", last, 9).ended
    *refused, alone = store.append([Append("b", [(0, b"")]), Append("a", [(0, b"")]), Append("c", [(0, b"")])], [2, 1])
    assert [bool(each.unmet) for each in (*refused, alone)] == [True, True, False]
    store.clear("a")
    assert at(store, None).unmet is None and not store.after("a", None, 9).ended


def test_an_end_outlasts_its_message_and_the_store(open_store: Callable[[], Store]) -> None:
    before = open_store()
    assert at(before, None, b"last", ends=True, size=0).unmet is None
    before.close()
    store = open_store()
    page = store.after("a", None, 9)
    assert page.records == [] and page.ended and at(store, None).unmet is not None
    assert store.tidy(1000) >= 0 and at(store, None).unmet is not None


def test_an_empty_channel_has_a_place(store: Store) -> None:
    empty = store.begin(["a", "b"])
    assert empty["a"].offset == 0 and len({place.epoch for place in empty.values()} | {EARLIEST.epoch}) == 3
    assert store.positions(["a"]) == {} and store.begin(["a"])["a"] == empty["a"], "nothing was written"
    assert store.after("a", empty["a"], 9).gap is None and store.after("a", empty["b"], 9).gap is not None
    unmet = at(store, Cursor("other", 0)).unmet
    assert unmet is not None and unmet.position == empty["a"]
    (first,) = at(store, empty["a"]).cursors()
    assert first.place == (empty["a"].epoch, 1) and store.after("a", empty["a"], 9).gap is None
    assert at(store, empty["a"]).unmet is not None
    store.clear("a")
    anew = store.begin(["a"])["a"]
    assert anew.epoch != first.epoch and store.after("a", empty["a"], 9).gap is not None
    assert at(store, anew).unmet is None and store.after("a", anew, 9).gap is None
    assert store.after("a", empty["a"], 9).gap is not None and at(store, empty["b"], channel="b").unmet is None


def test_a_channel_that_was_forgotten_has_another_place(sqlite_store: Sqlite, clock: Clock) -> None:
    (first,) = at(sqlite_store, None).cursors()
    clock.pass_by(2 * FORGET)
    assert sqlite_store.tidy(9) == 2 and sqlite_store.begin(["a"])["a"].epoch != first.epoch


def test_the_place_of_an_empty_channel_is_of_one_life(
    open_store: Callable[[], Store], own_life: Callable[[], None]
) -> None:  # fmt: skip
    """The life before may have lost messages of its epoch."""
    store = open_store()
    before = store.begin(["a"])["a"]
    store.close()
    own_life()
    store = open_store()
    assert store.begin(["a"])["a"] != before and at(store, before).unmet is not None
    assert at(store, EARLIEST).unmet is None and store.after("a", before, 9).gap is not None


@pytest.fixture
def own_life(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Begins another life of the store: a file has one each time that it is opened, a server where it is started."""

    def restart() -> None:
        if "redis" in request.node.name.lower():
            server: RedisServer = request.getfixturevalue("redis_server")
            server.kill()
            server.start()

    return restart


def test_a_file_of_the_release_before_gets_the_column(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    before, last, behind = schema.SCHEMA.partition(",   -- the epochs before, and where each ended\n    ended ")
    assert last
    db = sqlite3.connect(path)
    db.executescript(before + behind[behind.index("\n);") :] + durables.SCHEMA + "PRAGMA user_version = 3")
    db.execute("INSERT INTO channels (name, epoch, next, first, removed, fades, ends) VALUES ('a', 'e', 5, 5, 5, 0, 0)")
    db.commit()
    db.close()
    store = Sqlite(path)
    assert store.positions(["a"])["a"].position.place == ("e", 4) and at(store, None, ends=True).unmet is None
    assert at(store, None).unmet is not None
    store.close()


# The doors.


def publish(node: Daemon, channel: str, value: Any, **fields: str) -> tuple[int, dict[str, str], Any]:
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in fields.items()}}
    status, told, body = node.request("POST", f"/{channel}", json.dumps(value), headers)
    return status, told, json.loads(body)


def test_if_match_of_http(daemon: Daemon) -> None:
    status, _, answer = publish(daemon, "cas", 0, If_Match="0:0")
    assert status == 200
    first = answer["cursor"]
    status, fields, answer = publish(daemon, "cas", 1, If_Match="0:0")
    assert status == 412 and fields["raiden-cursor"] == answer["cursor"] == first and "try again" in answer["detail"]
    status, _, answer = publish(daemon, "cas", 1, If_Match=f'"{first}"')
    assert status == 200, "in quotes, as an entity tag"
    status, fields, _ = publish(daemon, "new-cas", 1, If_Match=first)
    assert status == 412 and fields["raiden-cursor"].endswith(":0")
    key = {"Idempotency_Key": "k"}
    assert publish(daemon, "cas", 2, If_Match=answer["cursor"], **key) == publish(
        daemon, "cas", 9, If_Match=first, **key
    )


@pytest.mark.parametrize("value", ["*", "nonsense", 'W/"k3x9:1"', '"k3x9:1", "k3x9:2"', "", '"'])
def test_if_match_is_one_cursor(daemon: Daemon, value: str) -> None:
    assert publish(daemon, "cas-bad", 1, If_Match=value)[0] == 400
    assert daemon.json("/-/channels/cas-bad/history")["messages"] == []


def test_a_condition_of_delete_is_refused(daemon: Daemon) -> None:
    """A condition that was not looked at might not hold."""
    assert publish(daemon, "kept", 1)[0] == 200
    assert daemon.request("DELETE", "/kept", headers={"If-Match": "0:0"})[0] == 400
    assert len(daemon.json("/-/channels/kept/history")["messages"]) == 1


def test_if_match_needs_a_history(start: Callable[..., Daemon]) -> None:
    node = start(channels={"*": {}, "plain*": {"history_size": 0}})
    for fields in ({"If_Match": "0:0"}, {"Raiden_End": "true"}):
        status, _, answer = publish(node, "plain", 1, **fields)
        assert status == 400 and "history_size" in answer["detail"]
    status, _, body = node.post_json("/-/publish", {"channels": ["a", "plain"], "data": 1, "end": True})
    assert status == 400 and b"history_size" in body


def test_conditions_of_several_channels(daemon: Daemon) -> None:
    cursors = json.loads(daemon.post_json("/-/publish", {"channels": ["m1", "m2"], "data": 1})[2])["cursors"]
    order = {"channels": ["m1", "m2"], "data": 2, "if": cursors}
    assert daemon.post_json("/-/publish", order)[0] == 200
    status, _, body = daemon.post_json("/-/publish", {**order, "if": {"m2": cursors["m2"]}})
    assert status == 412 and json.loads(body)["cursor"].split(":")[1] == "2"
    assert [len(daemon.json(f"/-/channels/{name}/history")["messages"]) for name in cursors] == [2, 2], "all or none"
    wrong: tuple[Any, ...] = ("0:0", {"m3": "0:0"}, {"m1": 1}, {"m1": "nonsense"}, [])
    for bad in wrong:
        assert daemon.post_json("/-/publish", {**order, "if": bad})[0] == 400
    assert daemon.request("POST", "/-/publish", json.dumps(order), {"If-Match": "0:0"})[0] == 400


def test_if_of_commands(daemon: Daemon) -> None:
    with Client(daemon) as client:
        publish = {"cmd": "publish", "channel": "cas-ws", "data": 1}
        place = client.ask(**publish, **{"if": "0:0"})["cursor"]
        error = client.ask(**publish, **{"if": "0:0"})["error"]
        assert (error["code"], error["cursor"]) == (412, place)
        assert client.ask(**publish, **{"if": place})["cursor"].split(":")[1] == "2"
        assert client.code(**publish, **{"if": 7}) == 400 and client.code(**publish, end="yes") == 400


# Compare and set: publishers increment a counter, which is right in the end.


def increment(node: Daemon, times: int, failed: list[BaseException]) -> None:
    """Increment the counter so many times, each time from the value that is there."""
    try:
        connection = node.open()

        def ask(method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> Any:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            data = response.read()
            return response.status, json.loads(data)

        place, value = "0:0", 0
        while times:
            told = {"Content-Type": "application/json", "If-Match": place}
            status, answer = ask("POST", "/counter", json.dumps(value + 1), told)
            if status == 200:
                times, value, place = times - 1, value + 1, answer["cursor"]
                continue
            assert status == 412, answer
            _, page = ask("GET", "/-/channels/counter/history?_last=1")
            message = page["messages"][-1]
            value, place = message["data"], message["cursor"]
        connection.close()
    except BaseException as error:  # told to the test, which raises it
        failed.append(error)


def count(nodes: list[Daemon]) -> None:
    failed: list[BaseException] = []
    share = [TIMES // PUBLISHERS] * PUBLISHERS
    threads = [
        threading.Thread(target=increment, args=(nodes[number % len(nodes)], times, failed))
        for number, times in enumerate(share)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    page = nodes[-1].json("/-/channels/counter/history?_last=1")
    assert [message["data"] for message in page["messages"]] == [sum(share)]


def test_a_counter_of_many_publishers(start: Callable[..., Daemon]) -> None:
    count([start(workers=2)])


def test_a_counter_of_many_publishers_on_three_nodes(start: Callable[..., Daemon], redis_server: RedisServer) -> None:
    count([start(store=redis_server.url) for _ in range(3)])
