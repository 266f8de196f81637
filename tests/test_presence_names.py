"""Subscriptions that count as another subject than their client: an application of the node names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import multiplex
from tests.daemons import Daemon, Stream, running, wait_for

# Names the subscriptions of each channel that a message to "names" lists, in their order: null forgets a name.
CONFIG = '''
import json

import gevent

from raiden.model.encoding import line
from raiden.presence.here import Subject
from raiden.runtime.service import Service


class Namer(Service):
    """The sink and the owner of a subscription to the channel "names"."""

    lasts, own_id = True, b""

    def __init__(self, worker):
        super().__init__()
        self.router, self.presence, self.pending = worker.router, worker.gateway.presence, []

    def do_start(self):
        mine = self.router.subscribe("names", self, self, line(False, False))
        self.spawn(lambda: (self.router.in_force(["names"]), self.router.attach(mine)))

    def connections(self):
        return ()

    def missed(self, *_):
        pass

    def flush(self):
        taken, self.pending = self.pending, []
        for order in b"".join(taken).splitlines():
            for channel, names in json.loads(order).items():
                topic = self.router.table.find(channel)
                for subscription, name in zip(topic.subscriptions() if topic else [], names):
                    if name is None:
                        self.presence.forget(subscription)
                    else:
                        self.presence.name(subscription, Subject(*name))


service = Namer
'''


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("names")
    config = Path(folder / "raiden.conf.py")
    config.write_text(CONFIG)
    yield from running(folder / "node", config=config, store="none", presence_linger=0.1)


def who(node: Daemon, channel: str) -> Any:
    told = node.json(f"/-/channels/{channel}/presence")
    return [(each["sub"], each["info"], each["connections"]) for each in told["members"]], told["anonymous"]


def test_a_subscription_counts_as_the_subject_that_it_is_named(node: Daemon) -> None:
    with Stream(node, "/room"), Stream(node, "/room"), Stream(node, "/room"), multiplex.Client(node) as watcher:
        assert who(node, "room") == ([], 3)
        assert watcher.ask(cmd="subscribe", channel="room", presence=True)["presence"]["members"] == []
        node.publish("names", {"room": [["ann", {"color": "red"}], ["ann", None], ["bob", None]]})
        heard = [watcher.push()["join"] for _ in range(2)]
        assert sorted(each["sub"] for each in heard) == ["ann", "bob"]
        wait_for(lambda: who(node, "room")[1] == 1, "the watcher alone has no name")
        assert [(sub, count) for sub, _, count in who(node, "room")[0]] == [("ann", 2), ("bob", 1)]
        node.publish("names", {"room": [["bob", None], ["ann", None], None]})
        wait_for(lambda: who(node, "room") == ([("ann", None, 1), ("bob", None, 1)], 2), "one is forgotten")
        node.publish("names", {"room": [["", None], ["ann", None], None]})
        assert watcher.push()["leave"]["sub"] == "bob"
        wait_for(lambda: who(node, "room") == ([("ann", None, 1)], 3), "another is nobody")


def test_a_name_counts_by_a_pattern_too_and_the_channel_s_own_comes_first(node: Daemon) -> None:
    with multiplex.Client(node) as client:
        client.ask(cmd="subscribe", channel="hall")
        client.ask(cmd="subscribe", channel="ha*")
        node.publish("names", {"ha*": [["pattern", None]]})
        wait_for(lambda: who(node, "hall") == ([("pattern", None, 1)], 0), "the pattern's name counts")
        node.publish("names", {"hall": [["channel", None]]})
        wait_for(lambda: who(node, "hall") == ([("channel", None, 1)], 0), "the channel's own counts")
        assert who(node, "hat")[0] == [("pattern", None, 1)]
    wait_for(lambda: who(node, "hall") == ([], 0), "nobody is there")
