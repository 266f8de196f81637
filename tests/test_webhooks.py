"""Webhooks of one node: events, their order, receivers that fail, and what is not disturbed by them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from raiden.hooks.endpoint import Endpoint
from raiden.node.config import ConfigError, load
from tests.daemons import ROOT, Daemon, Stream, post, wait_for
from tests.receiver import SECRET, Receiver, verify
from tests.scripted import OK, Scripted, certificate, says, server_context

ALL = ["channel.occupied", "channel.vacated", "client.connected", "client.disconnected", "message.published"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def webhook(receiver: Receiver, *events: str, **more: Any) -> dict[str, Any]:
    return {"url": receiver.url, "secret": SECRET, "events": list(events), "channels": ["a.*"], **more}


def test_each_event(start: Callable[..., Daemon], receiver: Receiver) -> None:
    node = start(webhooks=[webhook(receiver, *ALL)], webhook_settle=0.5)
    with Stream(node, "/a.x", {"Accept": "text/event-stream"}), Stream(node, "/b.x"):
        receiver.wait_for(1, "channel.occupied")
        cursor = post(node, "a.x", {"n": 1})
        node.publish("b.x", 2)
        assert receiver.wait_for(1, "message") == [{"channel": "a.x", "data": {"n": 1}}] and cursor
        connected = receiver.wait_for(2, "client.connected")
    assert sorted(each["transport"] for each in connected) == ["event", "stream"]
    assert all(each["address"] == "127.0.0.1" and each["sub"] is None for each in connected)
    by_id = {each["id"]: each for each in connected}
    assert {each["id"]: each for each in receiver.wait_for(2, "client.disconnected")} == by_id
    assert receiver.wait_for(1, "channel.vacated") == [{"channel": "a.x"}]
    assert receiver.events("channel.occupied") == [{"channel": "a.x"}]
    verify(receiver.got())
    types = [each.type for each in receiver.got() if each.data.get("channel") == "a.x"]
    assert types == ["channel.occupied", "message.published", "channel.vacated"]
    assert wait_for(lambda: node.metric("raiden_webhook_sent_total") == 7, "it is counted")
    assert node.metric("raiden_webhook_failed_total") == 0 == node.metric("raiden_webhook_waiting")


def test_a_client_has_one_id_for_a_delegate_and_for_webhooks(start: Callable[..., Daemon], receiver: Receiver) -> None:
    answer = b'{"allow":true}'
    allows = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
    with Scripted(allows) as delegate:
        node = start(webhooks=[webhook(receiver, "client.connected")], delegate={"url": delegate.url})
        with Stream(node, "/a.x") as stream:
            assert stream.status == 200
            (connected,) = receiver.wait_for(1)
        assert {json.loads(body)["client"]["id"] for _, body in delegate.requests} == {connected["id"]}


# The storm has the same course with any number of them.
EVENTS = int(os.environ.get("TESTS_EVENTS", "1000"))
CHANNELS, BATCH = 10, 20


def test_a_receiver_and_a_node_that_are_killed_amid_many_events(tmp_path: Path, receiver: Receiver) -> None:
    settings: dict[str, Any] = {"webhooks": [webhook(receiver, "message.published")], "workers": 2}
    node = Daemon(tmp_path, **settings)
    settings["http_port"] = node.port
    try:
        published = 0
        for number in range(EVENTS // BATCH):
            if number == EVENTS // BATCH // 4:
                receiver.kill()
            if number == EVENTS // BATCH // 2:
                receiver.start()
                seen = len(receiver.requests)
                wait_for(partial(has_more, receiver, seen), "it gets events again")
                node.signal_all(signal.SIGKILL)
                node.process.wait()
                node.hang_up()
                node = Daemon(tmp_path, **settings)
            values = [{"n": published + at} for at in range(BATCH)]
            post(node, f"a.{number % CHANNELS}", *values, key=f"batch {number}")
            published += BATCH
            if number % 5 == 0:
                node.publish("a.plain", {"n": published})  # by another way
        receiver.wait_for(published)
        last = wait_for(lambda: len(receiver.got()) and not node.metric("raiden_webhook_waiting"), "all are sent")
        assert last and node.metric("raiden_webhook_lost_total") == 0
    finally:
        assert node.stop() == 0
    _, first = in_order(receiver)
    assert sorted(n for name, numbers in first.items() if name != "a.plain" for n in numbers) == list(range(published))
    verify(receiver.got())


def has_more(receiver: Receiver, seen: int) -> bool:
    return len(receiver.requests) > seen


def in_order(receiver: Receiver) -> tuple[int, dict[str, list[int]]]:
    """The number of events that came again; and the numbers of the others by their channel, which must ascend."""
    got = receiver.got()
    first: dict[str, list[int]] = {}
    for data in receiver.events():
        first.setdefault(data["channel"], []).append(data["data"]["n"])
    for numbers in first.values():
        assert numbers == sorted(set(numbers))
    return len(got) - len({each.id for each in got}), first


def test_an_event_that_fails_holds_up_only_those_of_its_channel(
    start: Callable[..., Daemon], receiver: Receiver
) -> None:
    broken = threading.Event()
    broken.set()

    def act(sock: socket.socket, number: int) -> bool:
        bad = broken.is_set() and b'"a.bad"' in receiver.requests[number][1]
        sock.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n" if bad else OK)
        return True

    receiver.act = act
    node = start(webhooks=[webhook(receiver, "message.published")])
    for n in range(50):
        post(node, "a.bad", {"n": n})
        post(node, "a.good", {"n": n})
    wait_for(lambda: sum(data["channel"] == "a.good" for data in receiver.events()) == 50, "the others pass")
    assert {data["data"]["n"] for data in receiver.events() if data["channel"] == "a.bad"} == {0}
    wait_for(lambda: node.metric("raiden_webhook_retried_total") >= 1, "it is tried again")
    broken.clear()
    receiver.wait_for(100)
    assert in_order(receiver)[1] == {"a.bad": list(range(50)), "a.good": list(range(50))}
    stamps = [int(each.headers["webhook-timestamp"]) for each in receiver.got() if each.data["channel"] == "a.bad"][:3]
    assert stamps[0] < stamps[-1], "each attempt has its own time"
    verify(receiver.got())


def test_an_event_is_given_up_and_managers_can_read_it(start: Callable[..., Daemon], receiver: Receiver) -> None:
    receiver.act = says(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
    key = b"reads-dead-letters-0123456789"
    api_keys = [
        {"name": "boss", "sha256": hashlib.sha256(key).hexdigest(), "publish": ["*"], "manage": ["*"]},
        {"name": "app", "sha256": hashlib.sha256(key + b"x").hexdigest(), "publish": ["*"], "subscribe": ["*"]},
    ]  # fmt: skip
    node = start(webhooks=[webhook(receiver, "message.published", name="shop")], webhook_attempts=2, api_keys=api_keys)
    boss = {"Authorization": f"Bearer {key.decode()}"}
    node.request("POST", "/a.x", json.dumps({"n": 1}), {**boss, "Content-Type": "application/json"})

    def letters() -> list[Any]:
        status, _, body = node.request("GET", "/-/webhooks/dead?_limit=5", headers=boss)
        assert status == 200, body
        found: list[Any] = json.loads(body)["messages"]
        return found

    (letter,) = wait_for(letters, "it is given up", every=0.1)
    told = letter["data"]
    assert (told["webhook"], told["attempts"], told["reason"]) == ("shop", 2, "it answers 400")
    assert told["event"]["data"] == {"channel": "a.x", "data": {"n": 1}} and told["id"] == receiver.got()[0].id
    assert len(receiver.got()) == 2
    other = {"Authorization": f"Bearer {key.decode()}x"}
    assert node.request("GET", "/-/webhooks/dead", headers=other)[0] == 403
    assert node.request("GET", "/-/webhooks/dead")[0] == 401
    for path in (
        "/-%2Fwebhooks%2Fdead",
        "/-/channels/-%2Fwebhooks%2Fdead/history",
        "/-/subscribe?channel=-/webhooks/dead",
    ):
        assert node.request("GET", path, headers=boss)[0] in (400, 404), path
    assert SECRET not in node.log()


def test_an_endpoint_that_is_gone_is_sent_nothing_more_until_the_setting_changes(
    start: Callable[..., Daemon], receiver: Receiver, tmp_path: Path
) -> None:
    receiver.act = says(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
    config = tmp_path / "raiden.conf.py"
    config.write_text(f"webhooks = [{webhook(receiver, 'message.published')!r}]")
    node = start(config=config)
    post(node, "a.x", {"n": 1})
    wait_for(lambda: "is gone (410)" in node.log(), "it is noted")
    post(node, "a.y", {"n": 2})
    wait_for(lambda: node.metric("raiden_webhook_waiting") == 2, "the other waits")
    assert len(receiver.requests) == 1
    receiver.act = says(OK)
    config.write_text(f"webhooks = [{webhook(receiver, 'message.published', timeout=9)!r}]")
    node.signal(signal.SIGHUP)
    assert len(receiver.wait_for(2)) == 2


def hangs(receiver: Receiver) -> Callable[[socket.socket, int], bool]:
    def act(sock: socket.socket, _: int) -> bool:
        sock.settimeout(30)
        return sock.recv(1) == b"never"

    return act


def resets(sock: socket.socket, _: int) -> bool:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def floods(sock: socket.socket, _: int) -> bool:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n")
    for _ in range(160):
        sock.sendall(b"x" * 65536)
    return False


def test_receivers_that_fail_disturb_nobody(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Each fails in its own way; a good one beside them gets its events, and so do subscribers, while a burst of
    messages is published. Then the others get theirs."""
    good, elsewhere = Receiver(), Receiver()
    moved = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + elsewhere.url.encode() + b"\r\n\r\n"
    bad = {"hangs": Receiver(), "floods": Receiver(floods), "resets": Receiver(resets), "moves": Receiver(says(moved))}
    bad["hangs"].act = hangs(bad["hangs"])
    secured = Scripted(says(OK), server_context(certificate(tmp_path)))
    webhooks = [webhook(each, "message.published", name=name, timeout=1) for name, each in bad.items()]
    webhooks += [webhook(good, "message.published", name="good")]
    webhooks += [{**webhook(good, "message.published", name="secured"), "url": secured.url}]
    node = start(webhooks=webhooks)
    with Stream(node, "/a.x") as subscriber:
        for n in range(20):
            node.publish("a.x", {"n": n})
            assert subscriber.value() == {"n": n}
        assert [data["data"]["n"] for data in good.wait_for(20)] == list(range(20))
        for name in [*bad, "secured"]:
            wait_for(partial(node.metric, "raiden_webhook_failed_total", webhook=name), f"{name} fails")
        node.publish("a.x", {"n": 20})
        assert subscriber.value() == {"n": 20}
    assert not elsewhere.requests and not secured.requests
    for text in (
        "certificate is refused",
        "no answer within 1 s",
        "body has more than",
        "without an answer",
        "answers 302",
    ):
        assert text in node.log()
    for each in bad.values():
        each.act = says(OK)
    for each in bad.values():
        each.wait_for(21)
        assert in_order(each)[1] == {"a.x": list(range(21))}
    verify(bad["hangs"].got())
    node.stop()
    for each in (good, elsewhere, *bad.values()):
        each.close()
    secured.close()


def test_secrets_are_changed_without_a_gap(start: Callable[..., Daemon], receiver: Receiver, tmp_path: Path) -> None:
    new = "whsec_" + base64.b64encode(b"n" * 24).decode()
    config = tmp_path / "raiden.conf.py"
    config.write_text(f"webhooks = [{webhook(receiver, 'message.published')!r}]")
    node = start(config=config)
    post(node, "a.x", {"n": 1})
    receiver.wait_for(1)
    config.write_text(f"webhooks = [{webhook(receiver, 'message.published', secret=[new, SECRET])!r}]")
    node.signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in node.log(), "it has reloaded")
    post(node, "a.x", {"n": 2})
    receiver.wait_for(2)
    one, two = receiver.got()
    assert len(one.headers["webhook-signature"].split()) == 1 and len(two.headers["webhook-signature"].split()) == 2
    for secret in (SECRET, new):
        Webhook(secret).verify(two.body, two.headers)
    verify([one, two])


def test_webhooks_that_come_and_go_by_a_reload(
    start: Callable[..., Daemon], receiver: Receiver, tmp_path: Path
) -> None:
    config = tmp_path / "raiden.conf.py"
    config.write_text("webhooks = []")
    node = start(config=config)
    with Stream(node, "/a.x"):
        post(node, "a.x", {"n": 0})
        config.write_text(f"webhooks = [{webhook(receiver, *ALL)!r}]")
        node.signal(signal.SIGHUP)
        assert receiver.wait_for(1, "channel.occupied") == [{"channel": "a.x"}], "it was occupied before"
        post(node, "a.x", {"n": 1})
        assert receiver.wait_for(1, "message") == [{"channel": "a.x", "data": {"n": 1}}]
    config.write_text("webhooks = []")
    node.signal(signal.SIGHUP)
    wait_for(lambda: node.log().count("reloaded") == 2, "it has reloaded")
    post(node, "a.x", {"n": 2})
    assert len(receiver.events("message")) == 1


def test_events_of_what_is_not_stored(start: Callable[..., Daemon], receiver: Receiver) -> None:
    """The node has a store for webhooks alone; a channel's deletion is no message."""
    node = start(webhooks=[webhook(receiver, "message.published")], channels={"*": {"history_size": 0}})
    bodies = ((b"text", "text/plain"), (b"\xff", "application/octet-stream"), (b"[1]", "application/json"))
    for body, content_type in bodies:
        assert node.request("POST", "/a.x", body, {"Content-Type": content_type})[0] == 202
    node.request("DELETE", "/a.x")
    node.publish("b.x", 1)
    node.publish("a.y", 2)
    told = receiver.wait_for(4)
    assert [each["data"] for each in told if each["channel"] == "a.x"] == ["text", {"base64": "/w=="}, [1]]
    assert {"channel": "a.y", "data": 2} in told


def test_the_same_key_is_one_event(start: Callable[..., Daemon], receiver: Receiver) -> None:
    node = start(webhooks=[webhook(receiver, "message.published")])
    for channel in ("a.x", "a.y", "a.x", "a.y"):
        post(node, channel, {"n": 1}, key="same")
    post(node, "a.z", {"n": 2})
    receiver.wait_for(3)
    assert sorted(each["channel"] for each in receiver.events()) == ["a.x", "a.y", "a.z"]


def test_a_queue_that_is_full_loses_the_oldest_and_says_so(start: Callable[..., Daemon], receiver: Receiver) -> None:
    receiver.kill()
    node = start(webhooks=[webhook(receiver, "message.published")], webhook_queue=10)
    post(node, "a.x", *[{"n": n} for n in range(100)])
    receiver.start()
    assert [each["data"]["n"] for each in receiver.wait_for(10)] == list(range(90, 100))
    assert wait_for(lambda: node.metric("raiden_webhook_lost_total"), "they are counted") == 90
    assert "webhook_queue" in node.log()


REFUSED: list[tuple[Any, str]] = [
    ({"secret": "whsec_AAAA"}, "random"), ({"secret": "secret"}, "whsec_"), ({"secret": None}, "secret"),
    ({"secret": []}, "secret"), ({"secret": [SECRET] * 5}, "secret"), ({"url": "http://a.example/"}, "https"),
    ({"url": "https://u:p@a.example"}, "password"), ({"url": None}, "url"), ({"events": []}, "events"),
    ({"events": None}, "events"), ({"events": "channel.occupied"}, "events"), ({"urls": 1}, "did you mean url"),
    ({"events": ["channel.ocupied"]}, "channel.occupied"), ({"events": ["member.joined"]}, "not there yet"),
    ({"events": ["member.left"]}, "not there yet"), ({"channels": ["-/own"]}, "channels"),
    ({"channels": "a"}, "channels"), ({"channels": None}, "channels"), ({"timeout": 0}, "timeout"),
    ({"timeout": True}, "timeout"), ({"name": ""}, "name"), ({"name": "a/b"}, "name"), ({"insecure": 1}, "insecure"),
    (7, "dict"),
]  # fmt: skip
GOOD: dict[str, Any] = {
    "url": "https://a.example", "secret": SECRET, "events": ["message.published"], "channels": ["a"],
}  # fmt: skip


@pytest.mark.parametrize(("changed", "text"), REFUSED)
def test_settings_that_are_refused(changed: Any, text: str) -> None:
    entry = {**GOOD, **changed} if isinstance(changed, dict) else changed
    with pytest.raises(ConfigError, match=text) as found:
        load(overrides=[f"webhooks = {[entry]!r}"], environ={})
    assert SECRET not in str(found.value)


def test_settings_that_contradict_each_other() -> None:
    load(overrides=[f"webhooks = {[GOOD]!r}"], environ={})
    for overrides, text in (
        ([f"webhooks = {[GOOD]!r}", "store = none"], "need a store"),
        ([f"webhooks = {[GOOD, GOOD]!r}"], "called 'a.example', too"),
        ([f"webhooks = {[{**GOOD, 'name': str(n)} for n in range(33)]!r}"], "more than 32"),
        ([f"webhooks = {[GOOD]!r}", "peers = ['127.0.0.1:1']"], "redis"),
        ([f"webhooks = {[{name: GOOD[name] for name in ('url', 'secret', 'events')}]!r}"], "set channels"),
    ):
        with pytest.raises(ConfigError, match=text):
            load(overrides=overrides, environ={})


@pytest.mark.parametrize("size", [24, 64])
def test_signatures(size: int) -> None:
    secret = "whsec_" + base64.b64encode(os.urandom(size)).decode()
    endpoint = Endpoint.of({**GOOD, "secret": secret})
    body = b'{"type":"a"}'
    Webhook(secret).verify(body, endpoint.signed("msg_1", int(time.time()), body))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, endpoint.signed("msg_1", int(time.time()), body))


def test_the_receiver_of_the_documents(start: Callable[..., Daemon], tmp_path: Path) -> None:
    found = re.search(r"<!-- receiver -->\n```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
    assert found is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "SECRET": SECRET, "PORT": str(port)}
    out = tmp_path / "out"
    with open(out, "wb") as file:
        process = subprocess.Popen([sys.executable, "-c", found[1]], env=environment, stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}/"
        endpoint = {"url": url, "secret": SECRET, "events": ["message.published"], "channels": ["a.x"]}
        node = start(webhooks=[endpoint])
        post(node, "a.x", {"n": 1})
        wait_for(
            lambda: 'message.published {"channel": "a.x", "data": {"n": 1}}' in out.read_text(), "it has the event"
        )
        forged = urllib.request.Request(url, b"{}", {"webhook-id": "msg_1", "webhook-timestamp": str(int(time.time()))})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(forged, timeout=20)
    finally:
        process.kill()
        process.wait()


def test_the_example_of_the_settings() -> None:
    text = (ROOT / "docs/webhooks.md").read_text()
    example = text[text.index("webhooks = [") : text.index("```\n\n| option")]
    settings: dict[str, Any] = {}
    exec(example, settings)
    load(overrides=[f"webhooks = {settings['webhooks']!r}"], environ={})


def test_nodes_without_webhooks_do_not_load_them() -> None:
    script = "import raiden.node.worker, sys; print([name for name in sys.modules if name.startswith('raiden.hooks')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout
    assert not any(name in loaded for name in ("webhooks", "sender", "client", "counter")), loaded
