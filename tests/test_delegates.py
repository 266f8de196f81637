"""A delegate over HTTP: what it is asked, by which doors, and what its answers do; the application is a real server."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from signal import SIGHUP
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.application import Application
from tests.daemons import Daemon, Stream, wait_for
from tests.tokens import API_KEYS, JWT_KEYS, KEY, bearer, token

JSON = {"Content-Type": "application/json"}
RED, BLUE = {"team": "red", "n": 1}, {"team": "blue", "n": 2}


class Rules:
    """The application's rules, by the beginning of a channel's name; tests may set ``answers`` of their own by channel,
    and let questions about it wait for ``released``."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.released: dict[str, threading.Event] = {}

    def hold(self, channel: str) -> threading.Event:
        self.released[channel] = event = threading.Event()
        return event

    def decide(self, question: dict[str, Any]) -> Any:
        channel = question.get("channel", question["event"])
        if question["event"] in self.released or channel in self.released:
            self.released[channel].wait(60)
        answer = self.answers.get(f"{question['event']} {channel}", self.answers.get(channel))
        if answer is not None:
            return answer(question) if callable(answer) else answer
        return {"allow": True}


@pytest.fixture(scope="module")
def rules() -> Rules:
    return Rules()


@pytest.fixture(scope="module")
def application(rules: Rules) -> Iterator[Application]:
    with Application(rules.decide) as found:
        yield found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, application: Application) -> Iterator[Daemon]:
    found = Daemon(
        tmp_path_factory.mktemp("delegate"), jwt_keys=JWT_KEYS, api_keys=API_KEYS,
        delegate={"url": application.url, "timeout": 30, "headers": ["Cookie"]}, audit_log="log",
    )  # fmt: skip
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()
    for secret in ("hidden", "chocolate", KEY):
        assert secret not in found.log(), "a log shows no secret"


def post(node: Daemon, channel: str, value: Any, **headers: str) -> int:
    return node.request("POST", f"/{channel}", json.dumps(value), {**JSON, **headers})[0]


def serve(node: Daemon, channel: str, value: Any) -> None:
    """Publish by an API key, about which nobody is asked."""
    assert post(node, channel, value, **bearer(KEY)) == 200


def past(node: Daemon, channel: str) -> list[Any]:
    _, _, page = node.request("GET", f"/-/channels/{channel}/history", headers=bearer(KEY))
    return [message["data"] for message in json.loads(page)["messages"]]


def connections(node: Daemon) -> int:
    """The number of HTTP connections that the node has."""
    _, _, body = node.request("GET", "/-/metrics", headers=bearer(KEY))
    return int(float(re.findall(rb'raiden_connections{transport="http",worker="0"} (.*)', body)[0]))


def socket(node: Daemon, path: str = "/-/websocket", **headers: str) -> Any:
    # What is pushed and not read would keep the end from being seen.
    return connect(f"ws://127.0.0.1:{node.port}{path}", proxy=None, max_queue=None, additional_headers=headers)


def command(socket: Any, number: int = 1, **members: Any) -> Any:
    socket.send(json.dumps({"id": number, **members}))
    while (reply := json.loads(socket.recv(60))).get("id") != number:
        pass
    return {name: value for name, value in reply.items() if name != "id"}


# Questions.


def test_what_a_delegate_is_asked_and_told(node: Daemon, application: Application, channel: str) -> None:
    begun = len(application.questions)
    headers = {"Cookie": "chocolate", "X-Other": "y", **bearer(token(info={"name": "Ann"}, subscribe=["elsewhere"]))}
    with Stream(node, f"/{channel}?_since=earliest", headers) as stream:
        assert stream.status == 200
    wait_for(lambda: application.questions[begun:][-1]["event"] == "disconnect", "the end is told")
    asked = application.questions[begun:]
    client = {
        "id": asked[0]["client"]["id"], "sub": "ann", "info": {"name": "Ann"}, "address": "127.0.0.1",
        "headers": {"cookie": "chocolate"},
    }  # fmt: skip
    assert len(client["id"]) >= 16
    assert asked == [
        {"event": "connect", "client": client},
        {"event": "subscribe", "channel": channel, "history": True, "client": client},
        {"event": "unsubscribe", "channel": channel, "client": client},
        {"event": "disconnect", "client": client},
    ]


def test_a_connection_that_is_refused(node: Daemon, rules: Rules, application: Application, channel: str) -> None:
    rules.answers["connect"] = lambda asked: {"allow": "chocolate" in str(asked), "status": 401, "reason": "log in"}
    try:
        for path in ("/-/websocket", f"/{channel}"):
            with pytest.raises(InvalidStatus) as refused, socket(node, path):
                pass
            assert refused.value.response.status_code == 401
            assert b"log in" in (refused.value.response.body or b"")
        with Stream(node, f"/{channel}") as stream:
            assert stream.status == 401
        assert not application.of("subscribe", channel), "nothing else is asked"
        assert post(node, channel, 1) == 200, "a publish is no connection"
        with socket(node, Cookie="chocolate") as found:
            assert command(found, cmd="ping") == {}
    finally:
        del rules.answers["connect"]


def test_info_is_known_from_then_on(node: Daemon, rules: Rules, application: Application, channel: str) -> None:
    rules.answers["connect"] = {"allow": True, "info": {"seat": 7}}
    try:
        with socket(node) as found:
            assert "error" not in command(found, cmd="subscribe", channel=channel)
            assert "error" not in command(found, cmd="publish", channel=channel, data=1)
        assert [each["client"]["info"] for each in application.of("subscribe", channel)] == [{"seat": 7}]
        assert [each["client"]["info"] for each in application.of("publish", channel)] == [{"seat": 7}]
    finally:
        del rules.answers["connect"]


def test_a_remembered_head_is_asked_about_each_time(node: Daemon, application: Application, channel: str) -> None:
    connection = node.open()
    for number in range(5):
        connection.request("POST", f"/{channel}", str(number), JSON)
        assert connection.getresponse().read()
        connection.request("GET", f"/{channel}?_wait=0")
        connection.getresponse().read()
    connection.close()
    assert [each["data"] for each in application.of("publish", channel)] == [0, 1, 2, 3, 4]
    assert len(application.of("subscribe", channel)) == 5


def test_equal_questions_under_way_are_asked_once(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    held = rules.hold(channel)
    with ThreadPoolExecutor(23) as pool:
        polls = [pool.submit(node.request, "GET", f"/{channel}?_wait=0") for _ in range(20)]
        others = [pool.submit(node.request, "GET", f"/{channel}?_wait=0", None, {"Cookie": "x"}) for _ in range(3)]
        wait_for(lambda: len(application.of("subscribe", channel)) >= 2, "both are asked")
        wait_for(lambda: connections(node) >= 23, "all have come")
        held.set()
        assert [poll.result()[0] for poll in polls + others] == [204] * 23
    asked = application.of("subscribe", channel)
    # A poll that came behind the answer is asked about anew.
    assert 2 <= len(asked) < 23 and {"cookie": "x"} in [each["client"]["headers"] for each in asked]


def test_an_answer_holds_for_its_time(node: Daemon, rules: Rules, application: Application, channel: str) -> None:
    rules.answers[channel] = {"allow": True, "ttl": 600}
    for _ in range(3):
        assert node.request("GET", f"/{channel}?_wait=0")[0] == 204
        assert post(node, channel, 1) == 200
    assert len(application.of("subscribe", channel)) == len(application.of("publish", channel)) == 1
    assert node.request("GET", f"/{channel}?_wait=0", headers={"Cookie": "x"})[0] == 204
    assert len(application.of("subscribe", channel)) == 2, "another client is asked about"
    rules.answers[channel + "2"] = {"allow": False, "ttl": 600}
    for _ in range(3):
        assert node.request("GET", f"/{channel}2?_wait=0")[0] == 403
    assert len(application.of("subscribe", channel + "2")) == 1


def test_an_answer_that_changes_a_message_is_for_that_one(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    rules.answers[f"publish {channel}"] = lambda asked: {"allow": True, "data": asked["data"] + 1, "ttl": 600}
    assert [post(node, channel, number) for number in (1, 5)] == [200, 200]
    assert past(node, channel) == [2, 6]


def test_a_batch_whose_first_answer_holds_is_asked_once(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    rules.answers[channel] = {"allow": True, "ttl": 600}
    body = "\n".join(map(str, range(50)))
    assert node.request("POST", f"/{channel}", body, {"Content-Type": "application/x-ndjson"})[0] == 200
    assert len(application.of("publish", channel)) == 1 and past(node, channel) == list(range(50))


# Answers.


def test_messages_are_changed_by_each_door(node: Daemon, rules: Rules, channel: str) -> None:
    rules.answers[f"publish {channel}"] = lambda asked: {"allow": True, "data": {"was": asked["data"]}}
    assert post(node, channel, 1) == 200
    for kind, body in (("application/x-ndjson", "2\n3"), ("text/plain", "four"), ("application/octet-stream", b"\xff")):
        assert node.request("POST", f"/{channel}", body, {"Content-Type": kind})[0] == 200
    body = json.dumps({"channels": [channel, channel + ".b"], "data": 5})
    assert node.request("POST", "/-/publish", body, JSON)[0] == 200
    with socket(node) as found:
        assert "cursor" in command(found, cmd="publish", channel=channel, data=6)
    with socket(node, f"/{channel}") as found:
        found.send("7")
        assert json.loads(found.recv(60)) == {"was": 7}
    was = [1, 2, 3, "four", {"base64": base64.b64encode(b"\xff").decode()}, 5, 6, 7]
    assert past(node, channel) == [{"was": each} for each in was]
    assert past(node, channel + ".b") == [5], "each channel is asked about"


def test_a_message_is_not_made_too_large(rules: Rules, application: Application, start: Callable[..., Daemon]) -> None:
    rules.answers["large"] = {"allow": True, "data": "x" * 5000}
    found = start(delegate={"url": application.url}, max_message=4096)
    assert post(found, "large", 1) == 413
    with socket(found, "/large") as own, pytest.raises(ConnectionClosed) as closed:
        own.send("1")
        own.recv(60)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_a_batch_is_refused_as_a_whole(node: Daemon, rules: Rules, channel: str) -> None:
    rules.answers[f"publish {channel}"] = lambda asked: {"allow": asked["data"] != 30, "reason": "no thirty"}
    body = "\n".join(map(str, range(50)))
    status, _, answer = node.request("POST", f"/{channel}", body, {"Content-Type": "application/x-ndjson"})
    assert status == 403 and json.loads(answer)["detail"] == "no thirty" and past(node, channel) == []
    rules.answers[channel + ".b"] = {"allow": False}
    body = json.dumps({"channels": [channel, channel + ".b"], "data": 5})
    assert node.request("POST", "/-/publish", body, JSON)[0] == 403 and past(node, channel) == []


def test_the_end_behind_a_stream_is_asked_about(node: Daemon, rules: Rules, channel: str) -> None:
    rules.answers[f"publish {channel}"] = {"allow": False}
    status, _, body = node.request("POST", f"/{channel}?_stream=1", "", {"Raiden-End": "true"})
    assert (status, json.loads(body)["published"]) == (403, 0)
    rules.answers[f"publish {channel}"] = {"allow": True}
    status, _, body = node.request("POST", f"/{channel}?_stream=1", "1\n2", {"Raiden-End": "true"})
    assert (status, json.loads(body)["published"]) == (200, 2)
    assert post(node, channel, 3) == 409


def test_a_refused_frame_closes_its_socket(node: Daemon, rules: Rules, channel: str) -> None:
    rules.answers[f"publish {channel}"] = lambda asked: {"allow": asked["data"] != 1, "reason": "not one"}
    with socket(node, f"/{channel}") as found, pytest.raises(ConnectionClosed) as closed:
        for number in range(3):
            found.send(str(number))
        while found.recv(60) == "0":
            pass
    assert closed.value.rcvd is not None and (closed.value.rcvd.code, closed.value.rcvd.reason) == (4503, "not one")
    assert past(node, channel) == [0], "what was sent behind it counts for nothing"


def test_refusals_are_in_the_audit_log(node: Daemon, rules: Rules, channel: str) -> None:
    rules.answers[channel] = {"allow": False, "reason": "not here"}
    rules.answers[f"subscribe {channel}.b"] = {"allow": True}
    rules.answers[f"publish {channel}.b"] = {"allow": False, "reason": "not here"}
    assert post(node, channel, 1) == 403
    with socket(node) as found:
        assert command(found, cmd="subscribe", channel=channel)["error"]["message"] == "not here"
    with socket(node, f"/{channel}.b") as found, pytest.raises(ConnectionClosed):
        found.send("1")
        found.recv(60)
    for door, action, name in (
        ("http", "publish", channel), ("websocket", "subscribe", channel), ("websocket", "publish", channel + ".b"),
    ):  # fmt: skip
        line = rf"door='{door}' action='{action}' channel='{re.escape(name)}'.*reason='not here'"
        wait_for(lambda line=line: re.search(line, node.log()), line)  # type: ignore[misc]


def test_a_token_counts_for_what_comes_behind_it(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    held = rules.hold(channel)
    with socket(node) as found:
        found.send(json.dumps({"id": 1, "cmd": "publish", "channel": channel, "data": 1}))
        found.send(json.dumps({"id": 2, "cmd": "auth", "token": token(publish=[channel])}))
        found.send(json.dumps({"id": 3, "cmd": "publish", "channel": channel, "data": 2}))
        wait_for(lambda: application.of("publish", channel), "the first is asked about")
        assert json.loads(found.recv(60))["id"] == 2
        held.set()
        assert sorted(json.loads(found.recv(60))["id"] for _ in range(2)) == [1, 3]
    assert past(node, channel) == [1, 2] and len(application.of("publish", channel)) == 1


@pytest.mark.parametrize("action", ["serve", "subscribe"])
def test_what_lasts_is_judged_by_the_token_by_which_it_lasts(
    node: Daemon, rules: Rules, application: Application, channel: str, action: str
) -> None:
    """Another token may come while an ask waits behind one about which the application is asked."""
    held = rules.hold(channel)
    rules.answers[f"subscribe {channel}"] = {"allow": False}
    claims: dict[str, Any] = {action: [channel]}
    with socket(node, **bearer(token(**claims))) as found:
        found.send(json.dumps({"id": 1, "cmd": "publish", "channel": channel, "data": 1}))
        found.send(json.dumps({"id": 2, "cmd": action, "channel": channel}))
        wait_for(lambda: application.of("publish", channel), "it is asked about")
        assert "error" not in command(found, 3, cmd="auth", token=token(history=[channel]))
        held.set()
        told = {reply["id"]: reply for reply in (json.loads(found.recv(60)) for _ in range(2))}
        assert "error" not in told[1] and told[2]["error"]["code"] == 403


def test_filters_hold_on_each_transport(node: Daemon, rules: Rules, channel: str) -> None:
    rules.answers[channel] = {"allow": True, "filters": {"team": "red"}}
    serve(node, channel, BLUE)
    serve(node, channel, RED)
    for path in (f"/{channel}", f"/{channel}?_since=earliest"):
        with Stream(node, path) as stream:
            serve(node, channel, BLUE)
            serve(node, channel, RED)
            assert stream.value() == stream.value() if "since" in path else stream.value() == RED
    _, _, answer = node.request("GET", f"/{channel}?_wait=0&_since=earliest")
    assert {json.dumps(each["data"]) for each in json.loads(answer)["messages"]} == {json.dumps(RED)}
    assert node.request("GET", f"/{channel}?_wait=0&_since=earliest&team=blue")[0] == 204, "besides the client's own"
    _, _, page = node.request("GET", f"/-/channels/{channel}/history")
    assert [each["data"] for each in json.loads(page)["messages"]] == [RED] * 3
    with socket(node, f"/{channel}") as found:
        serve(node, channel, BLUE)
        serve(node, channel, RED)
        assert json.loads(found.recv(60)) == RED
    with socket(node) as found:
        assert [each["data"] for each in command(found, cmd="history", channel=channel)["messages"]] == [RED] * 4
        assert "error" not in command(found, cmd="subscribe", channel=channel)
        serve(node, channel, BLUE)
        serve(node, channel, RED)
        assert json.loads(found.recv(60))["data"] == RED
        assert command(found, cmd="subscribe", channel=channel, durable="d")["error"]["code"] == 403
    assert node.request("GET", f"/{channel}?_durable=d&_wait=0")[0] == 403


def test_each_channel_has_its_own_filters(node: Daemon, rules: Rules, channel: str) -> None:
    rules.answers[channel] = {"allow": True, "filters": {"team": "red"}}
    with Stream(node, f"/-/subscribe?channel={channel}&channel={channel}.b") as stream:
        for name in (channel, channel + ".b"):
            serve(node, name, BLUE)
            serve(node, name, RED)
        got = [stream.value() for _ in range(3)]
    assert [(each["channel"], each["data"]) for each in got] == [
        (channel, RED), (channel + ".b", BLUE), (channel + ".b", RED),
    ]  # fmt: skip


def test_a_pattern_is_asked_about_as_such(node: Daemon, rules: Rules, application: Application, channel: str) -> None:
    rules.answers[channel + ".x.*"] = {"allow": False}
    for pattern, status in ((f"{channel}.*", 200), (f"{channel}.x.*", 403)):
        with Stream(node, f"/{pattern}") as stream:
            assert stream.status == status
        assert len(application.of("subscribe", pattern)) == 1


def test_acknowledgements_are_not_asked_about(node: Daemon, application: Application, channel: str) -> None:
    with socket(node) as found:
        assert "error" not in command(found, cmd="subscribe", channel=channel, durable="d", ack=True)
        for number in range(3):
            serve(node, channel, number)
            cursor = json.loads(found.recv(60))["cursor"]
            assert command(found, cmd="ack", channel=channel, durable="d", cursor=cursor)["acknowledged"] == 1
        assert len(application.of("subscribe", channel)) == 1
        assert "error" not in command(found, cmd="unsubscribe", channel=channel, durable="d")
        wait_for(lambda: application.of("unsubscribe", channel), "its end is told")
        other = command(found, cmd="ack", channel=channel + ".b", durable="d", cursor=cursor)
        assert other["error"]["code"] == 404


def test_a_session_is_asked_about_when_it_is_resumed(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    with socket(node) as found:
        command(found, cmd="subscribe", channel=channel)
        session = command(found, cmd="session")["session"]
    with socket(node) as found:
        assert command(found, cmd="resume", session=session)["subscriptions"].keys() == {channel}
        assert len(application.of("subscribe", channel)) == 2
    rules.answers[channel] = {"allow": False}
    with socket(node) as found:
        assert command(found, cmd="resume", session=session)["error"]["code"] == 403
    rules.answers[channel] = {"allow": True, "filters": {"team": "red"}}
    with socket(node) as found:
        assert "error" not in command(found, cmd="resume", session=session)
        serve(node, channel, BLUE)
        serve(node, channel, RED)
        assert json.loads(found.recv(60))["data"] == RED


def test_another_token_is_asked_about(node: Daemon, rules: Rules, application: Application, channel: str) -> None:
    rules.answers[channel] = lambda asked: {"allow": asked["client"]["info"] != "banned"}
    permits: dict[str, Any] = {"subscribe": ["elsewhere"]}
    with socket(node, **bearer(token(**permits))) as found:
        for name in (channel, channel + ".b"):
            assert "error" not in command(found, cmd="subscribe", channel=name)
        assert "error" not in command(found, cmd="auth", token=token(info="banned", **permits))
        assert json.loads(found.recv(60)) == {"channel": channel, "ended": True}
        serve(node, channel + ".b", 1)
        assert json.loads(found.recv(60))["channel"] == channel + ".b"


def test_a_token_that_is_revoked_meanwhile(node: Daemon, rules: Rules, application: Application, channel: str) -> None:
    """What its client has asked for is not done, whatever the delegate says."""
    held = rules.hold(channel)
    eve = bearer(token("eve", subscribe=["elsewhere"]))
    with ThreadPoolExecutor(2) as pool:
        posted = pool.submit(post, node, channel, 1, **eve)
        polled = pool.submit(node.request, "GET", f"/{channel}?_wait=0", None, eve)
        wait_for(lambda: application.of("publish", channel) and application.of("subscribe", channel), "it is asked")
        assert node.request("POST", "/-/revoke", '{"sub": "eve"}', {**JSON, **bearer(KEY)})[0] == 200
        held.set()
        assert (posted.result(), polled.result()[0]) == (401, 401)
    assert past(node, channel) == []


# Order.


def test_publishes_of_a_socket_keep_their_order(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    """The first question is slower than those behind it, and one behind it needs none."""
    first = threading.Event()
    rules.answers[f"publish {channel}"] = lambda asked: (
        {"allow": first.wait(60)} if asked["data"] == 0 else {"allow": True}
    )
    headers = bearer(token(publish=[channel + ".mine"]))
    with Stream(node, f"/-/subscribe?channel={channel}&channel={channel}.mine", bearer(KEY)) as stream:
        with socket(node, **headers) as found:
            for number in range(20):
                name = channel if number != 5 else channel + ".mine"
                found.send(json.dumps({"id": number, "cmd": "publish", "channel": name, "data": number}))
            wait_for(lambda: len(application.of("publish", channel)) > 10, "others are asked meanwhile")
            assert past(node, channel) == past(node, channel + ".mine") == [], "nothing is done before the answer"
            first.set()
            assert sorted(json.loads(found.recv(60))["id"] for _ in range(20)) == list(range(20))
        got = [stream.value() for _ in range(20)]
        assert [each["data"] for each in got if each["channel"] == channel] == [*range(5), *range(6, 20)]
    first.clear()
    with Stream(node, f"/{channel}", bearer(KEY)) as stream, socket(node, f"/{channel}") as found:
        for number in range(20):
            found.send(str(number))
        wait_for(lambda: len(application.of("publish", channel)) > 30, "others are asked meanwhile")
        first.set()
        assert [stream.value() for _ in range(20)] == list(range(20))


def test_pipelined_requests_keep_their_order(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    first = threading.Event()
    rules.answers[f"publish {channel}"] = lambda asked: (
        {"allow": first.wait(60)} if asked["data"] == 0 else {"allow": True}
    )
    with node.connect() as sock:
        for number in range(8):
            head = f"POST /{channel} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n"
            sock.sendall(head.encode() + str(number).encode())
        wait_for(lambda: application.of("publish", channel), "the first is asked about")
        first.set()
        with sock.makefile("rb") as answers:
            assert [answers.readline() for _ in range(1)] == [b"HTTP/1.1 200 OK\r\n"]
            wait_for(lambda: len(past(node, channel)) == 8, "all are published")
    assert past(node, channel) == list(range(8))


def test_commands_are_done_in_their_order(node: Daemon, rules: Rules, application: Application, channel: str) -> None:
    held = rules.hold(channel)
    with socket(node) as found:
        found.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": channel}))
        found.send(json.dumps({"id": 2, "cmd": "unsubscribe", "channel": channel}))
        wait_for(lambda: application.of("subscribe", channel), "it is asked about")
        held.set()
        replies = {reply["id"]: reply for reply in (json.loads(found.recv(60)) for _ in range(2))}
        assert not any("error" in reply for reply in replies.values())
    wait_for(lambda: application.of("unsubscribe", channel), "its end is told")


def test_questions_of_one_socket_are_under_way_together(node: Daemon, rules: Rules, application: Application) -> None:
    names = [f"together.{number}" for number in range(10)]
    held = [rules.hold(name) for name in names]
    with socket(node) as found:
        for name in names:
            found.send(json.dumps({"id": name, "cmd": "subscribe", "channel": name}))
        wait_for(lambda: all(application.of("subscribe", name) for name in names), "all are asked about")
        for event in reversed(held):
            event.set()
        assert {json.loads(found.recv(60))["id"] for _ in names} == set(names)


def test_much_at_once_is_asked_about_little_by_little(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    count = 3000
    rules.answers[f"publish {channel}"] = lambda asked: {
        "allow": True,
        **({"ttl": 600} if asked["data"] == 100 else {}),
    }
    with Stream(node, f"/{channel}", bearer(KEY)) as stream, socket(node, f"/{channel}") as found:
        threading.Thread(target=lambda: [found.send(str(number)) for number in range(count)], daemon=True).start()
        assert [stream.value() for _ in range(count)] == list(range(count))
    assert application.most <= 60


def test_what_was_sent_before_a_socket_closed_is_published(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    held = rules.hold(channel)
    with socket(node) as found:
        found.send(json.dumps({"cmd": "publish", "channel": channel, "data": 1}))
        found.send(json.dumps({"cmd": "subscribe", "channel": channel + ".b"}))
    wait_for(lambda: application.of("publish", channel), "it is asked about")
    held.set()
    wait_for(lambda: past(node, channel) == [1], "it is published")


def test_nothing_more_is_asked_for_a_client_that_has_gone(
    node: Daemon, rules: Rules, application: Application, channel: str
) -> None:
    names = [f"{channel}.{number}" for number in range(50)]
    held = [rules.hold(name) for name in names]
    with socket(node) as found:
        for name in names:
            found.send(json.dumps({"cmd": "subscribe", "channel": name}))
        found.send(json.dumps({"cmd": "publish", "channel": channel, "data": 1}))
        wait_for(lambda: application.of("subscribe", names[15]), "some are asked about")
    for event in held:
        event.set()
    wait_for(lambda: past(node, channel) == [1], "it is published")
    assert len([name for name in names if application.of("subscribe", name)]) == 16


# The end of an answer's time.


@pytest.fixture
def short(rules: Rules, channel: str) -> Callable[[Any], None]:
    """Lets the answer about the test's channel hold for a second; called, it changes the next one."""
    rules.answers[channel] = {"allow": True, "ttl": 1}

    def change(answer: Any) -> None:
        rules.answers[channel] = answer

    return change


def test_a_subscription_is_asked_about_again(
    node: Daemon, application: Application, channel: str, short: Callable[[Any], None]
) -> None:
    with (
        Stream(node, f"/{channel}") as stream,
        socket(node, f"/{channel}") as own,
        socket(node) as commands,
    ):
        assert "error" not in command(commands, cmd="subscribe", channel=channel)
        assert "error" not in command(commands, cmd="subscribe", channel=channel + ".b")
        asked = len(application.of("subscribe", channel))
        wait_for(lambda: len(application.of("subscribe", channel)) >= asked + 2, "it is asked about again and again")
        short((500, {}))
        seen = len(application.of("subscribe", channel))
        wait_for(lambda: len(application.of("subscribe", channel)) > seen, "it is asked about while it fails")
        serve(node, channel, 1)
        assert stream.value() == json.loads(own.recv(60)) == json.loads(commands.recv(60))["data"] == 1, "they stay"
        short({"allow": False, "reason": "you have left"})
        assert stream.line() == b""
        with pytest.raises(ConnectionClosed) as closed:
            own.recv(60)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4503, "you have left")
        assert json.loads(commands.recv(60)) == {"channel": channel, "ended": True}
        serve(node, channel + ".b", 2)
        assert json.loads(commands.recv(60))["data"] == 2


def test_other_filters_end_a_subscription_so_that_it_comes_back(
    node: Daemon, application: Application, channel: str, short: Callable[[Any], None]
) -> None:
    with socket(node, f"/{channel}") as own:
        short({"allow": True, "filters": {"team": "red"}})
        with pytest.raises(ConnectionClosed) as closed:
            own.recv(60)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401


# Settings.


def test_a_reload_asks_another_url(start: Callable[..., Daemon], tmp_path: Any) -> None:
    path = tmp_path / "raiden.conf.py"
    with Application(lambda _: {"allow": True, "ttl": 600}) as one, Application(lambda _: {"allow": False}) as two:
        path.write_text(f"delegate = {{'url': {one.url!r}}}\n")
        found = start(config=path)
        assert post(found, "a", 1) == 200
        path.write_text(f"delegate = {{'url': {two.url!r}}}\n")
        found.signal(SIGHUP)
        wait_for(lambda: post(found, "a", 1) == 403, "the other one is asked, whatever the first one said")
        path.write_text("delegate = {'url': 'http://app.example/'}\n")
        found.signal(SIGHUP)
        wait_for(lambda: "not reloaded: delegate: url is https" in found.log(), "it is refused")
        path.write_text("")
        found.signal(SIGHUP)
        wait_for(lambda: post(found, "a", 1) == 200, "there is none")


def test_a_node_with_a_delegate_may_be_open_to_the_world(application: Application) -> None:
    from raiden.node import config

    config.load(overrides=["http_host = '0.0.0.0'", f"delegate = {{'url': {application.url!r}}}"], environ={})


def test_a_credential_of_the_applications_own(node: Daemon, start: Callable[..., Daemon]) -> None:
    def decide(question: dict[str, Any]) -> dict[str, Any]:
        return {"allow": question["client"]["headers"].get("authorization") == "Bearer opaque", "status": 401}

    with Application(decide) as application:
        delegate = {"url": application.url, "headers": ["authorization"]}
        found = start(delegate=delegate)
        assert post(found, "a", 1, Authorization="Bearer opaque") == 200
        assert post(node, "a", 1, Authorization="Bearer opaque") == 401, "where there are keys, it is one of these"
        assert post(found, "a", 1, Authorization="Basic b3BhcXVl") == post(found, "a", 1) == 401


def test_what_has_no_event_is_left_to_tokens(start: Callable[..., Daemon]) -> None:
    with Application(lambda _: {"allow": True}) as application:
        found = start(delegate={"url": application.url, "events": ["subscribe"]}, jwt_keys=JWT_KEYS)
        assert post(found, "a", 1) == 401 and post(found, "a", 1, **bearer(token())) == 200
        with Stream(found, "/a") as stream:
            assert stream.status == 200
        assert [each["event"] for each in application.questions] == ["subscribe"]
