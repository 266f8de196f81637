"""A node whose store is away: what it still says, to clients, to a balancer and in its log."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raiden.history.client import History
from raiden.history.redis import Redis
from raiden.history.server import Server
from tests.daemons import Daemon, post, wait_for
from tests.stores import RedisServer

KEEPS = {"a": {"history_size": 10}, "plain": {"history_size": 0}}


def subscribed(node: Daemon, cursor: str) -> tuple[int, str | None]:
    """The status of a subscription behind a cursor, and whether all follows."""
    with contextlib.closing(node.open()) as connection:
        connection.request("GET", f"/a?_since={cursor}")
        answer = connection.getresponse()
        return answer.status, answer.getheader("Raiden-Recovered")


def test_who_comes_back_to_a_node_without_its_store_is_refused(
    start: Callable[..., Daemon], own_server: RedisServer
) -> None:
    """The node knows of nothing after the cursor; but it knows nothing of what others have stored since, either."""
    node = start(store=own_server.url, channels=KEEPS)
    (cursor,) = post(node, "a", 1)
    assert subscribed(node, cursor) == (200, "true")
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: subscribed(node, cursor)[0] == 503, "who comes back is refused")
        assert [subscribed(node, cursor) for _ in range(2)] == [(503, None)] * 2
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    wait_for(lambda: subscribed(node, cursor) == (200, "true"), "the store is asked again")


def test_clients_are_not_told_where_the_store_is(start: Callable[..., Daemon], own_server: RedisServer) -> None:
    node = start(store=own_server.url, channels=KEEPS)
    post(node, "a", 1)
    own_server.kill()
    refusals = [
        node.post_json("/a", 2),
        node.request("GET", "/-/channels/a/history"),
        node.request("GET", "/-/ready"),
        node.request("GET", "/a?_since=earliest"),
    ]
    for status, _, body in refusals:
        assert status == 503
        detail = json.loads(body)["detail"]
        assert "the store of the history" in detail and str(own_server.folder) not in detail
    assert node.log().count(own_server.url) == 2, "the log has it, of reading and of writing"
    own_server.start()
    wait_for(lambda: node.json("/-/ready"), "the store is there again")
    assert "the history can be written again" in node.log()


def test_only_what_the_store_has_answered_shows_that_it_is_there(own_server: RedisServer, tmp_path: Path) -> None:
    """Redis is not asked for the size of a file."""
    store = Redis(own_server.url)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "history"))
        listener.listen()
        ours, theirs = socket.socketpair()
        serving = threading.Thread(target=Server(store, listener).serve_until, args=(theirs,))
        serving.start()
        history = History(str(tmp_path / "history"))
        try:
            history.size()
            assert not history.is_fresh
            history.now()
            assert history.is_fresh
        finally:
            history.close()
            ours.close()
            serving.join()
            theirs.close()
            store.close()


@pytest.mark.parametrize("without", [False, True])
def test_a_node_may_be_ready_without_its_store(
    start: Callable[..., Daemon], own_server: RedisServer, without: bool
) -> None:
    own_server.kill()
    node = start(store=own_server.url, channels=KEEPS, ready_without_store=without)
    status, _, body = node.request("GET", "/-/ready")
    answer = json.loads(body)
    assert status == (200 if without else 503)
    assert "does not answer" in answer["history" if without else "detail"]
    log = node.log()
    assert log.index("the history can't be written") < log.index("ready"), "who starts it sees that"
    assert node.post_json("/plain", 1)[0] == 202, "what needs no history works"
    own_server.start()
    wait_for(lambda: json.loads(node.request("GET", "/-/ready")[2]) == {"status": "ready", "peers": 0}, "all works")
