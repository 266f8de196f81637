"""Pusher's libraries against one node and a cluster: pusher-js, pusher, laravel-echo for Node.js; pusher, pysher for
Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_webhooks import wait_until_connected
from tests.daemons import PATIENCE, ROOT, Daemon, running, wait_for
from tests.dialects.balancer import Balancer
from tests.dialects.pusher_client import APP, Client, call, trigger
from tests.stores import RedisServer

MODULES = ROOT / "build/node/node_modules"
PACKAGES = ("pusher-js", "pusher", "laravel-echo", "tweetnacl")
CHECKS = ("public", "private", "encrypted", "presence", "batch", "questions", "cache", "users", "refused", "echo")
SETTINGS: dict[str, Any] = {"dialects": ["pusher"], "pusher_apps": [APP], "presence_linger": 0.3, "drain_window": 0}


@contextmanager
def javascript(nodes: list[Daemon], *checks: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Checks by the libraries for Node.js, whose clients take turns among the nodes."""
    node = shutil.which("node")
    missing = [name for name in PACKAGES if not (MODULES / name).is_dir()]
    if node is None or missing:
        pytest.skip(f"needs Node.js, and of npm: {' '.join(missing or PACKAGES)}")
    told = {"MODULES": str(MODULES), "PORTS": ",".join(str(each.port) for each in nodes), "CHECKS": ",".join(checks)}
    command = [node, str(Path(__file__).parent / "pusher.mjs")]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env={**os.environ, **told, **environment}, stdout=pipe, stderr=pipe, text=True
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def passes(nodes: list[Daemon], *checks: str, **environment: str) -> None:
    with javascript(nodes, *checks, **environment) as process:
        out, err = process.communicate(timeout=5 * PATIENCE)
    assert process.returncode == 0, err
    assert [json.loads(line) for line in out.splitlines()] == [{"passed": name} for name in checks]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("pusher") / "node", workers=2, **SETTINGS)


@pytest.fixture
def cluster(start: Callable[..., Daemon], redis_server: RedisServer) -> list[Daemon]:
    """Two nodes that share a store."""
    nodes: list[Daemon] = []
    for _ in range(2):
        peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in nodes]
        nodes.append(start(store=redis_server.url, peers=peers, **SETTINGS))
    wait_until_connected(nodes)
    return nodes


def test_javascript_against_a_node(node: Daemon) -> None:
    passes([node], *CHECKS)


def test_javascript_against_a_cluster(cluster: list[Daemon]) -> None:
    passes(cluster, *CHECKS)


def test_clients_go_to_another_node_when_theirs_stops(cluster: list[Daemon]) -> None:
    first, second = cluster
    # The port of the first is a way to whichever node is there, as that of a balancer is.
    with Client(first) as client:
        client.subscribe("room")
        first.hang_up()
        first.signal(signal.SIGTERM)
        assert client.expect("pusher:error")["data"]["code"] == 4200
        assert client.close_code() == 4200
    with Client(second) as client:
        client.subscribe("room")
        trigger(second, "room", "made", "1")
        assert client.next()["event"] == "made"


def test_pusher_js_goes_to_another_node_by_itself_when_its_own_stops(cluster: list[Daemon]) -> None:
    first, second = cluster
    with Balancer(reads=first.port, writes=second.port) as balancer:
        with javascript([], "returns", PORTS=str(balancer.port)) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line and json.loads(line) == {"subscribed": True}
            assert balancer.counts == {first.port: 1, second.port: 0}
            assert first.stop() == 0
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        # A close code of these hundreds tells pusher-js to come back at once; it is no error to its user.
        assert [json.loads(line) for line in out.splitlines()] == [{"codes": [4200]}, {"passed": "returns"}]
        assert balancer.counts[first.port] == 1 and balancer.counts[second.port] >= 2


def test_members_of_a_node_that_was_killed_leave_once(cluster: list[Daemon]) -> None:
    first, second = cluster
    with Client(first) as ann, Client(second) as bob, Client(second) as tab, Client(first) as other:
        ann.join("presence-room", "ann")
        assert bob.join("presence-room", "bob")["count"] == 2
        assert other.join("presence-room", "carl")["count"] == 3
        tab.join("presence-room", "ann")
        for client in (ann, bob, tab, other):
            client.ping()
        # Whichever node is left, a client is left out of the events that name it.
        trigger(first, "presence-room", "made", "1", socket_id=bob.socket_id)
        trigger(second, "presence-room", "made", "2", socket_id=ann.socket_id)
        assert bob.expect("made")["data"] == 2 and ann.expect("made")["data"] == 1
        first.signal_all(signal.SIGKILL)
        first.process.wait()
        assert bob.expect("pusher_internal:member_removed")["data"] == {"user_id": "carl"}
        wait_for(lambda: call(second, "GET", "channels/presence-room")[1].get("occupied"), "the node answers")
        users = {row["id"] for row in call(second, "GET", "channels/presence-room/users")[1]["users"]}
        assert users == {"ann", "bob"}, "ann has a connection to the other node"
        assert [frame for frame in bob.ping() if frame["event"].startswith("pusher_internal")] == []


def test_python_publishes_and_asks(node: Daemon) -> None:
    pusher = pytest.importorskip("pusher")
    server = pusher.Pusher(
        app_id=APP["id"], key=APP["key"], secret=APP["secret"], host=node.host, port=node.port, ssl=False
    )
    with Client(node) as client:
        client.subscribe("python")
        client.join("presence-python", "ann")
        assert server.trigger("python", "made", {"a": [1, "é"]}) == {}
        assert json.loads(client.next()["data"]) == {"a": [1, "é"]}
        server.trigger(["python", "other"], "made", "text", client.socket_id)
        server.trigger_batch([{"channel": "python", "name": "first", "data": "1"},
                              {"channel": "python", "name": "second", "data": {"b": 2}}])  # fmt: skip
        assert [client.next()["event"] for _ in range(2)] == ["first", "second"]
        assert server.channels_info("presence-p", ["user_count"]) == {
            "channels": {"presence-python": {"user_count": 1}}
        }
        assert server.channel_info("python", ["subscription_count"]) == {"occupied": True, "subscription_count": 1}
        assert server.users_info("presence-python") == {"users": [{"id": "ann"}]}
        signed = server.authenticate("private-python", client.socket_id)
        client.ask("private-python", auth=signed["auth"])
        assert client.expect("pusher_internal:subscription_succeeded", "private-python")


def test_python_subscribes(node: Daemon) -> None:
    pytest.importorskip("pysher")
    names = ["presence-pysher", "private-pysher", "pysher"]
    script = str(ROOT / "tests/clients/pysher_client.py")
    words = [sys.executable, script, node.host, str(node.port), APP["key"], APP["secret"], *names]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        lines = client.stdout
        # A client that hears nothing ends, and with it what is read here.
        late = threading.Timer(PATIENCE, client.kill)
        late.start()
        try:
            ready = sorted(json.loads(lines.readline()) for _ in names)
            assert ready == [[name, "ready"] for name in names]
            for name in names:
                trigger(node, name, "made", json.dumps({"to": name}))
            got = dict(json.loads(lines.readline()) for _ in names)
            assert got == {name: {"to": name} for name in names}
            assert call(node, "GET", "channels/presence-pysher/users")[1] == {"users": [{"id": "ann"}]}
        finally:
            late.cancel()
            late.join()
            client.kill()
