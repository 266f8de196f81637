"""Requests and replies: by HTTP, on ``/-/websocket`` and on the REQ door, on one node and several."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Daemon, running, wait_for
from tests.multiplex import Client, kill, on_each_worker, two_nodes
from tests.tokens import API_KEYS, JWT_KEYS, KEY, bearer, token
from tests.zeromq import OPEN, Clients

JSON = {"Content-Type": "application/json"}
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def later(work: Callable[..., Any], *arguments: Any) -> Iterator[Future[Any]]:
    """Work in a thread of its own; its result is waited for."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, *arguments)
        yield future
        future.result(30)


def ask(
    node: Daemon,
    channel: str,
    value: Any,
    *,
    seconds: float = 20,
    query: str = "",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Ask by HTTP."""
    return node.request(
        "POST", f"/{channel}?_request={seconds:g}{query}", json.dumps(value), {**JSON, **(headers or {})}
    )


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem in an answer with this status."""
    assert answer[0] == status, answer
    assert answer[1]["content-type"].startswith("application/problem+json")
    told: dict[str, Any] = json.loads(answer[2])
    assert told["status"] == status and told["detail"]
    return told


def serve(node: Daemon, channel: str, **more: Any) -> Client:
    """A client that serves a channel."""
    client = Client(node)
    assert client.ask(cmd="serve", channel=channel, **more)["channel"] == channel
    return client


def poll(node: Daemon, channel: str, *, wait: float = 20, headers: dict[str, str] | None = None) -> Answer:
    """Take a request by a long-poll."""
    return node.request("GET", f"/{channel}?_serve=1&_wait={wait:g}", headers=headers)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), workers=2, **OPEN)


def test_a_server_answers(node: Daemon) -> None:
    for name, clients in on_each_worker(node).items():
        with clients[0] as server:
            channel = f"sum.{name[-1]}"
            server.ask(cmd="serve", channel=channel)
            for number in range(6):  # from clients of both workers
                with later(ask, node, channel, [number, 1]) as answer:
                    asked = server.push()
                    assert asked["channel"] == channel and asked["data"] == [number, 1]
                    assert 0 < asked["left"] <= 20
                    assert server.ask(cmd="answer", request=asked["request"], data={"sum": number + 1}) == {}
                status, headers, body = answer.result()
                assert status == 200 and json.loads(body) == {"sum": number + 1}
                assert headers["content-type"].startswith("application/json")


def test_nobody_serves(node: Daemon) -> None:
    told = problem(ask(node, "deserted", 1), 503)
    assert "serve" in told["detail"]
    with Client(node) as client:
        assert client.code(cmd="request", channel="deserted", data=1) == 503
        client.ask(cmd="serve", channel="left")
        client.ask(cmd="unserve", channel="left")
        assert client.code(cmd="unserve", channel="left") == 404
    problem(ask(node, "left", 1), 503)


def test_the_time_is_up(node: Daemon) -> None:
    with serve(node, "slow") as server:
        problem(ask(node, "slow", 1, seconds=0.2), 504)
        late = server.push()
        # The server's worker has heard of the request some time after that of the client.
        wait_for(lambda: node.metric("raiden_requests_served") == 0, "it is over there, too")
        assert server.code(cmd="answer", request=late["request"], data=1) == 410


def test_commands(node: Daemon) -> None:
    with serve(node, "command") as server, Client(node) as client:
        number = client.send(cmd="request", channel="command", data={"a": 1}, timeout=20)
        asked = server.push()
        assert asked["data"] == {"a": 1}
        server.ask(cmd="answer", request=asked["request"], data=[2])
        assert client.reply(number) == {"data": [2]}
        assert server.code(cmd="answer", request=asked["request"], data=3) == 409
        assert server.code(cmd="answer", request="none", data=3) == 404
        assert server.code(cmd="serve", channel="command") == 409


def test_errors_of_a_server(node: Daemon) -> None:
    with serve(node, "errors") as server, Client(node) as client:
        with later(ask, node, "errors", 1) as answer:
            error = {"code": 422, "message": "no number"}
            server.ask(cmd="answer", request=server.push()["request"], error=error)
        assert problem(answer.result(), 502)["error"] == error
        number = client.send(cmd="request", channel="errors", data=1)
        server.ask(cmd="answer", request=server.push()["request"], error=error)
        reply = client.reply(number)["error"]
        assert reply["code"] == 502 and reply["error"] == error


def test_a_server_that_goes(node: Daemon) -> None:
    server = serve(node, "gone")
    with later(ask, node, "gone", 1) as answer:
        server.push()
        server.abort()
    assert "error" not in problem(answer.result(), 502)


def test_another_server_is_asked_again(node: Daemon) -> None:
    first = serve(node, "again")
    with later(lambda: ask(node, "again", 1, query="&_again=1")) as answer:
        first.push()
        with serve(node, "again") as second:
            first.abort()
            asked = second.push()
            second.ask(cmd="answer", request=asked["request"], data="second")
    assert answer.result()[::2] == (200, b'"second"')


def test_nobody_is_there_to_be_asked_again(node: Daemon) -> None:
    first = serve(node, "again.alone")
    with later(lambda: ask(node, "again.alone", 1, query="&_again=1")) as answer:
        first.push()
        first.abort()
    assert "nobody else" in problem(answer.result(), 502)["detail"]


def test_a_client_that_goes(node: Daemon) -> None:
    with serve(node, "cancelled") as server:
        with node.connect() as sock:
            sock.sendall(b"POST /cancelled?_request=30 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                         b"Content-Type: application/json\r\n\r\n1")  # fmt: skip
            asked = server.push()
        assert server.push() == {"channel": "cancelled", "cancel": asked["request"]}
        assert server.code(cmd="answer", request=asked["request"], data=1) == 410
        with Client(node) as client:
            client.send(cmd="request", channel="cancelled", data=2)
            asked = server.push()
        assert server.push() == {"channel": "cancelled", "cancel": asked["request"]}


def test_long_polls(node: Daemon) -> None:
    page = {"Origin": node.url}  # a browser's
    with later(lambda: poll(node, "polled", headers=page)) as taken:
        wait_for(lambda: node.metric("raiden_connections", transport="serve") == 1, "it waits")
        with later(ask, node, "polled", {"a": 1}) as answer:
            status, headers, body = taken.result(20)
            assert (status, json.loads(body)) == (200, {"a": 1})
            assert headers["content-type"].startswith("application/json")
            assert 0 < float(headers["raiden-left"]) <= 20
            assert {"Raiden-Request", "Raiden-Left"} <= set(headers["access-control-expose-headers"].split(", "))
            id = headers["raiden-request"]
            for wrong in (id + "a", "a", id[:17] + "a"):
                assert node.request("POST", f"/-/answer/{wrong}", "1", JSON)[0] == 404
            assert (
                node.request("POST", f"/-/answer/{id}", b"\0\1", {"Content-Type": "application/octet-stream"})[0] == 200
            )
    status, headers, body = answer.result()
    assert (status, headers["content-type"], body) == (200, "application/octet-stream", b"\0\1")
    for without in ("/-/answer", "/-/answer/"):
        assert "/-/answer/ID" in problem(node.request("POST", without, "1", JSON), 400)["detail"]
    for _ in range(4):  # on whichever worker this comes in
        problem(node.request("POST", f"/-/answer/{id}", "1", JSON), 409)


def test_a_request_waits_for_a_long_poll_that_comes_back(node: Daemon) -> None:
    assert poll(node, "back", wait=0)[0] == 204
    with later(ask, node, "back", 7) as answer:
        wait_for(lambda: node.metric("raiden_requests_asked"), "it waits")
        _, headers, body = poll(node, "back")
        assert body == b"7"
        status = node.request("POST", f"/-/answer/{headers['raiden-request']}?_error=418", "no", {})[0]
        assert status == 200
    assert problem(answer.result(), 502)["error"] == {"code": 418, "message": "no"}


def test_a_long_poll_that_is_not_served(node: Daemon) -> None:
    assert poll(node, "idle", wait=0.2)[0] == 204
    wait_for(lambda: ask(node, "idle", 1, seconds=0.1)[0] == 503, "it is not waited for any more")


def test_zeromq(node: Daemon) -> None:
    with Clients(node) as clients:
        server, client = clients.dealer(), clients.req()
        server.send_multipart([b"x", b"", b"serve", b"zmq", b"4"])
        assert server.recv_multipart() == [b"x", b"", b"200", b""]
        client.send_multipart([b"request", b"zmq", b"raw", b"application/octet-stream", b"20"])
        *envelope, command, channel, id, payload, kind, left = server.recv_multipart()
        assert envelope == [b"x", b""] and (command, channel, payload) == (b"request", b"zmq", b"raw")
        assert kind == b"application/octet-stream" and 0 < float(left) <= 20
        server.send_multipart([b"", b"answer", id, b"text", b"text/plain"])
        assert server.recv_multipart() == [b"", b"200", b""]
        assert client.recv_multipart() == [b"200", b"text", b"text/plain"]
        with later(ask, node, "zmq", 1) as answer:
            id = server.recv_multipart()[4]
            server.send_multipart([b"", b"fail", id, b"7", b"broken"])
            server.recv_multipart()
        assert problem(answer.result(), 502)["error"] == {"code": 7, "message": "broken"}
        with Client(node) as asker:
            asker.send(cmd="request", channel="zmq", data=1)
            id = server.recv_multipart()[4]
        assert server.recv_multipart() == [b"x", b"", b"cancel", b"zmq", id]
        server.send_multipart([b"", b"unserve", b"zmq"])
        assert server.recv_multipart()[1] == b"200"
        client.send_multipart([b"request", b"zmq", b"1"])
        assert client.recv_multipart()[0] == b"503"


def test_each_request_has_one_server_that_has_the_fewest(node: Daemon) -> None:
    servers = [serve(node, "shared", window=2) for _ in range(3)]
    with Client(node) as client:
        numbers = [client.send(cmd="request", channel="shared", data=number) for number in range(6)]
        given = [server.take(2) for server in servers]  # two each
        assert sorted(asked["data"] for each in given for asked in each) == list(range(6))
        seventh = client.send(cmd="request", channel="shared", data=6)
        assert all(not server.rest() for server in servers), "there is no room"
        servers[1].ask(cmd="answer", request=given[1][0]["request"], data="done")
        assert servers[1].push()["data"] == 6
        assert client.reply(numbers[given[1][0]["data"]]) == {"data": "done"}
        for server in servers:
            server.close()
        codes = [client.reply(number)["error"]["code"] for number in (*numbers, seventh)
                 if number != numbers[given[1][0]["data"]]]  # fmt: skip
        assert codes == [502] * 6


def test_a_request_is_answered_by_whom_it_was_given_to(node: Daemon) -> None:
    with serve(node, "mine") as server, Client(node) as other:
        with later(ask, node, "mine", 1) as answer:
            id = server.push()["request"]
            for _ in range(2):
                assert other.code(cmd="answer", request=id, data="stolen") in (403, 404)
                assert node.request("POST", f"/-/answer/{id}", '"stolen"', JSON)[0] == 403
            server.ask(cmd="answer", request=id, data="own")
        assert answer.result()[2] == b'"own"'


def test_a_worker_that_ends_loses_what_its_servers_have(start: Callable[..., Daemon]) -> None:
    node = start(workers=2)
    clients = on_each_worker(node)
    workers = node.workers()
    (dying,), (living,) = clients["worker 0"], clients["worker 1"]
    dying.ask(cmd="serve", channel="a")
    lost = living.send(cmd="request", channel="a", data="lost")
    again = living.send(cmd="request", channel="a", data="again", again=True, timeout=60)
    assert [asked["data"] for asked in dying.take(2)] == ["lost", "again"]
    os.kill(workers["worker 0"], signal.SIGKILL)
    assert living.reply(lost)["error"]["code"] == 502
    assert living.reply(again)["error"]["code"] == 502, "nobody else serves"
    with serve(node, "a") as server:  # on whichever worker
        number = living.send(cmd="request", channel="a", data="next")
        server.ask(cmd="answer", request=server.push()["request"], data=1)
        assert living.reply(number) == {"data": 1}
    for client in (dying, living):
        client.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    with two_nodes(tmp_path_factory.mktemp("nodes"), "none") as found:
        yield found


def test_a_server_on_another_node(nodes: list[Daemon]) -> None:
    one, two = nodes
    with serve(two, "far") as server, Client(one) as client:
        for value in range(5):
            number = client.send(cmd="request", channel="far", data=value)
            asked = server.push()
            assert asked["data"] == value
            server.ask(cmd="answer", request=asked["request"], data=[value])
            assert client.reply(number) == {"data": [value]}
        number = client.send(cmd="request", channel="far", data=0)
        asked = server.push()
        client.close()
        assert server.push()["cancel"] == asked["request"]
    problem(ask(one, "far", 1), 503)


def test_the_server_with_the_fewest_is_found_on_another_node(nodes: list[Daemon]) -> None:
    one, two = nodes
    with serve(one, "few") as near, serve(two, "few") as far, Client(one) as client:
        for value in range(2):
            client.send(cmd="request", channel="few", data=value)
        assert {near.push()["data"], far.push()["data"]} == {0, 1}


def test_a_long_poll_is_answered_at_another_node(nodes: list[Daemon]) -> None:
    one, two = nodes
    with later(poll, two, "roaming") as taken:
        wait_for(lambda: two.metric("raiden_connections", transport="serve") == 1, "it waits")
        with later(ask, one, "roaming", 1) as answer:
            id = taken.result(20)[1]["raiden-request"]
            assert one.request("POST", f"/-/answer/{id}", '"there"', JSON)[0] == 200
    assert answer.result()[::2] == (200, b'"there"')
    assert one.request("POST", f"/-/answer/{id}", "1", JSON)[0] == 409
    assert one.request("POST", f"/-/answer/{id}a", "1", JSON)[0] == 404


def test_who_waits_for_a_server_with_room_has_its_turn(nodes: list[Daemon]) -> None:
    """One server that takes one at a time, and requests of both nodes, more than it can take at once."""
    one, two = nodes
    with serve(one, "turns", window=1) as server, Client(one) as near, Client(two) as far:
        numbers = [
            (client, name, client.send(cmd="request", channel="turns", data=name, timeout=60))
            for _ in range(10)
            for name, client in (("near", near), ("far", far))
        ]
        for node in nodes:
            wait_for(lambda node=node: node.metric("raiden_requests_asked") == 10, "all wait")  # type: ignore[misc]
        given = []
        for _ in numbers:
            asked = server.push()
            given.append(asked["data"])
            server.ask(cmd="answer", request=asked["request"], data=asked["data"])
        assert sorted(given) == ["far"] * 10 + ["near"] * 10
        assert set(given[:8]) == {"near", "far"}, "neither waits for the other"
        assert all(client.reply(number) == {"data": name} for client, name, number in numbers)


def test_a_node_that_ends_loses_what_its_servers_have(tmp_path: Path) -> None:
    with two_nodes(tmp_path, "none") as (one, two):
        server = serve(two, "a")
        with Client(one) as client:
            lost = client.send(cmd="request", channel="a", data="lost", timeout=60)
            again = client.send(cmd="request", channel="a", data="again", again=True, timeout=60)
            server.take(2)
            with serve(one, "a") as other:
                kill(two)
                assert client.reply(lost)["error"]["code"] == 502
                asked = other.push()
                assert asked["data"] == "again"
                other.ask(cmd="answer", request=asked["request"], data="done")
                assert client.reply(again) == {"data": "done"}
        server.close()


# Bounds.


def test_open_requests_are_bounded(start: Callable[..., Daemon]) -> None:
    node = start(max_requests=50)
    with serve(node, "a", window=1000) as server:
        clients = [Client(node) for _ in range(2)]
        numbers = [(client, client.send(cmd="request", channel="a", data=n)) for n in range(30) for client in clients]
        for client in clients:
            client.ask(cmd="ping")  # all its requests were looked at
        for each in server.take(50):
            server.ask(cmd="answer", request=each["request"], data=1)
        replies = [client.reply(number) for client, number in numbers]
        refused = [reply["error"]["code"] for reply in replies if "error" in reply]
        assert refused == [503] * 10 and replies.count({"data": 1}) == 50
        for client in clients:
            client.close()
    for what in ("requests_asked", "requests_served"):
        assert node.metric(f"raiden_{what}") == 0


def test_open_requests_of_a_connection_are_bounded(node: Daemon) -> None:
    with serve(node, "one.socket", window=1000) as server, Client(node) as client:
        numbers = [client.send(cmd="request", channel="one.socket", data=n) for n in range(129)]
        assert client.reply(numbers[128])["error"]["code"] == 429
        server.take(128)
    wait_for(lambda: node.metric("raiden_requests_served") == 0, "nothing is left behind")


def test_large_requests_and_answers(node: Daemon) -> None:
    large = "a" * 900_000
    with serve(node, "large") as server:
        with later(ask, node, "large", large) as answer:
            asked = server.push()
            assert asked["data"] == large
            server.ask(cmd="answer", request=asked["request"], data=large)
        assert json.loads(answer.result()[2]) == large
        problem(node.request("POST", "/large?_request=5", b"a" * 800_000, {}), 413)


def test_a_server_that_does_not_read(start: Callable[..., Daemon]) -> None:
    """It is given no more than its outbox takes; the other requests wait, and hold up nobody."""
    node = start(workers=1)
    body = json.dumps("a" * 900_000).encode()
    head = f"POST /deaf?_request=60 HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    with Client(node) as client, ExitStack() as stack:
        deaf = stack.enter_context(node.connect())
        command = b'{"id":1,"cmd":"serve","channel":"deaf","window":100}'
        opening = "GET /-/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        deaf.sendall(opening.encode() + f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode()
                     + bytes([0x81, 0x80 | len(command), 0, 0, 0, 0]) + command)  # fmt: skip
        said = b""
        while b'"window":100}' not in said:
            said += deaf.recv(4096)
        socks = [stack.enter_context(node.connect()) for _ in range(12)]
        for sock in socks:
            sock.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        wait_for(lambda: node.metric("raiden_requests_asked") == 12, "all have come")
        assert 1 <= node.metric("raiden_requests_served") < 12
        for sock in socks:
            sock.close()
        wait_for(lambda: node.metric("raiden_requests_asked") == 0, "all are withdrawn")
        assert client.code(cmd="request", channel="deaf", data=1, timeout=0.2) == 504
    assert node.metric("raiden_slow_consumers_total") == 0


def test_rates(start: Callable[..., Daemon]) -> None:
    """A request counts as a publish, and to serve as a subscription."""
    node = start(workers=1, rates={"publish": (0.01, 2), "subscribe": (0.01, 3)})
    with Client(node) as client:
        assert ask(node, "a", 1)[0] == client.code(cmd="request", channel="a", data=1) == 503
        assert ask(node, "a", 1)[0] == client.code(cmd="request", channel="a", data=1) == 429
        assert client.ask(cmd="serve", channel="a")["channel"] == "a"
        assert [poll(node, "a", wait=0)[0] for _ in range(3)] == [204, 204, 429]
        assert client.code(cmd="serve", channel="b") == 429


# Tokens.


def test_tokens(start: Callable[..., Daemon]) -> None:
    node = start(workers=2, jwt_keys=JWT_KEYS, api_keys=API_KEYS)

    def server(**claims: Any) -> Client:
        client = Client(node)
        assert "expires" in client.ask(cmd="auth", token=token(**claims))
        assert "channel" in client.ask(cmd="serve", channel="a")
        return client

    # Another token of the subject, without the permission.
    first = server(serve=["a"])
    first.ask(cmd="auth", token=token(publish=["a"]))
    assert first.push() == {"channel": "a", "serves": False}
    problem(ask(node, "a", 1, headers=bearer(KEY)), 503)
    first.close()
    # The application ends what it has of the channel.
    second = server(sub="bob", serve=["a"])
    assert node.request("POST", "/-/disconnect", '{"sub": "bob", "channel": "a"}', {**JSON, **bearer(KEY)})[0] == 200
    assert second.push() == {"channel": "a", "serves": False}
    second.close()
    # Revoked, with a request.
    third = server(sub="eve", serve=["a"])
    with later(lambda: ask(node, "a", 1, headers=bearer(KEY))) as answer:
        third.push()
        assert node.request("POST", "/-/revoke", '{"sub": "eve"}', {**JSON, **bearer(KEY)})[0] == 200
    problem(answer.result(), 502)
    third.close()
    # A long-poll, and a client that waits for its answer.
    with later(lambda: poll(node, "b", headers=bearer(token(sub="max", serve=["b"])))) as polling:
        wait_for(lambda: ended(node, "max"), "it is ended")
    problem(polling.result(), 403)
    with server(sub="ann", serve=["a"]), later(
        lambda: ask(node, "a", 1, headers=bearer(token(sub="tim", request=["a"])))
    ) as asking:  # fmt: skip
        wait_for(lambda: ended(node, "tim"), "it is ended")
    problem(asking.result(), 403)


def ended(node: Daemon, sub: str) -> int:
    """End the connections of a subject; how many there were."""
    _, _, body = node.request("POST", "/-/disconnect", json.dumps({"sub": sub}), {**JSON, **bearer(KEY)})
    count: int = json.loads(body)["ended"]
    return count


@pytest.mark.parametrize("query", ["_request=0", "_request=61", "_request=", "_request=a", "_request=5&_again=2",
                                   "_request=5&_wait=1", "_again=1"])  # fmt: skip
def test_bad_requests(node: Daemon, query: str) -> None:
    problem(node.request("POST", f"/bad?{query}", "1", JSON), 400)


@pytest.mark.parametrize(
    "query", ["_serve=2&_wait=1", "_serve=1", "_serve=1&_wait=1&a=b&_since=earliest", "_serve=0&_wait=1"]
)
def test_bad_long_polls(node: Daemon, query: str) -> None:
    problem(node.request("GET", f"/bad?{query}"), 400)
    problem(node.request("GET", "/bad*?_serve=1&_wait=0"), 400)


@pytest.mark.parametrize(
    "command",
    [
        {"cmd": "request", "channel": "a"}, {"cmd": "request", "channel": "a*", "data": 1},
        {"cmd": "request", "channel": "a", "data": 1, "timeout": 0}, {"cmd": "serve", "channel": "a*"},
        {"cmd": "serve", "channel": "a", "window": 0}, {"cmd": "answer", "request": "a"}, {"cmd": "answer", "data": 1},
        {"cmd": "answer", "request": "a", "data": 1, "error": {"code": 1, "message": ""}},
        {"cmd": "answer", "request": "a", "error": {"code": 0, "message": ""}},
        {"cmd": "answer", "request": "a", "error": {"code": 1}},
        {"cmd": "answer", "request": "a", "error": {"code": 1, "message": "a" * 1001}},
    ],
)  # fmt: skip
def test_bad_commands(node: Daemon, command: dict[str, Any]) -> None:
    with Client(node) as client:
        assert client.code(**command) == 400
