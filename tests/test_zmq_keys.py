"""Who may come in by the ZeroMQ doors, and do what: CURVE keys, what they permit, and how a reload changes it."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGHUP
from typing import Any

import pytest
import zmq

from raiden.node import config
from tests import daemons
from tests.daemons import Daemon, wait_for
from tests.zeromq import (
    BYTES,
    GREETING,
    OPEN,
    Clients,
    Monitor,
    Pair,
    Raw,
    ask,
    carried,
    command,
    in_force,
    page,
    payloads,
    refusal,
    silent,
    stopped,
    take,
    wait_for_metric,
)

DOORS = [("SUB", zmq.SUB), ("PUSH", zmq.PUSH), ("REQ", zmq.REQ), ("REQ", zmq.DEALER)]
READER, FEEDER, CHAT, STRANGER = (Pair.make() for _ in range(4))
SERVER = Pair.make()
KEYS: dict[str, dict[str, Any]] = {
    READER.name: {"name": "reader", "subscribe": ["*"], "history": ["news.*"]},
    FEEDER.name: {"name": "feeder", "publish": ["news.*", "chat"], "history": ["*"]},
    CHAT.name: {"name": "chat", "subscribe": ["chat", "news.*"], "publish": ["chat"]},
}
REFUSED, FAILED, CLOSED, IN = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_DISCONNECTED,
    zmq.EVENT_HANDSHAKE_SUCCEEDED,
)  # fmt: skip


class Guarded:
    """A node with keys, whose configuration can be changed."""

    def __init__(self, folder: Path, start: Callable[..., Daemon], keys: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "doors.key").write_bytes(SERVER.secret + b"\n")
        self._config = folder / "conf.py"
        self.configure(keys)
        self.node = start(config=self._config, zmq_key=str(folder / "doors.key"), zmq_heartbeat=0.1, **OPEN)

    def configure(self, keys: dict[str, Any]) -> None:
        self._config.write_text(f"zmq_keys = {keys!r}\n")

    def reload(self, keys: dict[str, Any]) -> None:
        reloads = self.node.log().count("raiden: reloaded")
        self.configure(keys)
        self.node.signal(SIGHUP)
        wait_for(lambda: self.node.log().count("raiden: reloaded") > reloads, "the reload is logged")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("guarded")
    found = Guarded(folder, lambda **settings: Daemon(folder / "node", **settings), KEYS).node
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """For tests that stop its processes or reload, after which it lets in at least those that it let in before."""
    folder = tmp_path_factory.mktemp("guarded")
    found = Guarded(folder, lambda **settings: Daemon(folder / "node", **settings), KEYS)
    yield found
    assert found.node.stop() == 0
    assert "Traceback" not in found.node.log(), found.node.log()


@pytest.fixture
def clients(node: Daemon) -> Iterator[Clients]:
    with Clients(node, server=SERVER.public) as found:
        yield found


# What a key permits.


def test_a_key_that_may_hear_all_hears_all(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub("", key=READER)
    node.publish(channel, "é" * 300)
    name, payload, cursor = sub.recv_multipart()
    assert (name.decode(), json.loads(payload)) == (channel, "é" * 300) and cursor


def test_a_topic_brings_what_of_it_is_allowed(node: Daemon, clients: Clients) -> None:
    everything, letters = clients.sub("", key=CHAT), clients.sub("chat", "new", key=CHAT)
    for name in ("chatter", "chat", "cha", "news", "newsletter", "news.de", "other", "chat"):
        node.publish(name, name)
    for sub in (everything, letters):
        assert [frames[0] for frames in take(sub, 3)] == [b"chat", b"news.de", b"chat"]
    assert silent(everything, letters)
    assert {"chat", "news.*"} <= carried(node).keys() and "*" not in carried(node)


def test_a_topic_of_which_nothing_is_allowed_brings_nothing_and_is_counted(
    node: Daemon, clients: Clients, channel: str
) -> None:
    before = node.metric("raiden_refused_subscriptions_total")
    sub = clients.sub(channel, "chatter", key=CHAT)
    none = clients.sub("", key=FEEDER)
    wait_for_metric(node, "refused_subscriptions_total", before + 3)
    for name in (channel, "chatter"):
        node.publish(name, 1)
    assert silent(sub, none)
    assert node.metric("raiden_refused_subscriptions_total") == before + 3


def test_a_pushed_message_that_is_not_allowed_is_dropped_and_counted(node: Daemon, clients: Clients) -> None:
    before = node.metric("raiden_bad_messages_total")
    sub, push = clients.sub("", key=READER), clients.push(key=FEEDER)
    for name in (b"news", b"chats", b"news.a", b"other", b"chat"):
        push.send_multipart([name, b"1"])
    assert [frames[0] for frames in take(sub, 2)] == [b"news.a", b"chat"]
    assert silent(sub)
    assert node.metric("raiden_bad_messages_total") == before + 3
    assert "feeder may not publish to" in node.log()


def test_a_request_that_is_not_allowed_is_answered_with_403(clients: Clients) -> None:
    feeder, reader, chat = (clients.req(key=key) for key in (FEEDER, READER, CHAT))
    assert ask(feeder, "publish", "news.b", "1")[0] == ask(chat, "publish", "chat", "1")[0] == b"200"
    assert page(ask(reader, "history", "news.b"))[1] and page(ask(feeder, "history", "anything"))[1] == []
    for req, *frames in (
        (feeder, "publish", "news", "1"), (feeder, "publish", "newsletter", "1"), (reader, "publish", "news.b", "1"),
        (chat, "publish", "chatter", "1"), (reader, "history", "chat"), (chat, "history", "chat"),
    ):  # fmt: skip
        status, detail = refusal(ask(req, *frames))
        assert status == 403 and "may not" in detail
    assert ask(reader, "ping") == [b"200", b""]


def test_the_list_of_channels_has_those_that_a_key_may_hear(node: Daemon, clients: Clients, channel: str) -> None:
    subs = [clients.sub("chat", channel, key=READER), clients.sub("", key=CHAT)]
    told = {
        key: json.loads(ask(clients.req(key=key), "channels")[1])["channels"].keys() for key in (READER, FEEDER, CHAT)
    }
    assert {"chat", "chat*", "news.*", channel + "*"} <= told[READER]
    assert told[FEEDER] == set()
    assert "chat" in told[CHAT] and channel + "*" not in told[CHAT] and "news.*" in told[CHAT]
    for sub in subs:
        sub.close()


def test_a_subscription_of_a_name_outlasts_its_channel(node: Daemon, clients: Clients) -> None:
    sub = clients.sub("chat", key=CHAT)
    for _ in range(3):
        assert node.request("DELETE", "/chat")[0] == 202

        def heard() -> bool:
            node.publish("chat", 1)
            return bool(sub.poll(100))

        wait_for(heard, "it hears the new channel of that name")
        while sub.poll(100):
            assert sub.recv_multipart()[:2] == [b"chat", b"1"]
    assert carried(node)["chat"] == 1


def test_a_subscription_of_a_name_is_in_force_only_when_the_history_is_there(guarded: Guarded) -> None:
    node = guarded.node
    with Clients(node, server=SERVER.public) as clients:
        sub = clients.sub("-/heartbeat", key=CHAT)
        with stopped(node.workers()["history"]):
            sub.subscribe("chat")
            sub.subscribe("-/in-force/1")
            assert {frames[0] for frames in take(sub, 5)} == {b"-/heartbeat"}
            sub.unsubscribe("-/heartbeat")
        while take(sub, 1)[0][0] != b"-/in-force/1":
            pass
        node.publish("chat", 1)
        assert payloads(sub, 1) == [b"1"]


@pytest.mark.parametrize("kind", [zmq.SUB, zmq.PUSH, zmq.DEALER])
def test_heartbeats_of_a_client_are_answered(node: Daemon, clients: Clients, kind: int) -> None:
    clock = clients.sub("-/heartbeat", key=READER)
    door = next(door for door, each in DOORS if each == kind)
    sock = clients.socket(door, kind, key=FEEDER, heartbeat_ivl=20, heartbeat_timeout=1000, reconnect_ivl=10_000)
    monitor = Monitor(sock)
    take(clock, 20)
    assert not monitor.saw(CLOSED, 0)


def test_a_slow_client_with_a_key_loses_messages_alone_and_sees_its_gap(node: Daemon, clients: Clients) -> None:
    before = node.metric("raiden_dropped_total")
    slow = clients.sub("news.slow", key=READER, rcvhwm=1, rcvbuf=4096)
    fast, push = clients.sub("news.slow", key=READER, rcvhwm=0), clients.push(key=FEEDER)
    total = 3000
    for n in range(total):
        push.send_multipart([b"news.slow", b"%d " % n + b"x" * 4000, BYTES])
    assert [int(payload.partition(b" ")[0]) for payload in payloads(fast, total)] == list(range(total))
    dropped = int(node.metric("raiden_dropped_total") - before)
    assert 0 < dropped < total
    offsets = [int(cursor.partition(b":")[2]) for _, _, cursor in take(slow, total - dropped)]
    assert offsets == sorted(set(offsets))
    push.send_multipart([b"news.slow", b"1"])
    assert int(take(slow, 1)[0][2].partition(b":")[2]) == total + 1, "it has read, and hears again"


def test_a_message_for_which_there_is_no_room_is_counted_once_however_little_is_missing(
    node: Daemon, clients: Clients, channel: str
) -> None:
    """Sealed it is longer, and its frames are no frames of a message any more."""
    name = f"news.{channel}"
    slow = clients.sub(name, key=READER, rcvhwm=1, rcvbuf=4096)
    fast = clients.sub(name, key=READER)
    dropped = node.metric("raiden_dropped_total")
    for size in (60_000, 2000, 1):  # the last fills what the others leave, to less than its own size
        while True:
            node.publish(name, "x" * size)
            assert len(payloads(fast, 1)[0]) == size + 2
            before, dropped = dropped, node.metric("raiden_dropped_total")
            if dropped > before:
                break
        assert dropped == before + 1
    slow.close()


# Who comes in.


def fails(clients: Clients, door: str, kind: int, event: int, **options: Any) -> None:
    """A socket of this kind does not get in; the event says how it sees that."""
    sock = clients.context.socket(kind)
    sock.linger = 0
    sock.reconnect_ivl = 20
    for name, value in options.items():
        setattr(sock, name, value)
    monitor = Monitor(sock)
    sock.connect(clients.node.doors()[door])
    assert monitor.saw(event), monitor.seen
    assert IN not in monitor.seen
    # Else libzmq would wait for a reader of the socket's last events, and do nothing else for all of the context.
    sock.disable_monitor()
    sock.close()


@pytest.mark.parametrize(("door", "kind"), DOORS)
def test_a_key_that_is_not_listed_gets_no_further_than_the_handshake(clients: Clients, door: str, kind: int) -> None:
    before = clients.node.metric("raiden_refused_handshakes_total")
    fails(
        clients, door, kind, REFUSED, curve_serverkey=SERVER.public, curve_publickey=STRANGER.public,
        curve_secretkey=STRANGER.secret,
    )  # fmt: skip
    wait_for_metric(clients.node, "refused_handshakes_total", before + 1)
    assert STRANGER.name in clients.node.log(), "so that it can be listed"


@pytest.mark.parametrize(("door", "kind"), DOORS)
def test_a_client_without_a_key_is_not_let_in(clients: Clients, door: str, kind: int) -> None:
    fails(clients, door, kind, CLOSED)


def test_a_client_with_a_password_is_not_let_in(clients: Clients) -> None:
    fails(clients, "REQ", zmq.REQ, CLOSED, plain_username=b"admin", plain_password=b"admin")


def test_a_client_that_expects_another_server_is_not_let_in(clients: Clients) -> None:
    fails(
        clients, "REQ", zmq.REQ, CLOSED, curve_serverkey=STRANGER.public, curve_publickey=READER.public,
        curve_secretkey=READER.secret,
    )  # fmt: skip


def test_a_client_that_has_not_the_secret_of_its_key_is_not_let_in(clients: Clients) -> None:
    fails(
        clients, "REQ", zmq.REQ, CLOSED, curve_serverkey=SERVER.public, curve_publickey=READER.public,
        curve_secretkey=STRANGER.secret,
    )  # fmt: skip


def test_a_socket_of_the_wrong_kind_is_not_let_in(clients: Clients) -> None:
    keys = {"curve_serverkey": SERVER.public, "curve_publickey": READER.public, "curve_secretkey": READER.secret}
    for door, kind in (("SUB", zmq.PUSH), ("PUSH", zmq.SUB), ("REQ", zmq.SUB)):
        fails(clients, door, kind, CLOSED, **keys)


def test_a_door_without_keys_is_not_for_clients_with_keys(start: Callable[..., Daemon]) -> None:
    node = start(**OPEN)
    with Clients(node, server=SERVER.public) as clients:
        fails(
            clients, "REQ", zmq.REQ, CLOSED, curve_serverkey=SERVER.public, curve_publickey=READER.public,
            curve_secretkey=READER.secret,
        )  # fmt: skip
        fails(clients, "SUB", zmq.SUB, CLOSED, plain_username=b"a", plain_password=b"b")
        assert ask(clients.req(), "ping") == [b"200", b""]


def test_garbage_ends_no_more_than_its_connection(clients: Clients) -> None:
    greeting = GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:]
    req, seeds = clients.req(key=READER), 100
    for seed in range(seeds):
        rng = random.Random(seed)
        hello = b"\1\0" + bytes(72) + rng.randbytes(32 + 8 + 80)
        data = greeting + command(b"HELLO", hello) + command(b"INITIATE", rng.randbytes(300))
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randint(0, 9)) + data[at:]
        with Raw(clients.node.doors()["REQ"]) as raw:
            raw.send(data)
            raw.half_close()
            assert raw.closed()
    assert ask(req, "ping") == [b"200", b""]


def test_others_are_served_while_strangers_knock(clients: Clients) -> None:
    sub, push = clients.sub("news.", key=READER), clients.push(key=FEEDER)
    strangers = [clients.socket("REQ", zmq.REQ, key=STRANGER) for _ in range(50)]
    for n in range(500):
        push.send_multipart([b"news.c", b"%d" % n])
    assert payloads(sub, 500) == [b"%d" % n for n in range(500)]
    for sock in strangers:
        sock.close()


# A reload.


def test_a_reload_closes_whose_keys_went_and_lets_others_be(start: Callable[..., Daemon], tmp_path: Path) -> None:
    guarded = Guarded(tmp_path / "conf", start, KEYS)
    node = guarded.node
    with Clients(node, server=SERVER.public) as clients:
        reader, chat = clients.sub("", key=READER), clients.sub("", key=CHAT)
        push, req = clients.push(key=FEEDER), clients.req(key=CHAT)
        assert ask(req, "ping") == [b"200", b""]
        push.send_multipart([b"news.a", b"1"])
        assert payloads(reader, 1) == payloads(chat, 1) == [b"1"]
        seen = {
            name: Monitor(sock) for name, sock in (("reader", reader), ("chat", chat), ("push", push), ("req", req))
        }
        guarded.reload({key: options for key, options in KEYS.items() if key != CHAT.name})
        assert seen["chat"].saw(CLOSED) and seen["req"].saw(CLOSED)
        assert seen["chat"].saw(REFUSED) and seen["req"].saw(REFUSED), "they come back, and are not let in"
        push.send_multipart([b"news.a", b"2"])
        assert payloads(reader, 1) == [b"2"]
        assert not chat.poll(0)
        assert not seen["reader"].saw(CLOSED, 0) and not seen["push"].saw(CLOSED, 0), "others don't notice"
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


def test_a_reload_changes_what_a_key_permits(start: Callable[..., Daemon], tmp_path: Path) -> None:
    guarded = Guarded(tmp_path / "conf", start, KEYS)
    node = guarded.node
    with Clients(node, server=SERVER.public) as clients:
        sub, push = clients.sub("", key=CHAT), clients.push(key=FEEDER)
        sub.subscribe("-/in-force/again")
        assert take(sub, 1) == [[b"-/in-force/again", b"", b""]]
        seen = {name: Monitor(sock) for name, sock in (("sub", sub), ("push", push))}
        guarded.reload({**KEYS, CHAT.name: {"name": "chat", "subscribe": ["news.b"]}})
        assert seen["sub"].saw(CLOSED) and seen["sub"].saw(IN), "it comes back by itself"
        while take(sub, 1)[0][0] != b"-/in-force/again":
            pass
        for name in (b"news.a", b"chat", b"news.b"):
            push.send_multipart([name, b"1"])
        assert [frames[0] for frames in take(sub, 1)] == [b"news.b"]
        assert silent(sub)
        assert refusal(ask(clients.req(key=CHAT), "publish", "chat", "1"))[0] == 403
        assert not seen["push"].saw(CLOSED, 0)
        assert "chat" not in carried(node)
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


def comes_in(clients: Clients, key: Pair) -> bool:
    """Whether a client with the key is answered. One that came before the doors knew it was refused, and tries no more:
    the supervisor logs a reload when it has told its processes."""
    with clients.req(key=key) as req:
        req.rcvtimeo = 1000
        try:
            return ask(req, "ping") == [b"200", b""]
        except zmq.Again:
            return False


def test_a_reload_lets_new_keys_in(start: Callable[..., Daemon], tmp_path: Path) -> None:
    guarded = Guarded(tmp_path / "conf", start, {})
    with Clients(guarded.node, server=SERVER.public) as clients:
        keys = {"curve_serverkey": SERVER.public, "curve_publickey": READER.public, "curve_secretkey": READER.secret}
        fails(clients, "REQ", zmq.REQ, REFUSED, **keys)
        guarded.reload(KEYS)
        wait_for(lambda: comes_in(clients, READER), "the doors know the new key")


def test_a_reload_of_the_same_closes_nobody(guarded: Guarded) -> None:
    with Clients(guarded.node, server=SERVER.public) as clients:
        sub, req = clients.sub("", key=READER), clients.req(key=FEEDER)
        assert ask(req, "ping") == [b"200", b""]
        seen = [Monitor(sub), Monitor(req)]
        same = {key: dict(reversed(options.items())) for key, options in reversed(KEYS.items())}
        guarded.reload({**same, STRANGER.name: {"name": "new"}})
        wait_for(lambda: comes_in(clients, STRANGER), "the doors know the new key")
        assert ask(req, "publish", "news.a", "1")[0] == b"200" and payloads(sub, 1) == [b"1"]
        assert not any(monitor.saw(CLOSED, 0) for monitor in seen)


def test_a_reload_with_bad_keys_changes_nothing(guarded: Guarded) -> None:
    with Clients(guarded.node, server=SERVER.public) as clients:
        sub = clients.sub("", key=READER)
        guarded.configure({"nothing": {"name": "a"}})
        guarded.node.signal(SIGHUP)
        wait_for(lambda: "not reloaded: zmq_keys" in guarded.node.log(), "it is refused")
        guarded.node.publish("a", 1)
        assert payloads(sub, 1) == [b"1"]
        assert in_force(sub) == []


# Settings and commands.


def run(folder: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    words = daemons.command(*arguments, data_dir=folder, **{"http_port": 0, "backend_port": 0, **settings})
    return daemons.run(words)


GOOD = {"name": "a", "publish": ["*"]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zmq_host": "0.0.0.0", "zmq_sub_port": 0}, "zmq_host = '0.0.0.0' without keys"),
        ({"zmq_host": "::", "zmq_req_port": 0}, "zmq_host = '::' without keys"),
        ({"zmq_host": "example.org", "zmq_push_port": 0}, "zmq_host = 'example.org' without keys"),
        ({"zmq_sub_port": 65536}, "zmq_sub_port must be from 0 to 65535"),
        ({"zmq_sub_port": -1}, "zmq_sub_port must be from 0 to 65535"),
        ({"zmq_sub_port": "x"}, "zmq_sub_port must be int or None"),
        ({"zmq_max_topics": 0}, "zmq_max_topics must be at least 1"),
        ({"zmq_heartbeat": -1}, "zmq_heartbeat must be at least 0"),
        ({"zmq_keys": {READER.name: GOOD}}, "zmq_keys without zmq_key"),
        ({"zmq_key": "x", "zmq_keys": {"short": GOOD}}, "'short' is no key"),
        ({"zmq_key": "x", "zmq_keys": {READER.name[:-1] + " ": GOOD}}, "is no key"),
        ({"zmq_key": "x", "zmq_keys": {1: GOOD}}, "1 is no key"),
        ({"zmq_key": "x", "zmq_keys": {READER.name: {"publish": ["*"]}}}, "must be a dict with a name"),
        ({"zmq_key": "x", "zmq_keys": {READER.name: {"name": "a", "pubish": ["*"]}}}, "unknown option 'pubish'"),
        ({"zmq_key": "x", "zmq_keys": {READER.name: {"name": "a", "publish": "*"}}}, "publish of"),
        ({"zmq_key": "x", "zmq_keys": [READER.name]}, "zmq_keys must be dict"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(config.ConfigError) as error:
        config.load(overrides=[f"{name} = {value!r}" for name, value in settings.items()], environ={})
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_bad_setting_is_told_in_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "check", zmq_host="0.0.0.0", zmq_sub_port=0)
    assert result.returncode == 1 and "zmq_host = '0.0.0.0' without keys" in result.stderr, result
    assert len(result.stderr.splitlines()) == 1 and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "content",
    [None, b"", b"nonsense\n", SERVER.secret[:-1], SERVER.secret * 2, b"\xff" * 40],
    ids=["none", "empty", "nonsense", "short", "twice", "not ASCII"],
)
def test_a_zmq_key_that_is_none_ends_the_node_with_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "doors.key"
    if content is not None:
        path.write_bytes(content)
    result = run(tmp_path, zmq_key=str(path), zmq_req_port=0)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raiden: ")]
    assert "zmq_key" in line and str(path) in line and "keygen" in line


def test_keygen_makes_a_key_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    result = run(tmp_path, "keygen", str(path))
    assert result.returncode == 0, result
    public = result.stdout.strip().encode()
    assert zmq.curve_public(path.read_bytes().strip()) == public
    assert path.stat().st_mode & 0o777 == 0o600
    again = run(tmp_path, "keygen", str(path))
    assert again.returncode == 1 and "there already" in again.stderr and len(again.stderr.splitlines()) == 1


def test_what_keygen_made_lets_in(start: Callable[..., Daemon], tmp_path: Path) -> None:
    doors, client = tmp_path / "doors.key", tmp_path / "client.key"
    public = [run(tmp_path, "keygen", str(path)).stdout.strip() for path in (doors, client)]
    node = start(zmq_key=str(doors), zmq_keys={public[1]: GOOD}, zmq_host="0.0.0.0", zmq_req_port=0)
    key = Pair(public[1].encode(), client.read_bytes().strip())
    with Clients(node, server=public[0].encode()) as clients:
        assert ask(clients.req(key=key), "publish", "a", "1")[0] == b"200"


def test_a_doors_port_that_is_in_use_is_one_line(start: Callable[..., Daemon], tmp_path: Path) -> None:
    port = int(start(zmq_req_port=0).doors()["REQ"].rpartition(":")[2])
    result = run(tmp_path, zmq_req_port=port)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result
    assert f"port {port}" in result.stderr and "zmq_req_port" in result.stderr
    assert not os.listdir(tmp_path) or "Traceback" not in result.stderr
