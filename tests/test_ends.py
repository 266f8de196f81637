"""The end of a channel: what subscribers of each transport are told, and what publishers are answered."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
import zmq
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.daemons import Daemon, Stream, post, wait_for
from tests.multiplex import Client
from tests.stores import RedisServer
from tests.test_revocations import _address, _peers
from tests.test_streaming import Upload
from tests.zeromq import OPEN

EVENTS = {"Accept": "text/event-stream"}
# The tokens of a stream whose reader is cut again and again.
TOKENS = int(os.environ.get("TESTS_TOKENS", 300))


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel that no other test uses."""
    return "end." + "".join(each if each.isalnum() else "-" for each in request.node.name)


def end(node: Daemon, channel: str, last: Any = None) -> str:
    """Publish the last message, or an end without data; its cursor."""
    body, fields = (None, {}) if last is None else (json.dumps(last), {"Content-Type": "application/json"})
    status, _, answer = node.request("POST", f"/{channel}", body, {**fields, "Raiden-End": "true"})
    assert status == 200, answer
    cursor: str = json.loads(answer)["cursor"]
    return cursor


def poll(node: Daemon, path: str) -> Any:
    status, _, body = node.request("GET", path)
    assert status == 200, body
    return json.loads(body)


@contextmanager
def socket_of(node: Daemon, path: str) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{node.port}{path}", proxy=None) as socket:
        yield socket


def closed(socket: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        socket.recv(20)
    return socket.close_code


@pytest.mark.parametrize("last", [{"n": 2}, None], ids=["with data", "without"])
def test_events(daemon: Daemon, channel: str, last: Any) -> None:
    with Stream(daemon, f"/{channel}", EVENTS) as stream:
        (first,) = post(daemon, channel, 1)
        cursor = end(daemon, channel, last)
        told = stream.response.read().decode()
    shown = "" if last is None else f'id: {cursor}\ndata: {{"n": 2}}\n\n'
    assert told.endswith(f'id: {first}\ndata: 1\n\n{shown}event: end\nid: {cursor}\ndata: {{"end":true}}\n\n')
    # A browser comes back with the last id, and must not do so again and again.
    status, fields, _ = daemon.request("GET", f"/{channel}", headers={**EVENTS, "Last-Event-ID": cursor})
    assert (status, fields["raiden-end"], fields["raiden-cursor"]) == (204, "true", cursor)
    with Stream(daemon, f"/{channel}", {**EVENTS, "Last-Event-ID": first}) as stream:
        assert stream.response.read().decode().count("data: ") == 1 + (last is not None)
    with Stream(daemon, f"/{channel}", EVENTS) as stream:
        assert "event: end" in stream.response.read().decode()


@pytest.mark.parametrize("last", [{"n": 2}, None], ids=["with data", "without"])
def test_lines(daemon: Daemon, channel: str, last: Any) -> None:
    with Stream(daemon, f"/{channel}") as plain, Stream(daemon, f"/{channel}?_wrap=1") as wrapped:
        daemon.publish(channel, 1)
        cursor = end(daemon, channel, last)
        values = [1] if last is None else [1, last]
        assert [json.loads(line) for line in plain.response.read().split(b"\n") if line] == values
        lines = [json.loads(line) for line in wrapped.response.read().splitlines() if line]
    assert [line["data"] for line in lines if "data" in line] == values
    assert lines[-1] == {"channel": channel, "end": True, "cursor": cursor}
    with Stream(daemon, f"/{channel}?_since=earliest") as stream:
        assert [json.loads(line) for line in stream.response.read().split(b"\n") if line] == values
    assert daemon.request("GET", f"/{channel}?_since={cursor}")[0] == 204
    pages = [daemon.json(f"/-/channels/{channel}/history?_limit={limit}") for limit in (1, 100)]
    assert "end" not in pages[0] and pages[1]["end"] is True


def test_bytes(daemon: Daemon, channel: str) -> None:
    with Stream(daemon, f"/{channel}", {"Accept": "application/octet-stream"}) as stream:
        daemon.request("POST", f"/{channel}", b"\x00", {"Raiden-End": "true"})
        assert stream.response.read() == b"\x00"


@pytest.mark.parametrize("last", [2, None], ids=["with data", "without"])
def test_a_channels_websocket(daemon: Daemon, channel: str, last: Any) -> None:
    with socket_of(daemon, f"/{channel}") as plain, socket_of(daemon, f"/{channel}?_wrap=1") as wrapped:
        wrapped.recv(20)
        daemon.publish(channel, 1)
        cursor = end(daemon, channel, last)
        values = [1] if last is None else [1, last]
        assert [json.loads(plain.recv(20)) for _ in values] == values
        assert closed(plain) == 4505
        told = [json.loads(wrapped.recv(20)) for _ in [*values, "end"]]
        assert told[-1] == {"channel": channel, "end": True, "cursor": cursor} and closed(wrapped) == 4505
    with socket_of(daemon, f"/{channel}?_since={cursor}") as socket:
        assert closed(socket) == 4505


@pytest.mark.parametrize("last", [2, None], ids=["with data", "without"])
def test_many_channels_on_a_socket(daemon: Daemon, channel: str, last: Any) -> None:
    with Client(daemon) as client:
        client.ask(cmd="subscribe", channel=channel)
        daemon.publish(channel, 1)
        data = {} if last is None else {"data": last}
        cursor = client.ask(cmd="publish", channel=channel, end=True, **data)["cursor"]
        over = {"channel": channel, "end": True, "cursor": cursor}
        assert [client.push()["data"] for _ in [1, *data]] == [1, *data.values()]
        assert client.push() == over
        assert client.code(cmd="unsubscribe", channel=channel) == 404, "the subscription is over"
        assert client.code(cmd="publish", channel=channel, data=3) == 409
        for since in ({"since": cursor}, {}):
            assert client.ask(cmd="subscribe", channel=channel, **since)["cursor"] == cursor
            assert client.push() == over
        assert client.ask(cmd="subscribe", channel=channel, last=10)["recovered"]
        assert client.push()["data"] == 1
        daemon.request("DELETE", f"/{channel}")
        while client.push() != over:
            pass
        assert client.ask(cmd="subscribe", channel=channel)["channel"] == channel
        daemon.publish(channel, 4)
        assert client.push()["data"] == 4


def test_a_session_tells_the_end_until_the_client_has_heard_of_it(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, keepalive=0.5)
    with Client(node) as client:
        client.ask(cmd="subscribe", channel="a")
        session = client.ask(cmd="session")["session"]
        cursor = end(node, "a", 1)
        assert client.push()["data"] == 1 and client.push()["end"]
    with Client(node) as client:
        assert "a" in client.ask(cmd="resume", session=session)["subscriptions"]
        told = client.push()
        while "end" not in told:
            told = client.push()
        assert told == {"channel": "a", "end": True, "cursor": cursor}
        assert client.ask(cmd="subscribe", channel="b")
        wait_for(lambda: client.ask(cmd="ping") == {} and node.json("/-/channels/a")["subscribers"] == 0, "it is over")
        # The second one says that the answer to the first has come, and so what was told before; a third, that this
        # is kept.
        client.wait_for_pings(3)
    with Client(node) as client:
        assert list(client.ask(cmd="resume", session=session)["subscriptions"]) == ["b"]


@pytest.mark.parametrize("last", [2, None], ids=["with data", "without"])
def test_long_polls(daemon: Daemon, channel: str, last: Any) -> None:
    (first,) = post(daemon, channel, 1)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(poll(daemon, f"/{channel}?_wait=20&_since={first}")))
    waiting.start()
    wait_for(lambda: daemon.json(f"/-/channels/{channel}")["subscribers"] == 1, "it waits")
    cursor = end(daemon, channel, last)
    waiting.join()
    messages = [] if last is None else [{"data": 2, "cursor": cursor}]
    assert found == [{"cursor": cursor, "end": True, "messages": messages}]
    for path in (f"?_wait=20&_since={cursor}", "?_wait=20", f"?_wait=0&_since={cursor}"):
        assert poll(daemon, f"/{channel}{path}") == {"cursor": cursor, "end": True, "messages": []}
    everything = poll(daemon, f"/{channel}?_wait=0&_since=earliest")
    assert everything["end"] and len(everything["messages"]) == 1 + len(messages)
    missed = poll(daemon, f"/{channel}?_wait=20&_since={first}")
    assert missed == {"cursor": cursor, "end": True, "messages": messages}


def test_a_long_poll_of_several_channels(daemon: Daemon, channel: str) -> None:
    other = f"{channel}.b"
    (a,), (b,) = post(daemon, channel, 1), post(daemon, other, 1)
    path = f"/-/subscribe?channel={channel}&channel={other}&_wait=20&_since="
    cursor = end(daemon, channel, 2)
    answer = poll(daemon, f"{path}{a},{b}")
    assert answer["ends"] == [channel] and "end" not in answer and answer["cursor"] == f"{cursor},{b}"
    assert [message["data"] for message in answer["messages"]] == [2]
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(poll(daemon, path + answer["cursor"])))
    waiting.start()  # an end that is known is no news
    wait_for(lambda: daemon.json(f"/-/channels/{other}")["subscribers"] == 1, "it waits")
    last = end(daemon, other)
    waiting.join()
    assert found[0]["end"] and sorted(found[0]["ends"]) == sorted([channel, other]) and found[0]["messages"] == []
    assert poll(daemon, f"{path}{cursor},{last}")["end"]


def test_events_of_several_channels(daemon: Daemon, channel: str) -> None:
    other = f"{channel}.b"
    with Stream(daemon, f"/-/subscribe?channel={channel}&channel={other}", EVENTS) as stream:
        first = end(daemon, channel, 1)
        second = end(daemon, other)
        told = stream.response.read().decode()
    assert told.count("event: end") == 2 and f'"channel":"{other}","end":true' in told
    assert told.rstrip().endswith(f"id: {first},{second}")
    path = f"/-/subscribe?channel={channel}&channel={other}&_since="
    assert daemon.request("GET", f"{path}{first},{second}", headers=EVENTS)[0] == 204


@pytest.mark.parametrize("kind", ["events", "lines", "socket", "commands", "poll"])
def test_a_pattern_is_told_and_goes_on(daemon: Daemon, channel: str, kind: str) -> None:
    one, path = f"{channel}.one", f"/{channel}*"
    if kind == "poll":
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append(poll(daemon, f"{path}?_wait=20")))
        waiting.start()
        wait_for(lambda: daemon.json(f"/-/channels/{channel}*")["subscribers"] == 1, "it waits")
        end(daemon, one)
        waiting.join()
        assert found == [{"ends": [one], "messages": []}]
        return
    over = {"channel": one, "end": True}
    if kind in ("socket", "commands"):
        with socket_of(daemon, path if kind == "socket" else "/-/websocket") as socket:
            if kind == "commands":
                socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": f"{channel}*"}))
                socket.recv(20)
            over["cursor"] = end(daemon, one, 1)
            daemon.publish(f"{channel}.two", 2)
            told = [json.loads(socket.recv(20)) for _ in range(3)]
    else:
        with Stream(daemon, path, EVENTS if kind == "events" else {}) as stream:
            over["cursor"] = end(daemon, one, 1)
            daemon.publish(f"{channel}.two", 2)
            told = []
            while len(told) < 3:
                line = stream.response.readline().removeprefix(b"data: ").strip()
                told += [json.loads(line)] if line.startswith(b"{") else []
    # Channels of a pattern have no order among them.
    first, *others = [each for each in told if each["channel"] == one]
    assert first["data"] == 1 and others == [over]
    assert [each["data"] for each in told if each["channel"] != one] == [2]


def test_publishers_are_refused_until_the_channel_is_deleted(start: Callable[..., Daemon]) -> None:
    node = start(workers=2)
    status, _, body = node.post_json("/-/publish", {"channels": ["a", "b"], "end": True})
    assert status == 200 and json.loads(body)["cursors"].keys() == {"a", "b"}
    assert node.stop() == 0
    node = start(workers=2, data_dir=node.folder)  # the store remembers
    for _ in range(2):  # the second one's head is known
        status, _, body = node.post_json("/a", 1)
        assert status == 409 and "DELETE" in json.loads(body)["detail"]
    assert node.request("POST", "/a", "1\n2", {"Content-Type": "application/x-ndjson"})[0] == 409
    assert node.post_json("/-/publish", {"channels": ["c", "a"], "data": 1})[0] == 409
    assert node.json("/-/channels/c")["cursor"] is None
    assert node.request("POST", "/a", None, {"Raiden-End": "true"})[0] == 409
    assert node.json("/-/channels/a")["end"] is True
    assert node.json("/-/channels/a/history")["messages"][0]["data"] is None
    with socket_of(node, "/b?_since=earliest") as socket:
        assert closed(socket) == 4505
    assert node.request("DELETE", "/a")[0] == 202
    assert node.post_json("/a", 1)[0] == 200 and "end" not in node.json("/-/channels/a")


def test_an_end_under_a_key_is_made_once(daemon: Daemon, channel: str) -> None:
    fields = {"Raiden-End": "true", "Idempotency-Key": "k"}
    answers = [daemon.request("POST", f"/{channel}", None, fields) for _ in range(2)]
    assert [status for status, _, _ in answers] == [200, 200] and answers[0][2] == answers[1][2]


@pytest.mark.parametrize("value", ["1", "yes", "True", ""])
def test_a_flag_is_true_or_false(daemon: Daemon, channel: str, value: str) -> None:
    assert daemon.request("POST", f"/{channel}", b"1", {"Raiden-End": value})[0] == 400
    assert daemon.post_json("/-/publish", {"channels": [channel], "data": 1, "end": 1})[0] == 400
    assert daemon.json(f"/-/channels/{channel}/history")["messages"] == []


def test_zeromq(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, **OPEN)
    doors = node.doors()
    context = zmq.Context()
    try:
        sub, push = context.socket(zmq.SUB), context.socket(zmq.PUSH)
        sub.connect(doors["SUB"])
        sub.subscribe(b"-/in-force/1")
        sub.subscribe(b"a")
        assert sub.recv_multipart()[0] == b"-/in-force/1"
        node.publish("a", 1)
        cursor = end(node, "a").rpartition(":")[0]
        assert sub.recv_multipart()[:2] == [b"a", b"1"]
        assert sub.recv_multipart()[:3] == [b"a", b"", cursor.encode()]
        req = context.socket(zmq.REQ)
        req.connect(doors["REQ"])

        def ask(*frames: bytes) -> list[bytes]:
            req.send_multipart([b"publish", *frames])
            answer: list[bytes] = req.recv_multipart()
            return answer

        assert ask(b"a", b"2")[0] == b"409"
        place = ask(b"c", b"1", b"", b"", b'{"if": "0:0"}')[1]
        status, problem = ask(b"c", b"2", b"", b"", b'{"if": "0:0"}')
        assert status == b"412" and json.loads(problem)["cursor"].startswith(place.decode())
        assert ask(b"c", b"2", b"", b"", b'{"if": "%b", "end": true}' % place)[0] == b"200"
        assert ask(b"c", b"3")[0] == b"409" and ask(b"d", b"", b"", b"", b'{"end": true}')[0] == b"200"
        for bad in (b"1", b"nonsense", b'{"if": 1}', b'{"unknown": 1}', b'{"if": "nonsense"}'):
            assert ask(b"e", b"1", b"", b"", bad)[0] == b"400"
        push.connect(doors["PUSH"])
        push.send_multipart([b"a", b"1"])
        push.send_multipart([b"b", b"2"])
        wait_for(lambda: node.json("/-/channels/b")["cursor"], "what follows is published")
        assert node.metric("raiden_bad_messages_total") == 1
    finally:
        context.destroy(linger=0)


def test_a_durable_gets_the_end_as_a_message(daemon: Daemon, channel: str) -> None:
    daemon.request("GET", f"/{channel}?_durable=d&_limit=0&_since=earliest&_wait=0")
    post(daemon, channel, 1)
    end(daemon, channel)
    taken = poll(daemon, f"/{channel}?_durable=d&_since=earliest&_wait=0")
    assert [message["data"] for message in taken["messages"]] == [1, None]


# A reader that is cut again and again.


def test_an_end_that_is_lost_is_told_behind_the_gap(start: Callable[..., Daemon], redis_server: RedisServer) -> None:
    """The nodes don't know each other, so the reader's hears of the end from the store, where no message is left."""
    options = {"store": redis_server.url, "position_check": 2, "channels": {"*": {"history_ttl": 0.05}}}
    reader, publisher = start(**options), start(**options)
    with Stream(reader, "/lost", EVENTS) as events, socket_of(reader, "/-/websocket") as socket:
        socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": "lost"}))
        socket.recv(20)
        publisher.publish("lost", 1)
        end(publisher, "lost")
        wait_for(lambda: json.loads(socket.recv(20)).get("end"), "the end is told")
        assert "event: end" in events.response.read().decode()


class Reader:
    """Reads a channel by one transport, from node to node, until its end."""

    def __init__(self, nodes: list[Daemon], random: Random) -> None:
        self._nodes = nodes
        self._random = random
        self.got: list[int] = []
        self.place = "earliest"
        self.ended = False

    def read(self, most: int) -> None:
        """Read from a node, until so many messages have come, or the end."""
        raise NotImplementedError

    def node(self) -> Daemon:
        return self._random.choice(self._nodes)

    def take(self, value: int, cursor: str) -> None:
        self.got.append(value)
        self.place = cursor


class EventReader(Reader):
    def read(self, most: int) -> None:
        headers = {**EVENTS, "Last-Event-ID": self.place}
        with Stream(self.node(), "/answer", headers) as stream:
            name = ""
            while (line := stream.response.readline().rstrip()) or most:
                field, _, value = line.decode().partition(": ")
                if field == "id":
                    self.place = value
                elif field == "event":
                    name = value
                elif field == "data" and name == "end":
                    self.ended = True
                    return
                elif field == "data":
                    assert not name, line
                    self.got.append(json.loads(value))
                    most -= 1
                    if not most:
                        return


class PollReader(Reader):
    def read(self, most: int) -> None:
        while most > 0:
            status, fields, body = self.node().request("GET", f"/answer?_wait=20&_since={self.place}")
            if status == 204:
                self.place = fields["raiden-cursor"]
                continue
            answer = json.loads(body)
            assert "gap" not in answer
            for message in answer["messages"]:
                self.take(message["data"], message["cursor"])
                most -= 1
                if not most:
                    return  # the rest of the answer was not read
            if answer.get("end"):
                self.ended = True
                return


class SocketReader(Reader):
    def read(self, most: int) -> None:
        with Client(self.node()) as client:
            reply = client.ask(cmd="subscribe", channel="answer", since=self.place)
            assert reply["recovered"], reply
            while most:
                told = client.push()
                if told.get("end"):
                    self.ended = True
                    return
                self.take(told["data"], told["cursor"])
                most -= 1


def test_a_stream_of_tokens_arrives_once_and_in_order_and_ends(
    start: Callable[..., Daemon], redis_server: RedisServer
) -> None:  # fmt: skip
    """Its readers are cut ten times, and come back to any node each time."""
    settings: dict[str, Any] = {"store": redis_server.url, "backend_host": "127.0.0.1", "drain_window": 0}
    nodes = [start(**settings, channels={"*": {"history_size": TOKENS + 1}})]
    for _ in range(2):
        nodes.append(start(**settings, peers=[_address(nodes[0])], channels={"*": {"history_size": TOKENS + 1}}))
    wait_for(lambda: all(_peers(node) == 2 for node in nodes), "the nodes are connected")
    random = Random(os.environ.get("TESTS_SEED"))
    kinds = (EventReader, PollReader, SocketReader)
    readers = [kind(nodes, random) for kind in kinds]
    failed: list[BaseException] = []

    def read(reader: Reader, cuts: list[int]) -> None:
        try:
            for most in cuts:
                reader.read(most)
            while not reader.ended:
                reader.read(TOKENS + 1)
        except BaseException as error:  # told to the test, which raises it
            failed.append(error)

    places = [sorted(random.sample(range(1, TOKENS), 10)) for _ in readers]
    cuts = [[here - before for before, here in zip([0, *at], at, strict=False)] for at in places]
    threads = [threading.Thread(target=read, args=each) for each in zip(readers, cuts, strict=True)]
    with Upload(nodes[0], "answer", Raiden_End="true") as upload:
        for thread in threads:
            thread.start()
        for number in range(TOKENS):
            upload.send(number)
        assert upload.finish()[1]["published"] == TOKENS
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert [reader.got for reader in readers] == [list(range(TOKENS))] * 3
