"""Commands and requests whose client does something else before they are done: it goes, takes them back, asks again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.daemons import Daemon, Stream, post, running, wait_for
from tests.multiplex import Client

CHANNELS = {"*": {"history_size": 1000}, "none.*": {"history_size": 0}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), channels=CHANNELS, max_consumers=4)


@contextmanager
def without_history(node: Daemon) -> Iterator[None]:
    """The history answers nothing meanwhile."""
    pid = node.workers()["history"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def carried(node: Daemon) -> int:
    return int(node.metric("raiden_channels"))


def test_who_resumes_and_leaves_leaves_nothing(node: Daemon, channel: str) -> None:
    names = [f"{channel}.{number}" for number in range(20)]
    before = carried(node)
    with Client(node) as client:
        session = client.ask(cmd="session")["session"]
        for name in names:
            client.ask(cmd="subscribe", channel=name)
    for _ in range(3):
        with without_history(node):
            other = Client(node)
            other.send(cmd="resume", session=session)
            other.ask(cmd="ping")
            other.abort()
            wait_for(lambda: node.metric("raiden_connections", transport="websocket") == 0, "it has gone")
    wait_for(lambda: carried(node) == before, "nothing of it is left")
    with Client(node) as client:
        assert client.ask(cmd="resume", session=session)["subscriptions"].keys() == set(names)


@pytest.mark.parametrize("durably", [{}, {"durable": "m", "ack": True}], ids=["channel", "durable"])
def test_a_subscription_that_fails_late_leaves_its_successor(node: Daemon, channel: str, durably: Any) -> None:
    """The first one fails when the history has not answered for seconds. By then it was given up, and made anew."""
    again = {"durable": durably["durable"]} if durably else {}
    with Client(node) as client:
        with without_history(node):
            first = client.send(cmd="subscribe", channel=channel, **durably)
            client.ask(cmd="ping")
            client.send(cmd="unsubscribe", channel=channel, **again)
            client.ask(cmd="ping")
            with pytest.raises(TimeoutError):
                client.reply(first, 3.0)  # so that the second does not fail as well
            second = client.send(cmd="subscribe", channel=channel, **durably)
            assert client.reply(first)["error"]["code"] == 503
        assert "error" not in client.reply(second)
        post(node, channel, 7)
        assert client.push()["data"] == 7
        assert "error" not in client.ask(cmd="unsubscribe", channel=channel, **again)


def test_sessions_that_are_asked_for_at_once_are_one(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        numbers = [client.send(cmd="session") for _ in range(3)]
        client.ask(cmd="subscribe", channel=channel)
        told = {client.reply(number)["session"] for number in numbers}
        assert len(told) == 1
    with Client(node) as client:
        (session,) = told
        resumed = client.send(cmd="resume", session=session)
        assert client.code(cmd="session") == 409, "it will be the one that is resumed"
        assert client.reply(resumed)["subscriptions"].keys() == {channel}
        assert client.ask(cmd="session")["session"] == session


def test_after_a_resume_that_failed_there_may_be_another(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        assert client.code(cmd="resume", session="nothing") == 404
        session = client.ask(cmd="session")["session"]
        client.ask(cmd="subscribe", channel=channel)
    with Client(node) as client:
        assert client.ask(cmd="resume", session=session)["subscriptions"].keys() == {channel}


def test_what_comes_behind_a_message_that_closes_the_socket_is_not_published(start: Callable[..., Daemon]) -> None:
    node = start(channels=CHANNELS, max_message=4096)
    for channel in ("behind", "none.behind"):
        with Stream(node, f"/{channel}") as stream:
            url = f"ws://127.0.0.1:{node.port}/{channel}"
            with connect(url, proxy=None, compression=None) as socket:
                with socket.protocol_mutex:  # both in one segment
                    socket.protocol.send_text(b'"' + b"x" * 5000 + b'"')
                    socket.protocol.send_text(b'"after"')
                    socket.socket.sendall(b"".join(socket.protocol.data_to_send()))
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv(20)
                    socket.recv(20)
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
            node.publish(channel, "next")
            assert stream.value() == "next"


@pytest.mark.parametrize("transport", ["lines", "events", "websocket"])
def test_a_deletion_ends_who_is_still_being_sent_the_past(node: Daemon, channel: str, transport: str) -> None:
    """50 MB wait for a client that takes them only after the channel was deleted, and has a successor."""
    for _ in range(50):
        post(node, channel, *["x" * 50_000] * 20)
    headers = {"Accept": "text/event-stream"} if transport == "events" else {}
    if transport == "websocket":
        with connect(f"ws://127.0.0.1:{node.port}/{channel}?_since=earliest", proxy=None, max_queue=1) as socket:
            delete(node, channel)
            with pytest.raises(ConnectionClosed) as closed:
                while json.loads(socket.recv(20)) != "next":
                    pass
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4504
        return
    with Stream(node, f"/{channel}?_since=earliest", headers) as stream:
        delete(node, channel)
        while line := stream.line():
            assert b"next" not in line, "it is of the next life of the channel"


def delete(node: Daemon, channel: str) -> None:
    assert node.request("DELETE", f"/{channel}")[0] == 202
    node.publish(channel, "next")


# Long-polls of durable subscriptions.


def poll(node: Daemon, channel: str, query: str) -> tuple[int, Any]:
    status, _, body = node.request("GET", f"/{channel}?_durable=m{query}")
    return status, json.loads(body) if body else None


def lag(node: Daemon, channel: str) -> int:
    found: int = node.json(f"/-/durables?_channel={channel}")["durables"][0]["lag"]
    return found


def test_a_poll_acknowledges_only_the_message_that_its_cursor_proves(node: Daemon, channel: str) -> None:
    poll(node, channel, "")
    cursors = post(node, channel, 1, 2)
    assert len(poll(node, channel, "&_limit=2&_ack_wait=60")[1]["messages"]) == 2
    epoch, offset, proof = cursors[0].split(":")
    wrong = f"{epoch}:{offset}:{proof[::-1] if proof != proof[::-1] else '0' * 12}"
    for parameter in ("_ack", "_nack"):
        status, told = poll(node, channel, f"&_limit=0&{parameter}={wrong}")
        assert (status, told["late"]) == (200, [wrong]) and lag(node, channel) == 2
    assert poll(node, channel, f"&_limit=0&_ack={cursors[0]},{epoch}:{int(offset) + 1}")[0] == 204
    assert lag(node, channel) == 0


def test_a_poll_for_which_there_is_no_room_acknowledges_nothing(node: Daemon, channel: str) -> None:
    poll(node, channel, "")
    cursors = post(node, channel, 1, 2)
    assert len(poll(node, channel, "&_limit=2&_ack_wait=60")[1]["messages"]) == 2
    with Client(node) as client:
        for number in range(4):
            client.ask(cmd="subscribe", channel=f"{channel}.{number}", durable="m", ack=True)
        for parameter in ("_ack", "_nack"):
            assert poll(node, channel, f"&{parameter}={cursors[0]}")[0] == 503
        assert lag(node, channel) == 2
    wait_for(lambda: poll(node, channel, f"&_limit=0&_ack={','.join(cursors)}")[0] == 204, "there is room again")
    assert lag(node, channel) == 0


# Members and parameters that mean nothing together.


@pytest.mark.parametrize(
    "command",
    [
        {"cmd": "subscribe", "ack": True}, {"cmd": "subscribe", "window": "x"}, {"cmd": "subscribe", "ack_wait": 1},
        {"cmd": "unsubscribe", "forget": True}, {"cmd": "subscribe", "filters": []}, {"cmd": "subscribe", "filters": 0},
        {"cmd": "subscribe", "filters": False}, {"cmd": "subscribe", "filters": ""},
    ],
)  # fmt: skip
def test_members_that_mean_nothing(node: Daemon, channel: str, command: dict[str, Any]) -> None:
    with Client(node) as client:
        assert client.code(channel=channel, **command) == 400
        assert "error" not in client.ask(cmd="subscribe", channel=channel, filters=None)


@pytest.mark.parametrize("query", ["_last=5&_since=zz", "_last=5&_before=a:1", "_since=earliest&_before=a:1"])
def test_a_page_has_one_beginning(node: Daemon, query: str) -> None:
    status, _, body = node.request("GET", f"/-/channels/a/history?{query}")
    assert status == 400 and b"one of _since, _before and _last" in body
