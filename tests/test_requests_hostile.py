"""Requests and replies with clients that do what they should not, and workers that fall behind."""

from __future__ import annotations

from collections.abc import Callable

from tests.daemons import Daemon
from tests.multiplex import Client, on_each_worker

TAKE = b"GET /a?_serve=1&_wait=20 HTTP/1.1\r\nHost: a\r\n\r\n"


def test_long_polls_that_come_in_one_go(start: Callable[..., Daemon]) -> None:
    """Each is given the next request as soon as the one before has its answer."""
    node = start(workers=1, store="none")
    node.request("GET", "/a?_serve=1&_wait=0")
    clients = [Client(node) for _ in range(2)]
    numbers = [(clients[n % 2], clients[n % 2].send(cmd="request", channel="a", data=n)) for n in range(200)]
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
    for client in clients:
        client.close()
    assert node.metric("raiden_faults") == 0


def test_an_error_that_is_no_text(start: Callable[..., Daemon]) -> None:
    """JSON can write half of a character, and UTF-8 can't."""
    node = start(workers=2, store="none")
    clients = on_each_worker(node)
    (server,), (client,) = clients["worker 0"], clients["worker 1"]
    server.ask(cmd="serve", channel="a")
    number = client.send(cmd="request", channel="a", data=1)
    id = server.push()["request"]
    assert server.code(cmd="answer", request=id, error={"code": 1, "message": "\ud800"}) == 400
    assert server.ask(cmd="answer", request=id, error={"code": 1, "message": "no"}) == {}
    assert client.reply(number)["error"]["error"] == {"code": 1, "message": "no"}
    server.close()
    client.close()
