"""Centrifuge's own clients, unchanged, against one node and a cluster; and what a cluster does besides.

The suites of centrifuge-python and centrifuge-go, which `tests/setup.sh` brings, want a server at port 8000: they run
on a host of their own, where that port is free.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.network import Host, Network, requires_network
from tests.cluster.nodes import PORT, Node
from tests.daemons import ROOT, Daemon, wait_for
from tests.dialects.balancer import Balancer
from tests.dialects.centrifuge_client import Client, token
from tests.dialects.test_centrifuge_api import KEY, Stream, call
from tests.multiplex import has_a_peer, two_nodes
from tests.stores import RedisServer
from tests.tokens import JWT_KEYS

MODULES = ROOT / "build/node/node_modules"
PYTHON_SUITE, GO_SUITE = ROOT / "build/suites/centrifuge_python-0.7.0", ROOT / "build/suites/centrifuge-go"
SETTINGS: dict[str, Any] = {
    "dialects": ["centrifuge"], "centrifuge_anonymous": True, "centrifuge_api_key": KEY,
    "channels": {"*": {action: "anyone" for action in ("subscribe", "publish", "history", "presence", "manage")}},
}  # fmt: skip
on_demand = pytest.mark.skipif(not os.environ.get("TESTS_SUITE"), reason="TESTS_SUITE=1 runs the suites on two nodes")
no_npm = pytest.mark.skipif(
    shutil.which("node") is None or not all((MODULES / name).is_dir() for name in ("centrifuge", "ws", "eventsource")),
    reason="node and the npm packages centrifuge, ws and eventsource are needed (tests/setup.sh)",
)


def run_npm(node: Daemon, other: Daemon) -> None:
    hosts = [f"{each.host}:{each.port}" for each in (node, other)]
    words = ["node", str(ROOT / "tests/clients/centrifuge.cjs"), str(MODULES), *hosts, KEY]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 5, done.stdout


@no_npm
def test_npm(tmp_path: Path) -> None:
    node = Daemon(tmp_path, workers=2, **SETTINGS)
    run_npm(node, node)
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


@pytest.fixture
def nodes(tmp_path: Path, redis_server: RedisServer) -> Iterator[list[Daemon]]:
    with two_nodes(tmp_path, redis_server.url, jwt_keys=JWT_KEYS, **SETTINGS) as nodes:
        yield nodes


@no_npm
def test_npm_on_two_nodes(nodes: list[Daemon]) -> None:
    run_npm(*nodes)
    run_npm(nodes[1], nodes[0])


def test_a_cluster(nodes: list[Daemon]) -> None:
    one, two = nodes
    with ExitStack() as stack:
        watcher, other = stack.enter_context(Client(one)), stack.enter_context(Client(two))
        watcher.connected(token=token())
        watcher.subscribed("room", join_leave=True)
        watcher.push()  # its own join
        name = other.connected(token=token("bob"))["client"]
        epoch = other.subscribed("room")["epoch"]
        assert watcher.push()["join"]["info"] == {"user": "bob", "client": name}
        assert watcher.ask(presence_stats={"channel": "room"})["presence_stats"] == {"num_clients": 2, "num_users": 2}
        assert other.ask(publish={"channel": "room", "data": 1})["publish"] == {}
        for each in (watcher, other):
            assert each.push()["pub"]["info"]["client"] == name
        # A stream of one node takes commands by the other.
        stream = Stream(one)
        stack.callback(stream.close)
        assert stream.send({"id": 2, "history": {"channel": "room", "limit": 9}}, node=two) == 204
        assert stream.next()["history"]["epoch"] == epoch
        # A client comes back by the other node.
        back = stack.enter_context(Client(one))
        back.connected(token=token("bob"))
        result = back.subscribed("room", recover=True, epoch=epoch)
        assert result["recovered"] and [each["data"] for each in result["publications"]] == [1]
        assert watcher.push()["join"]["info"]["user"] == "bob"
        # What the API does at one node holds at the other.
        call(one, "subscribe", user="bob", channel="news", client=name)
        assert other.push()["channel"] == "news"
        call(one, "unsubscribe", user="bob", channel="room", client=name)
        assert other.push()["unsubscribe"]["code"] == 2000
        assert watcher.push()["leave"]["info"]["client"] == name


def test_a_node_is_killed(nodes: list[Daemon]) -> None:
    one, two = nodes
    with Client(one) as watcher, Client(two) as other:
        watcher.connected(token=token())
        watcher.subscribed("room", join_leave=True)
        watcher.push()
        name = other.connected(token=token("bob"))["client"]
        other.subscribed("room")
        assert watcher.push()["join"]["info"]["client"] == name
        two.signal_all(signal.SIGKILL)
        two.process.wait()
        assert watcher.push() == {"channel": "room", "leave": {"info": {"user": "bob", "client": name}}}
        assert not watcher.pushes
        assert watcher.ask(publish={"channel": "room", "data": 1})["publish"] == {}


# Suites of others, at port 8000.


SUITE_SETTINGS: dict[str, Any] = {
    "dialects": ["centrifuge"], "workers": 1,
    "channels": {"*": {}, "smallhistory:*": {"history_size": 2}, "test:test": {"subscribe": "nobody"}},
}  # fmt: skip
PYTHON_SETTINGS: dict[str, Any] = {
    **SUITE_SETTINGS, "jwt_keys": [{"alg": "HS256", "key": "secret", "weak": True}], "jwt_leeway": 0,
    "centrifuge_join_leave": True, "centrifuge_personal": True,
    "centrifuge_subscribers": ["publish", "history", "presence"],
}  # fmt: skip
GO_SETTINGS: dict[str, Any] = {**SUITE_SETTINGS, "centrifuge_anonymous": True, "centrifuge_presence": False}
# Three tests of the Python suite do not wait for the reply to a subscription before another client comes, and one of
# them then disconnects the subscriber. Without the reply it has no position to recover from, and the test waits without
# end for what was published meanwhile. Here they wait, which is all that is changed.
UNTIL_SUBSCRIBED = ("await sub1.subscribe()\n", "await sub1.subscribe()\n        await sub1.ready()\n")
BEFORE_ANOTHER = "        await client2.connect()\n"


@pytest.fixture(params=["one node", pytest.param("two nodes", marks=on_demand)])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Begins to serve port 8000 of a host, by a node, or by two that share a store, to each of which every second
    connection goes; returns the host."""
    with ExitStack() as stack:
        host = stack.enter_context(Network(1)).hosts[0]

        def stopped(node: Node) -> None:
            assert node.stop() == 0
            assert "Traceback" not in node.log(), node.log()

        def balanced(counts: dict[int, int]) -> None:
            assert min(counts.values()) > 30

        def served(**settings: Any) -> Host:
            if request.param == "one node":
                stack.callback(stopped, Node(1, host, tmp_path / "node", http_port=8000, store="sqlite", **settings))
                return host
            settings["store"] = request.getfixturevalue("redis_server").url
            one = Node(1, host, tmp_path / "one", **settings)
            stack.callback(stopped, one)
            two = Node(2, host, tmp_path / "two", backend_port=PORT + 1, peers=[one.address], **settings)
            stack.callback(stopped, two)
            wait_for(lambda: has_a_peer(one) and has_a_peer(two), "the nodes are connected")
            ports = {"reads": one.port, "writes": two.port, "port": 8000}
            balancer = stack.enter_context(Balancer(**ports, in_turn=True, inside=host.inside()))
            stack.callback(lambda: balanced(balancer.counts))
            return host

        yield served


@requires_network
@pytest.mark.skipif(not PYTHON_SUITE.is_dir(), reason="the suite of centrifuge-python is not here (tests/setup.sh)")
def test_centrifuge_python(tmp_path: Path, serve: Callable[..., Host]) -> None:
    pytest.importorskip("centrifuge")
    suite = tmp_path / "suite"
    shutil.copytree(PYTHON_SUITE, suite)
    file = suite / "tests/test_client.py"
    hasty, patient = (each + BEFORE_ANOTHER for each in UNTIL_SUBSCRIBED)
    assert file.read_text().count(hasty) == 3
    file.write_text(file.read_text().replace(hasty, patient))
    words = serve(**PYTHON_SETTINGS).command([sys.executable, "-m", "unittest", "tests.test_client"])
    done = subprocess.run(words, cwd=suite, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Ran 62 tests" in done.stderr, done.stderr[-5000:]


@requires_network
@pytest.mark.skipif(not GO_SUITE.is_dir(), reason="Go, or the suite of centrifuge-go, is not here (tests/setup.sh)")
def test_centrifuge_go(tmp_path: Path, serve: Callable[..., Host]) -> None:
    # The host has no way to where Go gets what the suite needs.
    made = subprocess.run(
        ["go", "test", "-c", "-o", tmp_path / "suite", "."], cwd=GO_SUITE, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr[-5000:]
    words = serve(**GO_SETTINGS).command([str(tmp_path / "suite"), "-test.v"])
    done = subprocess.run(words, cwd=GO_SUITE, capture_output=True, text=True, timeout=300)
    failed = max(0, done.stdout.find("--- FAIL: ") - 2000)
    assert done.returncode == 0 and done.stdout.count("\n--- PASS: ") > 40, done.stdout[failed:][:5000]
