"""Requests and replies with clients that do what they should not, and workers that fall behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.daemons import Daemon, wait_for
from tests.multiplex import Client, on_each_worker, two_nodes
from tests.tokens import JWT_KEYS, token
from tests.zeromq import OPEN, Clients

TAKE = b"GET /a?_serve=1&_wait=20 HTTP/1.1\r\nHost: a\r\n\r\n"


def test_long_polls_that_come_in_one_go(start: Callable[..., Daemon]) -> None:
    """Each is given the next request as soon as the one before has its answer."""
    node = start(workers=1, store="none")
    clients = [Client(node) for _ in range(2)]
    busy = Client(node)  # so that the others wait
    busy.ask(cmd="serve", channel="a", window=1)
    busy.send(cmd="request", channel="a", data=1, timeout=60)
    busy.push()
    ask = {"cmd": "request", "channel": "a", "data": 1, "timeout": 60}
    numbers = [(client, client.send(**ask)) for client in clients for _ in range(100)]
    for client in clients:
        client.ask(cmd="ping")
    with node.connect() as sock:
        sock.sendall(TAKE * 200)
        came = b""
        while came.count(b"Raiden-Request: ") < 200:
            more = sock.recv(1 << 16)
            assert more, node.log()
            came += more
    ids = [line.split(b" ")[1] for line in came.split(b"\r\n") if line.startswith(b"Raiden-Request: ")]
    with node.connect() as sock:
        for id in ids:
            sock.sendall(b"POST /-/answer/%b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                         b"Content-Length: 1\r\n\r\n1" % id)  # fmt: skip
        assert [client.reply(number) for client, number in numbers] == [{"data": 1}] * 200
    for client in (busy, *clients):
        client.close()
    assert node.metric("raiden_faults") == 0


def test_an_error_that_is_no_text(start: Callable[..., Daemon]) -> None:
    """JSON can write half of a character, and UTF-8 can't."""
    node = start(workers=2, store="none")
    clients = on_each_worker(node)
    (server,), (client,) = clients["worker 0"], clients["worker 1"]
    server.ask(cmd="serve", channel="a")
    number = client.send(cmd="request", channel="a", data=1, timeout=60)
    id = server.push()["request"]
    assert server.code(cmd="answer", request=id, error={"code": 1, "message": "\ud800"}) == 400
    assert server.ask(cmd="answer", request=id, error={"code": 1, "message": "no"}) == {}
    assert client.reply(number)["error"]["error"] == {"code": 1, "message": "no"}
    server.close()
    client.close()


def test_what_ends_while_all_are_told_of_a_server(start: Callable[..., Daemon]) -> None:
    """The reply to `serve` says whether it serves."""
    node = start(workers=2, store="none", jwt_keys=JWT_KEYS)
    with Client(node) as client:
        client.ask(cmd="auth", token=token(sub="eve", serve=["*"]))
        first = client.send(cmd="serve", channel="a")
        client.send(cmd="unserve", channel="a")
        second = client.send(cmd="serve", channel="a", window=3)
        assert client.reply(first)["error"]["code"] == 404
        assert client.reply(second)["window"] == 3
        number = client.send(cmd="serve", channel="b")
        client.ask(cmd="auth", token=token(sub="eve", serve=["a"]))
        assert client.push() == {"channel": "b", "serves": False}
        assert client.reply(number)["error"]["code"] == 404


@pytest.mark.parametrize("field", ["Idempotency-Key", "If-Match", "Raiden-End", "Raiden-Event", "Raiden-Transient"])
def test_a_request_is_no_message(daemon: Daemon, field: str) -> None:
    status, _, body = daemon.request("POST", "/a?_request=1", "1", {"Content-Type": "application/json", field: "true"})
    assert status == 400 and field in json.loads(body)["detail"]


def test_a_request_has_one_type(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(b"POST /a?_request=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Type: text/plain\r\n"
                     b"Content-Type: application/json\r\n\r\n1")  # fmt: skip
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_a_page_may_read_the_fields_of_a_request_that_it_serves(start: Callable[..., Daemon]) -> None:
    node = start(store="none", allowed_origins=["http://page.example"])
    fields = node.request("GET", "/a?_serve=1&_wait=0", headers={"Origin": "http://page.example"})[1]
    assert {"Raiden-Request", "Raiden-Left"} <= set(fields["access-control-expose-headers"].split(", "))


# A node that stops.


def test_a_node_that_stops_lets_requests_have_their_answers(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, store="none", drain_timeout=60)
    with Client(node) as server, Client(node) as idle, Client(node) as client:
        for each in (server, idle):
            each.ask(cmd="serve", channel="a")
        number = client.send(cmd="request", channel="a", data=1, timeout=60)
        wait_for(lambda: node.metric("raiden_requests_served") == 1, "one has it")
        given = {each: each.rest() for each in (server, idle)}
        server, idle = sorted(given, key=lambda each: not given[each])
        id = given[server][0]["request"]
        node.hang_up()
        node.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            idle.push()
        assert idle.ws.close_code == 4002
        for command in ({"cmd": "serve", "channel": "b"}, {"cmd": "request", "channel": "a", "data": 1}):
            assert server.code(**command) == 503
        assert server.ask(cmd="answer", request=id, data=2) == {}
        assert client.reply(number) == {"data": 2}
        for each in (server, client):
            with pytest.raises(ConnectionClosed):
                each.push()
            assert each.ws.close_code == 4002
    assert node.stop() == 0


def test_a_node_that_stops_reads_answers_of_a_dealer(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, store="none", drain_timeout=60, **OPEN)
    with Clients(node) as clients:
        server, client = clients.dealer(), clients.req()
        server.send_multipart([b"", b"serve", b"a"])
        assert server.recv_multipart() == [b"", b"200", b""]
        client.send_multipart([b"request", b"a", b"1", b"", b"60"])
        id = server.recv_multipart()[3]
        node.hang_up()
        node.signal(signal.SIGTERM)

        def refused() -> bool:
            server.send_multipart([b"", b"serve", b"b"])
            status: bytes = server.recv_multipart()[1]
            return status == b"503"

        wait_for(refused, "it stops")
        server.send_multipart([b"", b"answer", id, b"2"])
        assert client.recv_multipart() == [b"200", b"2", b"application/json"]
        assert node.stop() == 0


def test_commands_of_a_dealer_are_bounded(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, store="none", zmq_max_topics=3, **OPEN)
    with Clients(node) as clients:
        server = clients.dealer()

        def status(envelope: bytes, *frames: bytes) -> bytes:
            server.send_multipart([envelope, b"", *frames])
            answer = server.recv_multipart()
            assert answer[:2] == [envelope, b""]
            return answer[2]

        assert [status(b"x", b"serve", b"%d" % number) for number in range(4)] == [b"200"] * 3 + [b"403"]
        assert status(b"x", b"unserve", b"1") == b"200"
        assert status(b"x" * 1025, b"serve", b"4") == b"400", "it would be kept"
        assert status(b"x" * 1024, b"serve", b"4") == b"200"
        for seconds in (b"1_0", b" 5 ", "５".encode(), b"nan", b"1e1", b"-1", b"61", b"0.01"):  # noqa: RUF001
            assert status(b"y", b"request", b"nobody", b"1", b"", seconds) == b"400"
        assert status(b"y", b"request", b"nobody", b"1", b"", b"5.5") == b"503"


@pytest.mark.parametrize("query", ["_serve=1&_wait=0", "_durable=d&_wait=0"])
def test_the_image_of_another_sites_page_takes_nothing(daemon: Daemon, query: str) -> None:
    """A browser gets it without ``Origin``, and the page can't read it: what it took would be lost."""
    for site in ("cross-site", "same-site"):
        assert daemon.request("GET", f"/image?{query}", headers={"Sec-Fetch-Site": site})[0] == 403
    for site in ("same-origin", "none"):
        assert daemon.request("GET", f"/image?{query}", headers={"Sec-Fetch-Site": site})[0] == 204


def test_one_connection_does_not_take_all_windows(daemon: Daemon) -> None:
    with Client(daemon) as client:
        for number in range(10):
            assert client.ask(cmd="serve", channel=f"window.{number}", window=1000)["window"] == 1000
        assert client.code(cmd="serve", channel="window.more", window=1) == 403
        client.ask(cmd="unserve", channel="window.0")
        assert client.ask(cmd="serve", channel="window.more", window=1)["window"] == 1


def test_nobody_waits_for_long_polls_at_a_node_that_stops(tmp_path: Path) -> None:
    with two_nodes(tmp_path, "none", drain_timeout=60) as (one, two), ThreadPoolExecutor(1) as pool:
        taken = pool.submit(two.request, "GET", "/a?_serve=1&_wait=60")
        wait_for(lambda: two.metric("raiden_connections", transport="serve") == 1, "it waits")
        with Client(two) as busy:  # the node waits until it has its answer
            busy.ask(cmd="serve", channel="b")
            number = busy.send(cmd="request", channel="b", data=1, timeout=60)
            id = busy.push()["request"]
            two.hang_up()
            two.signal(signal.SIGTERM)
            assert taken.result(60)[0] == 204
            assert one.request("POST", "/a?_request=2", "1", {})[0] == 503
            busy.ask(cmd="answer", request=id, data=1)
            assert busy.reply(number) == {"data": 1}
