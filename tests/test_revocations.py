"""Revocations and disconnections: what ends, where, and what is refused afterwards."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from raiden.access import revocations
from raiden.access.clients import Client
from raiden.access.revocations import Revocation, Revocations, asked
from raiden.model.refusals import Unavailable
from tests.daemons import Daemon, Stream, wait_for
from tests.stores import RedisServer
from tests.tokens import API_KEYS, JWT_KEYS, KEY, SECRET, bearer, on, token

JSON = {"Content-Type": "application/json"}
KEYS = {"jwt_keys": JWT_KEYS, "api_keys": API_KEYS}
NOW = 1_000_000.0


# The table.


def client(sub: str | None = "ann", jti: str | None = "1", iat: float | None = None) -> Client:
    return Client("ann", credential="token", subject=sub, id=jti, issued=iat)


def test_what_a_revocation_covers() -> None:
    table = Revocations()
    assert table.of(client(), NOW) is None
    assert table.add(Revocation("sub", "ann", NOW, NOW + 10), NOW)
    assert table.of(client(), NOW) and table.of(client(iat=NOW), NOW) and table.of(client(jti=None), NOW)
    assert not table.of(client(iat=NOW + 1), NOW), "one that was issued later is another"
    assert not table.of(client(sub="bob"), NOW) and not table.of(client(sub=None), NOW)
    assert not table.of(client(), NOW + 10), "it is over"
    assert table.add(Revocation("jti", "1", NOW, None), NOW)
    assert table.of(client(sub="bob", iat=NOW + 99), NOW) and not table.of(client(sub="bob", jti="2"), NOW)


def test_the_latest_of_several_counts_in_any_order() -> None:
    first, second, end = (Revocation("sub", "ann", NOW + at, until) for at, until in ((0, None), (1, NOW), (2, None)))
    for rows in ((first, second), (second, first)):
        table = Revocations()
        for row in rows:
            table.add(row, NOW)
        assert table.of(client(), NOW) is None
        assert not table.add(first, NOW) and table.add(end, NOW) and table.of(client(), NOW) == end


def test_what_was_taken_back_long_ago_stays_so() -> None:
    """As a node reads it from the store."""
    table = Revocations()
    for row in (Revocation("sub", "ann", NOW, None), Revocation("sub", "ann", NOW + 1, NOW + 1)):
        table.add(row, NOW + 3 * revocations.DAY)
    assert table.of(client(), NOW + 3 * revocations.DAY) is None


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 10)
    table = Revocations()
    for number in range(10):
        assert table.add(Revocation("jti", str(number), NOW, NOW + number), NOW)
    with pytest.raises(Unavailable, match="ttl"):
        table.add(Revocation("jti", "more", NOW, None), NOW - 1)
    assert table.add(Revocation("jti", "more", NOW, None), NOW + 5) and len(table) == 5


def test_short_ones_push_no_long_ones_out_of_the_store() -> None:
    ban = Revocation("sub", "ann", NOW, None)
    day, hour = (Revocation("jti", "1", NOW, NOW + seconds) for seconds in (86400, 3600))
    assert revocations.shelf(ban, None) is None
    assert revocations.shelf(day, None) == 17 and revocations.shelf(hour, None) == 12
    assert revocations.shelf(hour, day) == 17, "a restart must not bring back the longer one"
    assert revocations.shelf(hour, ban) is None and revocations.shelf(day._replace(until=NOW), None) is None
    assert revocations.shelf(day._replace(until=NOW + 1e10), None) is None


def test_a_later_one_counts_whatever_the_clocks_say(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Revocations()
    table.add(Revocation("sub", "ann", NOW + 60, NOW + 60), NOW)  # taken back on a node whose clock is ahead
    one = table.following(Revocation("sub", "ann", NOW, None), NOW)
    assert table.add(one, NOW) and table.of(client(), NOW)
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 1)
    assert table.following(one, NOW).at > one.at
    with pytest.raises(Unavailable, match="ttl"):
        table.following(Revocation("sub", "bob", NOW, None), NOW)


def test_its_parts_are_all() -> None:
    table = Revocations()
    rows = {Revocation("jti", str(number), NOW, None) for number in range(100)}
    for row in rows:
        table.add(row, NOW)
    parts = [table.part(number, 7) for number in range(7)]
    assert set().union(*parts) == rows and sum(map(len, parts)) == 100 and all(parts)


@pytest.mark.parametrize(
    "row", [None, 1, [], ["sub", "a", 1], ["name", "a", 1, 2], ["sub", 1, 1, 2], ["sub", "a", "", 2]]
)
def test_what_is_no_row(row: Any) -> None:
    assert Revocation.of(row) is None


@pytest.mark.parametrize(
    "members",
    [{}, {"sub": "a", "jti": "b"}, {"sub": 1}, {"sub": ""}, {"jti": "a" * 256}, {"sub": "a", "ttl": -1},
     {"sub": "a", "ttl": "1"}, {"sub": "a", "ttl": True}],
)  # fmt: skip
def test_what_is_asked_for_wrongly(members: dict[str, Any]) -> None:
    assert isinstance(asked(members, NOW), str)


# Real nodes.


def manage(node: Daemon, what: str, credential: str | None = KEY, **body: Any) -> tuple[int, dict[str, Any]]:
    status, _, answer = node.request("POST", f"/-/{what}", json.dumps(body), {**JSON, **bearer(credential)})
    return status, json.loads(answer)


def revoke(node: Daemon, **body: Any) -> int:
    status, answer = manage(node, "revoke", **body)
    assert status == 200, answer
    ended: int = answer["ended"]
    return ended


@pytest.fixture
def node(start: Callable[..., Daemon]) -> Daemon:
    return start(workers=2, **KEYS)


class Watcher:
    """A client by one transport, which has subscribed; ``end`` waits for what it is told at the end."""

    def __init__(self, stack: ExitStack, node: Daemon, transport: str, credential: str) -> None:
        self._told: Callable[[], Any]
        headers = bearer(credential)
        if transport in ("stream", "events", "wrapped"):
            path = "/a?_wrap=1" if transport == "wrapped" else "/a"
            accept = {"Accept": "text/event-stream"} if transport == "events" else {}
            stream = stack.enter_context(Stream(node, path, {**headers, **accept}))
            assert stream.status == 200
            self._told = lambda: b"".join(iter(stream.line, b""))
        elif transport in ("socket", "multiplex"):
            path = "/a" if transport == "socket" else "/-/websocket"
            url = f"ws://127.0.0.1:{node.port}{path}"
            socket = stack.enter_context(connect(url, proxy=None, additional_headers=headers))
            if transport == "multiplex":
                command(socket, cmd="subscribe", channel="a")
            self._told = lambda: _close_code(socket)
        else:
            query = "_wait=60" if transport == "poll" else "_wait=60&_durable=d"
            pool = stack.enter_context(ThreadPoolExecutor(1))
            answer = pool.submit(node.request, "GET", f"/a?{query}", None, headers)
            self._told = lambda: answer.result()[0]

    def end(self) -> Any:
        return self._told()


def command(socket: ClientConnection, **sent: Any) -> dict[str, Any]:
    socket.send(json.dumps({"id": 1, **sent}))
    while (reply := json.loads(socket.recv(20))).get("id") != 1:
        pass
    assert isinstance(reply, dict) and "error" not in reply, reply
    return reply


def _close_code(socket: ClientConnection) -> int:
    try:
        while True:
            socket.recv(20)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return closed.rcvd.code


# What each transport is told.
ENDS = {
    "stream": b"", "events": b"event: revokeddata: {}", "wrapped": b'{"revoked":true}', "socket": 4503,
    "multiplex": 4503, "poll": 401, "durable": 401,
}  # fmt: skip


def waiting(node: Daemon, count: int) -> bool:
    """Whether so many clients are subscribed to the channel, or consume it, by all workers."""
    _, _, body = node.request("GET", "/-/channels/a", None, bearer(KEY))
    return bool(json.loads(body)["subscribers"] >= count)


def test_each_transport_ends(node: Daemon) -> None:
    with ExitStack() as stack:
        watchers = {each: Watcher(stack, node, each, token("ann")) for each in ENDS}
        other = Watcher(stack, node, "socket", token("bob"))
        wait_for(lambda: waiting(node, len(ENDS) + 1), "all are subscribed")
        assert revoke(node, sub="ann") == len(ENDS)
        assert {each: watcher.end() for each, watcher in watchers.items()} == ENDS
        refused(node, token("ann"))
        assert revoke(node, sub="bob") == 1 and other.end() == 4503


def refused(node: Daemon, credential: str) -> None:
    """Nothing is served for the credential, by all workers and with heads that they remember."""
    for _ in range(4):
        for method, path in (("POST", "/a"), ("GET", "/a?_wait=0"), ("GET", "/-/channels/a/history")):
            body = "1" if method == "POST" else None
            status, _, answer = node.request(method, path, body, {**JSON, **bearer(credential)})
            assert (status, "revoked" in json.loads(answer)["detail"]) == (401, True)
        with pytest.raises(InvalidStatus, match="401"):
            connect(f"ws://127.0.0.1:{node.port}/a", proxy=None, additional_headers=bearer(credential))


def test_a_head_that_is_remembered_is_forgotten(node: Daemon) -> None:
    """A connection that stays publishes no more; that of another subject does."""
    ann, bob = node.open(), node.open()

    def publish(connection: Any, credential: str) -> int:
        connection.request("POST", "/a", "1", {**JSON, **bearer(credential)})
        response = connection.getresponse()
        response.read()
        status: int = response.status
        return status

    first, second = token("ann"), token("bob")
    for _ in range(3):
        assert (publish(ann, first), publish(bob, second)) == (200, 200)
    revoke(node, sub="ann")
    for _ in range(3):
        assert (publish(ann, first), publish(bob, second)) == (401, 200)
    ann.close()
    bob.close()


@pytest.mark.parametrize("query", ["", "&_wrap=1", "&_wait=60"])
def test_a_subscription_that_is_still_being_made(start: Callable[..., Daemon], query: str) -> None:
    """It waits for the history meanwhile."""
    node = start(**KEYS)
    node.request("POST", "/a", "1", {**JSON, **bearer(KEY)})
    credential = token("ann")

    def is_revoked() -> bool:
        return node.request("GET", "/-/nodes", None, bearer(credential))[0] == 401

    history = node.workers()["history"]
    with ThreadPoolExecutor(1) as pool, node.connect() as sock:
        os.kill(history, signal.SIGSTOP)
        try:
            head = f"GET /a?_last=1{query} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {credential}\r\n\r\n"
            sock.sendall(head.encode())
            assert node.request("GET", "/-/health")[0] == 200, "what came before was read"
            done = pool.submit(manage, node, "revoke", sub="ann")
            wait_for(is_revoked, "the worker is told", 5)
        finally:
            os.kill(history, signal.SIGCONT)
        assert sock.recv(1000).startswith(b"HTTP/1.1 401")
        assert done.result(20) == (200, {"ended": 0})


def test_one_token_by_its_id(node: Daemon) -> None:
    first, second = (jwt.encode({"sub": "ann", "jti": jti, **on("*")}, SECRET) for jti in ("1", "2"))
    with Stream(node, "/a", bearer(first)) as ended, Stream(node, "/a", bearer(second)) as stays:
        assert revoke(node, jti="1") == 1 and ended.line() == b""
        assert node.request("POST", "/a", "1", {**JSON, **bearer(second)})[0] == 200
        assert stays.value() == 1
    refused(node, first)


def test_a_token_that_is_issued_later_is_accepted(node: Daemon) -> None:
    old, new = (jwt.encode({"sub": "ann", "iat": time.time() + at, **on("*")}, SECRET) for at in (-5, 5))
    revoke(node, sub="ann")
    refused(node, old)
    assert node.request("POST", "/a", "1", {**JSON, **bearer(new)})[0] == 200


def test_it_holds_for_its_time_and_can_be_taken_back(node: Daemon) -> None:
    revoke(node, sub="ann", ttl=1)
    refused(node, token("ann"))
    wait_for(lambda: node.request("POST", "/a", "1", {**JSON, **bearer(token("ann"))})[0] == 200, "it is over")
    revoke(node, sub="ann")
    refused(node, token("ann"))
    assert revoke(node, sub="ann", ttl=0) == 0
    assert node.request("POST", "/a", "1", {**JSON, **bearer(token("ann"))})[0] == 200


def test_renewing_with_a_revoked_token(node: Daemon) -> None:
    revoke(node, jti="1")
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None, additional_headers=bearer(token())) as socket:
        sent = jwt.encode({"sub": "ann", "jti": "1", **on("*")}, SECRET)
        socket.send(json.dumps({"id": 1, "cmd": "auth", "token": sent}))
        assert json.loads(socket.recv(20))["error"]["code"] == 401
        assert command(socket, cmd="ping")


def test_who_may_and_what_is_malformed(node: Daemon) -> None:
    for what in ("revoke", "disconnect"):
        assert manage(node, what, None, sub="ann")[0] == 401
        assert manage(node, what, token("ann", **{**on("*"), "manage": ["a*"]}), sub="ann")[0] == 403
        assert manage(node, what, sub="ann", nonsense=1)[0] == 400
        assert manage(node, what)[0] == 400
        assert node.request("POST", f"/-/{what}", "[" * 5000, {**JSON, **bearer(KEY)})[0] == 400
        assert node.request("POST", f"/-/{what}?_a=1", '{"sub":"a"}', {**JSON, **bearer(KEY)})[0] == 400
        assert node.request("GET", f"/-/{what}", None, bearer(KEY))[0] == 405
    assert manage(node, "disconnect", sub="ann", channel="a\n")[0] == 400
    assert node.request("POST", "/a", "1", {**JSON, **bearer(token("ann"))})[0] == 200, "nothing was done"


def test_disconnecting_a_subject(node: Daemon) -> None:
    wanted = {**ENDS, "events": b"event: disconnecteddata: {}", "wrapped": b'{"disconnected":true}'}
    wanted |= {"poll": 403, "durable": 403}
    with ExitStack() as stack:
        watchers = {each: Watcher(stack, node, each, token("ann")) for each in ENDS}
        wait_for(lambda: waiting(node, len(ENDS)), "all are subscribed")
        assert manage(node, "disconnect", sub="bob") == (200, {"ended": 0})
        assert manage(node, "disconnect", sub="ann") == (200, {"ended": len(ENDS)})
        assert {each: watcher.end() for each, watcher in watchers.items()} == wanted
    assert node.request("POST", "/a", "1", {**JSON, **bearer(token("ann"))})[0] == 200, "it may come back"


def test_disconnecting_from_a_channel(node: Daemon) -> None:
    url = f"ws://127.0.0.1:{node.port}/-/websocket"
    with (
        connect(url, proxy=None, additional_headers=bearer(token("ann"))) as socket,
        Stream(
            node, "/-/subscribe?channel=a&channel=b", {"Accept": "text/event-stream", **bearer(token("ann"))}
        ) as both,
        Stream(node, "/b", bearer(token("ann"))) as other,
    ):
        for sent in ({"channel": "a"}, {"channel": "b"}, {"channel": "a", "durable": "d"}):
            command(socket, cmd="subscribe", **sent)
        manage(node, "disconnect", sub="ann", channel="a")
        told = [json.loads(socket.recv(20)) for _ in range(2)]
        assert told == [{"channel": "a", "ended": True}, {"channel": "a", "durable": "d", "ended": True}]
        wait_for(lambda: both.line() == b"event: disconnected", "a stream that has the channel among others ends")
        node.request("POST", "/b", "1", {**JSON, **bearer(KEY)})
        assert json.loads(socket.recv(20))["channel"] == "b" and other.value() == 1


def test_a_restart_keeps_it(start: Callable[..., Daemon]) -> None:
    """Also that of one worker."""
    node = start(workers=2, **KEYS)
    revoke(node, sub="ann")
    revoke(node, sub="bob")
    revoke(node, sub="bob", ttl=0)
    revoke(node, sub="carl", ttl=1000)
    pids = node.workers()
    os.kill(pids["worker 0"], signal.SIGKILL)
    wait_for(lambda: not pids.items() <= node.workers().items() and len(node.workers()) == len(pids), "it is replaced")
    wait_for(lambda: node.request("GET", "/-/ready")[0] == 200, "it is ready")
    refused(node, token("ann"))
    assert node.stop() == 0
    again = start(workers=2, data_dir=node.folder, **KEYS)
    refused(again, token("ann"))
    refused(again, token("carl"))
    assert again.request("POST", "/a", "1", {**JSON, **bearer(token("bob"))})[0] == 200


def hear_of_revocations(node: Daemon) -> None:
    """Wait until each of two workers knows that the tokens of ann are revoked, and only these."""

    def seen(subject: str) -> set[int]:
        return {node.request("GET", "/a?_wait=0", None, bearer(token(subject)))[0] for _ in range(20)}

    wait_for(lambda: seen("bob") == {204}, "they have heard of each other's")
    assert seen("ann") == {401}


def test_a_worker_that_is_replaced_asks_the_others_where_there_is_no_store(start: Callable[..., Daemon]) -> None:
    node = start(workers=2, store="none", **KEYS)
    assert revoke(node, sub="ann") == 0
    pids = node.workers()
    os.kill(pids["worker 0"], signal.SIGKILL)
    wait_for(lambda: not pids.items() <= node.workers().items() and len(node.workers()) == len(pids), "it is replaced")
    wait_for(lambda: node.request("GET", "/-/ready")[0] == 200, "it is ready")
    seen = {node.request("GET", "/a?_wait=0", None, bearer(token("ann")))[0] for _ in range(20)}
    assert seen <= {401, 503}, seen
    hear_of_revocations(node)


def test_a_worker_that_is_not_told_which_tokens_are_revoked_refuses_them(start: Callable[..., Daemon]) -> None:
    """The other worker of its node is stopped, and does not answer."""
    node = start(workers=2, store="none", **KEYS)
    assert revoke(node, sub="ann") == 0
    pids = node.workers()
    asks = f"GET /a?_wait=0 HTTP/1.1\r\nHost: a\r\n{'Authorization: ' + bearer(token('ann'))['Authorization']}\r\n\r\n"
    with ExitStack() as stack:
        os.kill(pids["worker 1"], signal.SIGSTOP)
        stack.callback(os.kill, pids["worker 1"], signal.SIGCONT)
        os.kill(pids["worker 0"], signal.SIGKILL)
        wait_for(lambda: node.workers().get("worker 0") not in (None, pids["worker 0"]), "it is replaced")
        clients = [stack.enter_context(node.connect()) for _ in range(20)]  # each worker gets some of them
        for each in clients:
            each.sendall(asks.encode())
        answered, _, _ = select.select(clients, [], [], 20)
        assert answered and {each.recv(12) for each in answered} == {b"HTTP/1.1 503"}
    hear_of_revocations(node)


def test_tokens_are_refused_while_the_store_does_not_tell(
    start: Callable[..., Daemon], own_server: RedisServer
) -> None:  # fmt: skip
    """Nobody knows then which are revoked. API keys are not affected."""
    own_server.kill()
    node = start(store=own_server.url, channels={"a": {"history_size": 0}}, **KEYS)
    assert node.request("POST", "/a", "1", {**JSON, **bearer(token("ann"))})[0] == 503
    assert node.request("POST", "/a", "1", {**JSON, **bearer(KEY)})[0] == 202
    status, answer = manage(node, "revoke", sub="ann")
    assert status == 503 and "not kept" in answer["detail"]
    own_server.start()

    def status_of(subject: str) -> int:
        return node.request("POST", "/a", "1", {**JSON, **bearer(token(subject))})[0]

    wait_for(lambda: status_of("bob") == 202, "the store tells")
    assert status_of("ann") == 401


# Clusters.


def join(start: Callable[..., Daemon], nodes: list[Daemon], **settings: Any) -> Daemon:
    """Start one more node; all are connected then."""
    peers = [_address(node) for node in nodes[:1]]
    nodes.append(start(backend_host="127.0.0.1", backend_port=0, peers=peers, drain_window=0, **KEYS, **settings))
    wait_for(lambda: all(_peers(node) == len(nodes) - 1 for node in nodes), "the nodes are connected")
    return nodes[-1]


def _address(node: Daemon) -> str:
    _, _, body = node.request("GET", "/-/nodes", None, bearer(KEY))
    address: str = json.loads(body)["nodes"][0]["address"]
    return address


def _peers(node: Daemon) -> int:
    status, _, body = node.request("GET", "/-/ready")
    return int(json.loads(body)["peers"]) if status == 200 else -1


@pytest.mark.parametrize("store", ["none", "redis"])
def test_in_a_cluster(start: Callable[..., Daemon], request: pytest.FixtureRequest, store: str) -> None:
    settings = {"store": "none"}
    if store == "redis":
        settings["store"] = request.getfixturevalue("redis_server").url
    ends = {each: end for each, end in ENDS.items() if each != "durable" or store == "redis"}
    nodes: list[Daemon] = []
    for _ in range(3):
        join(start, nodes, **settings)
    with ExitStack() as stack:
        watchers = [(each, Watcher(stack, node, each, token("ann"))) for node in nodes for each in ends]
        stays = Watcher(stack, nodes[1], "socket", token("bob"))
        for node in nodes:
            wait_for(lambda node=node: waiting(node, len(watchers) + 1), "all are subscribed")  # type: ignore[misc]
        assert revoke(nodes[0], sub="ann") == len(watchers)
        assert all(watcher.end() == ends[each] for each, watcher in watchers)
        for node in nodes:
            refused(node, token("ann"))
        assert revoke(nodes[2], sub="bob") == 1 and stays.end() == 4503
    joined = join(start, nodes, **settings)
    wait_for(lambda: _is_refused(joined, "ann") and _is_refused(joined, "bob"), "a node that joins has asked")
    refused(joined, token("ann"))
    if store == "redis":
        for node in nodes:
            assert node.stop() == 0
        nodes = []
        for _ in range(2):
            refused(join(start, nodes, **settings), token("ann"))


def _is_refused(node: Daemon, subject: str) -> bool:
    return node.request("POST", "/a", "1", {**JSON, **bearer(token(subject))})[0] == 401
