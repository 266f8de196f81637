"""The ZeroMQ doors of a node and libzmq's sockets: what SUB hears, what PUSH feeds, what REQ is answered."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from websockets.sync.client import connect

from raiden.model.payload import WRAPPING
from raiden.zeromq.flow import WINDOW
from tests.daemons import Daemon, Stream, memory, running, wait_for
from tests.zeromq import (
    BYTES,
    OPEN,
    TEXT,
    Clients,
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

CHANNELS = {"*": {"history_size": 10_000}, "short.*": {"history_size": 5}, "none.*": {"history_size": 0}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(
        tmp_path_factory.mktemp("node"), workers=2, channels=CHANNELS, zmq_heartbeat=0.1, drain_window=0, **OPEN
    )


@pytest.fixture
def clients(node: Daemon) -> Iterator[Clients]:
    with Clients(node) as found:
        yield found


def offsets(messages: list[list[bytes]]) -> list[int]:
    return [int(cursor.partition(b":")[2]) for _, _, cursor in messages]


# SUB.


def test_the_banner_names_the_doors(node: Daemon) -> None:
    assert set(node.doors()) == {"SUB", "PUSH", "REQ"}


def test_a_topic_is_a_prefix_of_channels(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub(channel)
    for name in (channel, channel + ".de", channel + "letter", "other." + channel, channel[:-1]):
        node.publish(name, name)
    assert [frames[0].decode() for frames in take(sub, 3)] == [channel, channel + ".de", channel + "letter"]
    assert silent(sub)


def test_the_empty_topic_brings_all_channels(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub("")
    req = clients.req()
    for name in (channel, "none." + channel, "é" + channel):
        ask(req, "publish", name, "1")
    assert [frames[0].decode() for frames in take(sub, 3)] == [channel, "none." + channel, "é" + channel]


def test_a_message_comes_once_however_many_topics_match(node: Daemon, clients: Clients, channel: str) -> None:
    for topics in ([channel, channel + ".a", ""], ["", channel + ".a", channel], [channel + ".a", channel, ""]):
        sub = clients.sub(*topics)
        node.publish(channel + ".a", topics)
        assert json.loads(payloads(sub, 1)[0]) == topics
        assert silent(sub)
        sub.close()


def test_one_of_two_overlapping_topics_can_be_cancelled(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub(channel, channel + ".a")
    sub.unsubscribe(channel)
    in_force(sub)
    node.publish(channel + ".b", 1)
    node.publish(channel + ".a", 2)
    assert payloads(sub, 1) == [b"2"]
    assert silent(sub)


def test_what_another_topic_stands_for_is_not_interrupted_by_a_cancel(
    node: Daemon, clients: Clients, channel: str
) -> None:
    """A wider topic comes and goes all the time, while messages flow by the narrow one."""
    for name in (channel, "none." + channel):
        sub = clients.sub(name)
        ended = threading.Event()

        def publish(name: str = name, ended: threading.Event = ended) -> None:
            with Clients(node) as others:
                push = others.push()
                for n in range(1000):
                    push.send_multipart([name.encode(), b"%d" % n])
                ended.wait(20)

        thread = threading.Thread(target=publish)
        thread.start()
        came: list[bytes] = []
        while len(came) < 1000:
            sub.subscribe(name[:-1])
            came += payloads(sub, min(20, 1000 - len(came)))
            sub.unsubscribe(name[:-1])
        ended.set()
        thread.join()
        assert came == [b"%d" % n for n in range(1000)]
        assert silent(sub)


def test_a_cancelled_topic_brings_nothing(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub(channel)
    sub.unsubscribe(channel)
    in_force(sub)
    node.publish(channel, 1)
    assert silent(sub)
    assert channel + "*" not in carried(node)


def test_the_same_topic_twice_is_cancelled_twice(node: Daemon, clients: Clients, channel: str) -> None:
    """libzmq counts, and says only the first and the last to the door."""
    sub = clients.sub(channel, channel)
    sub.unsubscribe(channel)
    in_force(sub)
    node.publish(channel, 1)
    assert payloads(sub, 1) == [b"1"]
    sub.unsubscribe(channel)
    wait_for(lambda: channel + "*" not in carried(node), "it is cancelled")


def test_a_message_has_three_frames(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub(channel)
    status, _, body = node.post_json(f"/{channel}", {"a": [1, "é"]})
    assert status == 200
    name, payload, cursor = sub.recv_multipart()
    assert name.decode() == channel and json.loads(payload) == {"a": [1, "é"]}
    assert cursor.decode() == json.loads(body)["cursor"].rpartition(":")[0], "epoch and offset"


def test_a_channel_without_history_has_no_cursors(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub("none." + channel)
    node.publish("none." + channel, 1)
    assert sub.recv_multipart() == [f"none.{channel}".encode(), b"1", b""]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65536, ((1 << 20) - WRAPPING) // 4 * 3])
def test_a_payload_of_any_size_comes_as_it_was(clients: Clients, channel: str, size: int) -> None:
    sub, req = clients.sub(channel), clients.req()
    data = os.urandom(size)
    assert ask(req, "publish", channel, data, BYTES)[0] == b"200"
    assert payloads(sub, 1) == [data]


def test_payloads_come_as_they_were_published_by_whatever_door(node: Daemon, clients: Clients, channel: str) -> None:
    sub, push, req = clients.sub(channel), clients.push(), clients.req()
    text, binary = "schön".encode(), b"\0\xff\1"
    path = f"/{channel}"
    node.post_json(path, {"n": 1})
    node.request("POST", path, text, {"Content-Type": "text/plain"})
    node.request("POST", path, binary, {"Content-Type": "application/octet-stream"})
    assert payloads(sub, 3) == [b'{"n": 1}', text, binary]
    with connect(f"ws://127.0.0.1:{node.port}/{channel}") as ws:
        ws.send('{"n": 2}')
        assert json.loads(payloads(sub, 1)[0]) == {"n": 2}
        ws.send(binary)
        assert payloads(sub, 1) == [binary]
    for type_, payload in ((b"", b'{"n":3}'), (TEXT, text), (BYTES, binary)):
        assert ask(req, "publish", channel, payload, type_)[0] == b"200"
        assert payloads(sub, 1) == [payload]
        push.send_multipart([channel.encode(), payload, type_])
        assert payloads(sub, 1) == [payload]
    push.send_multipart([channel.encode(), b'{"n":4}'])
    assert payloads(sub, 1) == [b'{"n":4}']


def test_many_subscribers_are_one_subscription_of_the_backbone(node: Daemon, clients: Clients, channel: str) -> None:
    before = node.metric("raiden_channels")
    subs = [clients.sub(channel) for _ in range(20)]
    assert carried(node)[channel + "*"] == 20
    wait_for(lambda: node.metric("raiden_channels") == before + 1, "one more is carried")
    node.publish(channel, 1)
    assert [payloads(sub, 1) for sub in subs] == [[b"1"]] * 20
    for sub in subs:
        sub.close()
    wait_for(lambda: channel + "*" not in carried(node), "all are gone")
    wait_for(lambda: node.metric("raiden_channels") == before, "nothing is left")


@pytest.mark.parametrize("minor", [0, 1])
def test_subscriptions_of_zmtp_3_0_and_3_1(node: Daemon, channel: str, minor: int) -> None:
    name = channel.encode()
    with Raw(node.doors()["SUB"], b"SUB", minor=minor) as sub:
        if minor:
            subscribe, cancel = command(b"SUBSCRIBE", name), command(b"CANCEL", name)
            asked, again = command(b"SUBSCRIBE", b"-/in-force/1"), command(b"SUBSCRIBE", b"-/in-force/2")
        else:
            subscribe, cancel = (bytes((0, len(name) + 1, on)) + name for on in (1, 0))
            asked, again = (b"\0\x0d\1-/in-force/" + number for number in (b"1", b"2"))
        sub.send(subscribe + asked)
        assert sub.message() == [b"-/in-force/1", b"", b""]
        node.publish(channel, 1)
        assert sub.message()[:2] == [name, b"1"]
        sub.send(cancel + again)
        assert sub.message() == [b"-/in-force/2", b"", b""]
        node.publish(channel, 2)
        sub.send(command(b"PING", b"\0\0me"))
        assert sub.frame() == (4, b"\4PONGme")


def test_an_xsub_subscribes_too(node: Daemon, clients: Clients, channel: str) -> None:
    xsub = clients.socket("SUB", zmq.XSUB)
    xsub.send(b"\1" + channel.encode())
    xsub.send(b"\1-/in-force/x")
    assert xsub.recv_multipart() == [b"-/in-force/x", b"", b""]
    node.publish(channel, 1)
    assert payloads(xsub, 1) == [b"1"]


def test_what_else_an_xsub_sends_is_counted_and_changes_nothing(node: Daemon, clients: Clients, channel: str) -> None:
    before = node.metric("raiden_bad_messages_total")
    xsub = clients.socket("SUB", zmq.XSUB)
    xsub.send(b"\1" + channel.encode())
    xsub.send(b"what?")
    xsub.send_multipart([b"\1a", b"b"])
    xsub.send(b"\1-/in-force/x")
    assert xsub.recv_multipart()[0] == b"-/in-force/x"
    wait_for_metric(node, "bad_messages_total", before + 2)
    node.publish(channel, 1)
    assert payloads(xsub, 1) == [b"1"]


def test_in_force_is_told_when_all_that_was_subscribed_to_before_holds(
    node: Daemon, clients: Clients, channel: str
) -> None:
    for turn in range(20):
        sub = clients.socket("SUB", zmq.SUB)
        for n in range(100):
            sub.subscribe(f"{channel}.{turn}.{n}.")
        in_force(sub)
        for n in (0, 50, 99):
            node.publish(f"{channel}.{turn}.{n}.x", n)
        assert payloads(sub, 3) == [b"0", b"50", b"99"]
        sub.close()


def test_in_force_is_told_to_who_asked(node: Daemon, clients: Clients) -> None:
    sub = clients.socket("SUB", zmq.SUB)
    sub.subscribe("-/in-force/")
    assert sub.recv_multipart() == [b"-/in-force/", b"", b""]
    sub.subscribe("-/in-force/é")
    assert sub.recv_multipart() == ["-/in-force/é".encode(), b"", b""]


def test_heartbeats_come_to_those_who_subscribe_to_them(node: Daemon, clients: Clients) -> None:
    sub, everything = clients.sub("-/heartbeat"), clients.sub("")
    beats = take(sub, 3)
    assert all(frames[0] == b"-/heartbeat" and frames[2] == b"" for frames in beats)
    times = [float(frames[1]) for frames in beats]
    assert times == sorted(set(times)) and times[2] - times[0] < 10
    assert all(frames[0] != b"-/heartbeat" for frames in in_force(everything))
    sub.unsubscribe("-/heartbeat")
    in_force(sub)
    assert silent(sub)


def test_a_channel_that_is_deleted_does_not_end_a_subscription(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub(channel)
    node.publish(channel, 1)
    (first,) = take(sub, 1)
    assert node.request("DELETE", f"/{channel}")[0] == 202
    node.publish(channel, 2)
    (second,) = take(sub, 1)
    assert second[1] == b"2" and second[2].partition(b":")[0] != first[2].partition(b":")[0], "another epoch"


def test_messages_of_a_channel_come_in_order_whoever_publishes(node: Daemon, clients: Clients, channel: str) -> None:
    sub = clients.sub(channel)
    pushes = [clients.push() for _ in range(3)]
    for n in range(500):
        for number, push in enumerate(pushes):
            push.send_multipart([channel.encode(), b"[%d, %d]" % (number, n)])
    came = take(sub, 1500)
    first = offsets(came)[0]
    assert offsets(came) == list(range(first, first + 1500))
    for number in range(3):
        mine = [n for which, n in (json.loads(frames[1]) for frames in came) if which == number]
        assert mine == list(range(500))


# PUSH.


def test_the_messages_of_a_pusher_keep_their_order(clients: Clients, channel: str) -> None:
    for name in (channel, "none." + channel):
        sub, push = clients.sub(name), clients.push()
        for n in range(2500):  # more than libzmq's high-water mark
            push.send_multipart([name.encode(), b"%d" % n] + [[], [BYTES], [TEXT]][n % 3])
        assert payloads(sub, 2500) == [b"%d" % n for n in range(2500)]


def test_what_can_not_be_published_is_dropped_and_counted_and_the_next_one_passes(
    node: Daemon, clients: Clients, channel: str
) -> None:
    name = channel.encode()
    bad = [
        [name], [name, b"1", b"", b"{}", b""], [name, b"1", b"", b"{"], [name, b"{"], [name, b""], [name, b"\xff"],
        [name, b"NaN"], [b"", b"1"],
        [name + b"*", b"1"], [b"-/x", b"1"], [b"\xff", b"1"], [b"a\nb", b"1"], [b"x" * 256, b"1"],
        [name, b"\xff", TEXT], [name, b"1\n2", b"application/x-ndjson"], [name, b"x", b"text/plain; charset=nope"],
        [name, b"[" * 100_000], [b""], [name, b"", b""],
    ]  # fmt: skip
    before = node.metric("raiden_bad_messages_total")
    sub, push = clients.sub(channel), clients.push()
    for n, frames in enumerate(bad):
        push.send_multipart(frames)
        push.send_multipart([name, b"%d" % n])
    assert payloads(sub, len(bad)) == [b"%d" % n for n in range(len(bad))]
    assert silent(sub)
    assert node.metric("raiden_bad_messages_total") == before + len(bad)
    assert "dropped what a ZeroMQ client pushed" in node.log()


def test_an_empty_name_is_no_channel_even_if_nothing_came_before(node: Daemon, clients: Clients) -> None:
    before = node.metric("raiden_bad_messages_total")
    push = clients.push()
    push.send_multipart([b"", b"1"])
    wait_for_metric(node, "bad_messages_total", before + 1)


def push_all(push: zmq.Socket[bytes], channel: str, begin: int, end: int, size: int = 2000) -> int:
    """Push numbered messages until there is no room; the number of the one that had none."""
    for n in range(begin, end):
        try:
            push.send_multipart([channel.encode(), b"%d" % n + b" " * size, BYTES], zmq.DONTWAIT)
        except zmq.Again:
            return n
    return end


def fill(push: zmq.Socket[bytes], channel: str, node: Daemon, at_most: int = 200_000) -> int:
    """Push until the door reads no more: nothing can be sent for half a second. How many were sent."""
    sent = 0
    while sent < at_most:
        sent = push_all(push, channel, sent, at_most)
        if sent < at_most and not push.poll(500, zmq.POLLOUT):
            return sent
    raise AssertionError("it takes whatever comes")


def test_a_pusher_is_slowed_down_while_the_history_is_away(start: Callable[..., Daemon]) -> None:
    node = start(channels={"*": {"history_size": 1_000_000}}, **OPEN)
    with Clients(node) as clients:
        sub = clients.sub("a", rcvhwm=0)
        push = clients.push(sndhwm=10, sndbuf=65536)
        doors = node.workers()["zeromq"]
        push_all(push, "warm", 0, 1000)
        before = memory(doors)
        with stopped(node.workers()["history"]):
            sent = fill(push, "a", node)
            assert memory(doors) - before < 16 << 20, "what is under way is a read or two, and the kernel's"
        assert [int(payload) for payload in payloads(sub, sent)] == list(range(sent))
        assert silent(sub)
        push.send_multipart([b"a", b"1"])
        assert payloads(sub, 1) == [b"1"]


def test_a_pusher_is_slowed_down_while_the_backbone_is_away(start: Callable[..., Daemon]) -> None:
    node = start(store="none", backbone_high_water=1000, **OPEN)
    with Clients(node) as clients:
        sub = clients.sub("a", rcvhwm=0)
        push = clients.push(sndhwm=10, sndbuf=65536)
        doors = node.workers()["zeromq"]
        before = memory(doors)
        with stopped(node.workers()["backbone"]):
            sent = fill(push, "a", node)
            assert memory(doors) - before < 32 << 20, "a thousand messages of 2 KB, and what libzmq has"
        assert [int(payload) for payload in payloads(sub, sent)] == list(range(sent))
        push.send_multipart([b"a", b"1"])
        assert payloads(sub, 1) == [b"1"]


def test_a_worker_that_falls_behind_slows_pushers_down_and_loses_nothing(start: Callable[..., Daemon]) -> None:
    node = start(store="none", workers=2, max_outbox=1 << 28, **OPEN)
    with Clients(node) as clients, Stream(node, "/a") as stream:
        worker = next(
            pid for name, pid in node.workers().items() if name.startswith("worker") and has(pid, node, stream)
        )
        push = clients.push(sndhwm=10, sndbuf=65536)
        sent, size, began, passed = 0, 4000, time.monotonic(), 0.0
        with stopped(worker):
            # A pause of the door can't be seen from here: the kernel takes a little more every 0.2 s (TCP's probes of
            # a full window), so what is seen is how much came through in that time.
            while passed < 3:
                if push.poll(100, zmq.POLLOUT):
                    push.send_multipart([b"a", b'[%d, "%b"]' % (sent, b"x" * size)])
                    sent += 1
                passed = time.monotonic() - began
        kernel = int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])
        assert sent * size < WINDOW * (2 + passed) + kernel, "a window, another each second, and what the kernel has"
        assert [stream.value()[0] for _ in range(sent)] == list(range(sent))


def has(pid: int, node: Daemon, stream: Stream) -> bool:
    """The process has the other end of a stream's connection."""
    ours = stream.response.fp.raw._sock.getsockname()[1]  # type: ignore[attr-defined]
    for line in open("/proc/net/tcp"):
        fields = line.split()
        if fields[0] != "sl" and int(fields[1][9:], 16) == node.port and int(fields[2][9:], 16) == ours:
            links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
            return f"socket:[{fields[9]}]" in [os.readlink(link) for link in links if os.path.islink(link)]
    return False


# REQ.


def test_a_publish_is_answered_with_its_cursor(node: Daemon, clients: Clients, channel: str) -> None:
    sub, req = clients.sub(channel), clients.req()
    status, cursor = ask(req, "publish", channel, '{"a": 1}')
    assert status == b"200"
    assert take(sub, 1) == [[channel.encode(), b'{"a": 1}', cursor]]
    assert ask(req, "publish", "none." + channel, "1", TEXT) == [b"202", b""]


def test_the_same_key_publishes_once(clients: Clients, channel: str) -> None:
    sub, req = clients.sub(channel), clients.req()
    first = ask(req, "publish", channel, "1", "", "key")
    assert ask(req, "publish", channel, "1", "", "key") == first
    assert ask(req, "publish", channel, "1", "", "another") != first
    assert len(take(sub, 2)) == 2 and silent(sub)


def test_a_key_is_remembered_when_the_doors_are_replaced(start: Callable[..., Daemon]) -> None:
    node = start(**OPEN)
    with Clients(node) as clients:
        req = clients.req()
        first = ask(req, "publish", "a", "1", "", "key")
        kill_doors(node)
        assert ask(req, "publish", "a", "1", "", "key") == first
        assert len(page(ask(req, "history", "a"))[1]) == 1
    assert node.stop() == 0


def test_the_history_comes_in_pages(clients: Clients, channel: str) -> None:
    req = clients.req()
    published = [ask(req, "publish", channel, f"{n}")[1].decode() for n in range(7)]
    summary, messages = page(ask(req, "history", channel))
    assert summary == {"cursor": published[-1], "more": False}
    assert messages == [(cursor, b"%d" % n) for n, cursor in enumerate(published)]
    summary, messages = page(ask(req, "history", channel, "", "3"))
    assert summary == {"cursor": published[-1], "more": True} and [p for _, p in messages] == [b"0", b"1", b"2"]
    summary, messages = page(ask(req, "history", channel, published[2], "3"))
    assert summary["more"] and [p for _, p in messages] == [b"3", b"4", b"5"]
    summary, messages = page(ask(req, "history", channel, published[5]))
    assert not summary["more"] and [p for _, p in messages] == [b"6"]
    assert page(ask(req, "history", channel, published[6])) == ({"cursor": published[6], "more": False}, [])


def test_the_history_of_a_channel_that_nobody_published_to_is_empty(clients: Clients, channel: str) -> None:
    assert page(ask(clients.req(), "history", channel)) == ({"cursor": None, "more": False}, [])


def test_a_page_has_a_hundred_messages_and_at_most_a_thousand(clients: Clients, channel: str) -> None:
    dealer, req = clients.dealer(sndhwm=0, rcvhwm=0), clients.req()
    for n in range(1001):
        dealer.send_multipart([b"", b"publish", channel.encode(), b"%d" % n])
    for _ in range(1001):
        assert dealer.recv_multipart()[1] == b"200"
    assert len(page(ask(req, "history", channel))[1]) == 100
    assert len(page(ask(req, "history", channel, "", "1000"))[1]) == 1000
    for limit in ("1001", "0", "-1", "x", "1.5", "१", "\xff"):
        assert (
            refusal(ask(req, "history", channel, "", limit.encode("latin-1") if limit == "\xff" else limit))[0] == 400
        )


def test_the_history_tells_that_messages_are_gone(node: Daemon, clients: Clients, channel: str) -> None:
    name, req = "short." + channel, clients.req()
    published = [ask(req, "publish", name, f"{n}")[1].decode() for n in range(10)]
    summary, messages = page(ask(req, "history", name, published[0]))
    assert [payload for _, payload in messages] == [b"5", b"6", b"7", b"8", b"9"]
    assert summary["gap"]
    assert "gap" not in page(ask(req, "history", name, published[4]))[0]
    assert node.request("DELETE", f"/{name}")[0] == 202
    ask(req, "publish", name, '"new"')
    summary, messages = page(ask(req, "history", name, published[9]))
    assert summary["gap"] and [payload for _, payload in messages] == [b'"new"'], "the epoch is another"


def test_ping_and_channels(node: Daemon, clients: Clients, channel: str) -> None:
    sub, req = clients.sub(channel), clients.req()
    assert ask(req, "ping") == [b"200", b""]
    status, body = ask(req, "channels")
    assert status == b"200" and json.loads(body)["channels"][channel + "*"]["subscribers"] == 1
    found = {channel + "*": {"subscribers": 1, "messages": 0}}
    assert json.loads(ask(req, "channels", channel)[1]) == {"channels": found}
    assert json.loads(ask(req, "channels", channel, channel + "*")[1]) == {"channels": {}}
    sub.close()


def test_a_dealer_has_many_requests_under_way(clients: Clients, channel: str) -> None:
    sub, dealer = clients.sub(channel, rcvhwm=0), clients.dealer(sndhwm=0, rcvhwm=0)
    name = channel.encode()
    for n in range(1000):
        kind = n % 3
        body = [b"publish", name, b"%d" % n] if kind == 0 else [b"history", name, b"", b"1"] if kind == 1 else [b"ping"]
        dealer.send_multipart([b"%d" % n, b"more", b"", *body])
    answers = {}
    for _ in range(1000):
        number, more, delimiter, status, *rest = dealer.recv_multipart()
        assert (more, delimiter, status) == (b"more", b"", b"200")
        answers[int(number)] = rest
    assert set(answers) == set(range(1000))
    came = take(sub, 334)
    assert [int(payload) for _, payload, _ in came] == list(range(0, 1000, 3)), "in the order of the requests"
    assert {int(payload): cursor for _, payload, cursor in came} == {n: answers[n][0] for n in range(0, 1000, 3)}


def test_requests_of_raw_clients_end_when_they_do(node: Daemon, clients: Clients, channel: str) -> None:
    """Who is gone before its answers came is no trouble."""
    for _ in range(20):
        with Raw(node.doors()["REQ"], b"DEALER") as raw:
            for n in range(50):
                raw.send(b"\1\0\1\7publish" + bytes((1, len(channel))) + channel.encode() + b"\0\1%d" % (n % 10))
    assert ask(clients.req(), "ping") == [b"200", b""]


@pytest.mark.parametrize(
    ("status", "frames"),
    [
        (400, [b""]),
        (400, [b"nothing"]),
        (400, [b"PING"]),
        (400, [b"\xff"]),
        (400, [b"ping", b""]),
        (400, [b"channels", b"", b"", b""]),
        (400, [b"channels", b"\xff"]),
        (400, [b"publish"]),
        (400, [b"publish", b"a"]),
        (400, [b"publish", b"a", b"1", b"", b"k", b"", b""]),
        (400, [b"publish", b"a", b"1", b"", b"k", b"[]"]),
        (400, [b"publish", b"", b"1"]),
        (400, [b"publish", b"a*", b"1"]),
        (400, [b"publish", b"-/a", b"1"]),
        (400, [b"publish", b"a\0", b"1"]),
        (400, [b"publish", "a\x85".encode(), b"1"]),
        (400, [b"publish", b"\xff", b"1"]),
        (400, [b"publish", b"\xed\xa0\x80", b"1"]),
        (400, [b"publish", b"a" * 256, b"1"]),
        (400, [b"publish", b"a", b""]),
        (400, [b"publish", b"a", b"{"]),
        (400, [b"publish", b"a", b"01"]),
        (400, [b"publish", b"a", b'"\xff"']),
        (400, [b"publish", b"a", b"[" * 100_000]),
        (400, [b"publish", b"a", b"\xff", TEXT]),
        (400, [b"publish", b"a", b"1\n2", b"application/x-ndjson"]),
        (400, [b"publish", b"a", b"1", b"", b"\xff"]),
        (400, [b"publish", b"a", b"1", b"", b"k" * 5000]),
        (400, [b"publish", b"none.a", b"1", b"", b"k"]),
        (400, [b"history"]),
        (400, [b"history", b"a", b"", b"", b""]),
        (400, [b"history", b""]),
        (400, [b"history", b"a*"]),
        (400, [b"history", b"\xff"]),
        (400, [b"history", b"a", b"x"]),
        (400, [b"history", b"a", b"\xff"]),
        (400, [b"history", b"a", b"x:y"]),
        (400, [b"history", b"a", b"x:1,y:1"]),
        (400, [b"history", b"a", b"x:" + b"9" * 5000]),
        (400, [b"history", b"a", b"", b"9" * 5000]),
        (404, [b"history", b"none.a"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_answered(node: Daemon, status: int, frames: list[bytes]) -> None:
    with Clients(node) as clients:
        req = clients.req()
        assert refusal(ask(req, *frames))[0] == status
        assert ask(req, "ping") == [b"200", b""], "the connection goes on"


def test_a_request_without_an_empty_frame_is_answered(clients: Clients) -> None:
    dealer = clients.dealer()
    for frames in ([b"ping"], [b"publish", b"a", b"1"]):
        dealer.send_multipart(frames)
        status, detail = refusal(dealer.recv_multipart())
        assert status == 400 and "empty frame" in detail
    dealer.send_multipart([b""])
    assert refusal(dealer.recv_multipart()[1:])[0] == 400
    dealer.send_multipart([b"", b"ping"])
    assert dealer.recv_multipart() == [b"", b"200", b""]


def test_a_request_is_refused_while_the_history_is_away(start: Callable[..., Daemon]) -> None:
    node = start(channels=CHANNELS, **OPEN)
    with Clients(node) as clients:
        dealer = clients.dealer()
        history = node.workers()["history"]
        with stopped(history):
            dealer.send_multipart([b"1", b"", b"publish", b"a", b"1"])
            dealer.send_multipart([b"2", b"", b"history", b"a"])
            dealer.send_multipart([b"3", b"", b"publish", b"none.a", b"1"])
            answers = dict((frames[0], frames[2:]) for frames in (dealer.recv_multipart() for _ in range(3)))
            assert answers[b"3"] == [b"202", b""]
            assert refusal(answers[b"1"])[0] == refusal(answers[b"2"])[0] == 503
        dealer.send_multipart([b"", b"publish", b"a", b"1"])
        assert dealer.recv_multipart()[1] == b"200"
    assert node.stop() == 0


def test_a_node_without_history_has_none(start: Callable[..., Daemon]) -> None:
    node = start(store="none", **OPEN)
    with Clients(node) as clients:
        req = clients.req()
        assert refusal(ask(req, "history", "a"))[0] == 404
        assert refusal(ask(req, "publish", "a", "1", "", "key"))[0] == 400
        assert ask(req, "publish", "a", "1") == [b"202", b""]
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


# Deaths and ends.


def kill_doors(node: Daemon) -> None:
    """The doors' process dies; wait for the one that replaces it."""
    replaced = node.log().count("zeromq replaced")
    os.kill(node.workers()["zeromq"], signal.SIGKILL)
    wait_for(lambda: node.log().count("zeromq replaced") > replaced, "it is replaced")


def test_clients_go_on_when_the_doors_process_was_killed(start: Callable[..., Daemon]) -> None:
    node = start(workers=2, **OPEN)
    with Clients(node) as clients, Stream(node, "/a") as stream:
        sub = clients.sub("a")
        sub.subscribe("-/in-force/again")
        assert sub.recv_multipart()[0] == b"-/in-force/again"
        push, req = clients.push(), clients.req()
        assert ask(req, "ping") == [b"200", b""]
        push.send_multipart([b"a", b"1"])
        assert payloads(sub, 1) == [b"1"] and stream.value() == 1
        kill_doors(node)
        assert sub.recv_multipart() == [b"-/in-force/again", b"", b""], "it tells that messages may have been missed"
        assert ask(req, "publish", "a", "2")[0] == b"200"
        push.send_multipart([b"a", b"3"])
        assert payloads(sub, 2) == [b"2", b"3"]
        assert [stream.value(), stream.value()] == [2, 3], "HTTP clients did not notice"
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


def kept(folder: Path, channel: str) -> list[str]:
    """The cursors of a channel's history that a node left in its folder."""
    node = Daemon(folder, channels={"*": {"history_size": 1_000_000}}, **OPEN)
    found: list[str] = []
    more = True
    with Clients(node) as clients:
        req = clients.req()
        while more:
            summary, messages = page(ask(req, "history", channel, found[-1] if found else "", "1000"))
            found += [cursor for cursor, _ in messages]
            more = summary["more"]
    assert node.stop() == 0
    return found


def test_a_node_that_stops_takes_no_more_of_a_pusher(start: Callable[..., Daemon]) -> None:
    node = start(channels={"*": {"history_size": 1_000_000}}, **OPEN)
    workers = node.workers()
    with Clients(node) as clients:
        push = clients.push()
        with stopped(workers["history"]):
            fill(push, "a", node)
            node.hang_up()
            node.signal(signal.SIGTERM)
            wait_for(lambda: not Path(f"/proc/{workers['worker 0']}").exists(), "the worker has ended, the doors wait")
        assert node.process.wait(20) == 0
    assert "Traceback" not in node.log(), node.log()
    assert 0 < len(kept(node.folder, "a")) <= 1 + (1 << 16) // 2000, "what was read before the stop, and no more"


def test_a_stop_amid_traffic_ends_in_order_and_keeps_what_was_acknowledged(start: Callable[..., Daemon]) -> None:
    node = start(channels={"*": {"history_size": 1_000_000}}, **OPEN)
    acknowledged: list[bytes] = []
    ended = threading.Event()

    def push(clients: Clients) -> None:
        sock = clients.push(sndhwm=100)
        n = 0
        while not ended.is_set():
            if sock.poll(50, zmq.POLLOUT):
                sock.send_multipart([b"a", b"%d" % n])
                n += 1

    def request(clients: Clients) -> None:
        dealer = clients.dealer()
        for n in range(1_000_000):
            dealer.send_multipart([b"", b"publish", b"b", b"%d" % n], zmq.DONTWAIT)
            while not dealer.poll(50):
                if ended.is_set():
                    return
            answer = dealer.recv_multipart()
            assert answer[1] == b"200", answer
            acknowledged.append(answer[2])

    with Clients(node) as clients:
        sub = clients.sub("", rcvhwm=0)
        threads = [threading.Thread(target=work, args=(clients,)) for work in (push, request)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(acknowledged) > 20, "much is under way")
        assert node.stop(15) == 0
        ended.set()
        for thread in threads:
            thread.join(20)
        heard = []
        while sub.poll(0):
            heard.append(sub.recv_multipart())
    assert "Traceback" not in node.log(), node.log()
    assert "did not stop" not in node.log(), node.log()
    heard_b = [cursor for name, _, cursor in heard if name == b"b"]
    assert set(acknowledged) <= set(heard_b)
    assert {cursor.decode() for cursor in acknowledged} <= {*kept(node.folder, "b")}
