"""Who may do what, by every door and every command: each is held against each kind of caller."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGHUP
from typing import Any

import jwt
import pytest
import zmq
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from raiden.http import reader
from raiden.node import config
from raiden.sessions import asks, commands, needs
from raiden.sessions.needs import PUBLIC_PAGES
from tests import daemons
from tests.application import Application
from tests.callers import (
    ALL,
    CALLERS,
    CALLERS_BY,
    JSON,
    ONLY_ELSEWHERE,
    Door,
    by_http,
    judge,
    revoke,
    shown,
    stream,
)
from tests.daemons import Daemon, Stream, wait_for
from tests.tokens import API_KEYS, JWT_KEYS, KEY, OTHER, SECRET, SMALL_KEY, bearer, token
from tests.zeromq import OPEN, Clients, Pair, ask, refusal

SERVER, RIGHT, ELSEWHERE = (Pair.make() for _ in range(3))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "doors.key").write_bytes(SERVER.secret + b"\n")
    found = Daemon(
        folder / "node", workers=2, jwt_keys=JWT_KEYS, api_keys=API_KEYS, zmq_key=str(folder / "doors.key"),
        channels={"*": {}, "secret": {"subscribe": "nobody"}, "open.*": {"subscribe": "anyone", "publish": "anyone"}},
        zmq_keys={
            RIGHT.name: {"name": "right", **ALL}, ELSEWHERE.name: {"name": "elsewhere", **ONLY_ELSEWHERE},
        },
        **OPEN,
    )  # fmt: skip
    revoke(found)
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()
    for secret in (KEY, SMALL_KEY, token()[:60]):
        assert secret not in found.log(), "a log shows no credential"


def stream_by_query(node: Daemon, channel: str, credential: str | None) -> int:
    with Stream(node, f"/{channel}" + ("" if credential is None else f"?_token={credential}")) as found:
        return found.status


def by_websocket(path: str) -> Door:
    def door(node: Daemon, channel: str, credential: str | None) -> int:
        url = f"ws://127.0.0.1:{node.port}{path.replace('CHANNEL', channel)}"
        try:
            with connect(url, proxy=None, additional_headers=bearer(credential)):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    return door


def by_subprotocol(node: Daemon, channel: str, credential: str | None) -> int:
    offered = ["raiden"] if credential is None else ["raiden", f"raiden.token.{credential}"]
    try:
        with connect(f"ws://127.0.0.1:{node.port}/{channel}", proxy=None, subprotocols=offered) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "raiden"
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def by_command(**command: Any) -> Door:
    """A command on a socket that was opened without a credential: `auth` brings it."""

    def door(node: Daemon, channel: str, credential: str | None) -> int:
        with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
            if credential is not None:
                socket.send(json.dumps({"id": 1, "cmd": "auth", "token": credential}))
                reply = json.loads(socket.recv(20))
                if "error" in reply:
                    code: int = reply["error"]["code"]
                    return code
            socket.send(json.dumps({"id": 2, **command}).replace("CHANNEL", channel))
            while (reply := json.loads(socket.recv(20))).get("id") != 2:
                pass
            return reply["error"]["code"] if "error" in reply else 200

    return door


def frame_on_a_channels_socket(node: Daemon, channel: str, credential: str | None) -> int:
    """A client that may subscribe, and publishes by a frame if the credential permits that."""
    if credential is None or CALLERS_BY[credential][1] == 401:
        return by_websocket("/CHANNEL")(node, channel, credential)
    headers = bearer(credential if CALLERS_BY[credential][1] == 200 else token(subscribe=["*"]))
    with connect(f"ws://127.0.0.1:{node.port}/{channel}", proxy=None, additional_headers=headers) as socket:
        socket.send('{"team":"red"}')
        try:
            return 200 if socket.recv(20) == '{"team":"red"}' else 500
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 4503
            return 403


def page_of_webhooks(node: Daemon, channel: str, credential: str | None) -> int:
    """The page tells those who may see it that the node has no webhooks."""
    status = by_http("GET", "/-/webhooks")(node, channel, credential)
    return 200 if status == 404 else status


BATCH = {"Content_Type": "application/x-ndjson"}
TO_MANY = '{"channels": ["CHANNEL"], "data": 1}'
# Doors by which something is published: what is refused is not there afterwards.
PUBLISHING: dict[str, Door] = {
    "streaming publish": by_http("POST", "/CHANNEL?_stream=1", "1"),
    "publish": by_http("POST", "/CHANNEL", "1", Content_Type="application/json"),
    "publish a batch": by_http("POST", "/CHANNEL", "1\n2", **BATCH),
    "publish text": by_http("POST", "/CHANNEL", "a", Content_Type="text/plain"),
    "publish a form": by_http("POST", "/CHANNEL", "a=b", Content_Type="application/x-www-form-urlencoded"),
    "publish bytes": by_http("POST", "/CHANNEL", "a", Content_Type="application/octet-stream"),
    "publish under a key": by_http("POST", "/CHANNEL", "1", Content_Type="application/json", Idempotency_Key="k"),
    "publish to many": by_http("POST", "/-/publish", TO_MANY, Content_Type="application/json"),
    "command publish": by_command(cmd="publish", channel="CHANNEL", data=1),
    "a frame": frame_on_a_channels_socket,
}
OTHERS: dict[str, Door] = {
    "delete": by_http("DELETE", "/CHANNEL"),
    "stream": stream("/CHANNEL"),
    "stream with the token in the query": stream_by_query,
    "stream of several": stream("/-/subscribe?channel=CHANNEL&channel=CHANNEL"),
    "events": stream("/CHANNEL", Accept="text/event-stream"),
    "stream from the past": stream("/CHANNEL?_since=earliest"),
    "poll": by_http("GET", "/CHANNEL?_wait=0"),
    "durable poll": by_http("GET", "/CHANNEL?_durable=d&_wait=0"),
    "websocket": by_websocket("/CHANNEL"),
    "websocket by subprotocol": by_subprotocol,
    "websocket from the past": by_websocket("/CHANNEL?_last=1"),
    "page of history": by_http("GET", "/-/channels/CHANNEL/history"),
    "page of a channel": by_http("GET", "/-/channels/CHANNEL"),
    "page of who is there": by_http("GET", "/-/channels/CHANNEL/presence"),
    "events of who is there": stream("/CHANNEL?_presence=1", Accept="text/event-stream"),
    "poll of who is there": by_http("GET", "/CHANNEL?_wait=0&_presence=1"),
    "websocket of who is there": by_websocket("/CHANNEL?_wrap=1&_presence=1"),
    "command subscribe": by_command(cmd="subscribe", channel="CHANNEL"),
    "command presence": by_command(cmd="presence", channel="CHANNEL"),
    "command subscribe to who is there": by_command(cmd="subscribe", channel="CHANNEL", presence=True),
    "command subscribe from the past": by_command(cmd="subscribe", channel="CHANNEL", last=1),
    "command subscribe durably": by_command(cmd="subscribe", channel="CHANNEL", durable="d"),
    "command history": by_command(cmd="history", channel="CHANNEL"),
    "command unsubscribe and forget": by_command(cmd="unsubscribe", channel="CHANNEL", durable="d", forget=True),
}
# Doors of requests and replies; nobody serves, so a request that is allowed is 503.
ASKING: dict[str, Door] = {
    "request": by_http("POST", "/CHANNEL?_request=5", "1", Content_Type="application/json"),
    "command request": by_command(cmd="request", channel="CHANNEL", data=1),
}
SERVING: dict[str, Door] = {
    "serve by a poll": by_http("GET", "/CHANNEL?_serve=1&_wait=0"),
    "command serve": by_command(cmd="serve", channel="CHANNEL"),
}
# Doors to what is told of all channels: a client that may do all with one of them may not.
WIDE: dict[str, Door] = {
    "stream of a pattern": stream("/CHANNEL*"),
    "websocket of a pattern": by_websocket("/CHANNEL*"),
    "command subscribe to a pattern": by_command(cmd="subscribe", channel="CHANNEL*"),
    "metrics": by_http("GET", "/-/metrics"),
    "nodes": by_http("GET", "/-/nodes"),
    "channels": by_http("GET", "/-/channels"),
    "durables": by_http("GET", "/-/durables"),
    "webhooks": page_of_webhooks,
    "revoke": by_http("POST", "/-/revoke", '{"sub": "nobody"}'),
    "disconnect": by_http("POST", "/-/disconnect", '{"sub": "nobody"}'),
}
# Doors that can't filter what they give.
WITHOUT_FILTERS = ("durable poll", "command subscribe durably")


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("door", PUBLISHING)
def test_publishing(node: Daemon, door: str, caller: str) -> None:
    channel = f"publishing.{door}.{caller}".replace(" ", "-")
    credential, status = shown(caller, channel)
    judge(PUBLISHING[door](node, channel, credential), status)
    _, _, page = node.request("GET", f"/-/channels/{channel}/history", headers=bearer(KEY))
    assert bool(json.loads(page)["messages"]) == (status == 200), "a refusal comes before any effect"


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("door", OTHERS)
def test_other_doors(node: Daemon, door: str, caller: str) -> None:
    channel = f"others.{door}.{caller}".replace(" ", "-")
    publish(node, channel)
    credential, status = shown(caller, channel)
    if caller == "right with filters" and door in WITHOUT_FILTERS:
        status = 403
    judge(OTHERS[door](node, channel, credential), status)
    if door == "delete":
        _, _, page = node.request("GET", f"/-/channels/{channel}/history", headers=bearer(KEY))
        assert bool(json.loads(page)["messages"]) == (status != 200)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("door", ASKING | SERVING)
def test_requests_and_replies(node: Daemon, door: str, caller: str) -> None:
    channel = f"{door}.{caller}".replace(" ", "-")
    credential, status = shown(caller, channel)
    status = 503 if door in ASKING and status == 200 else status
    judge((ASKING | SERVING)[door](node, channel, credential), status)


@pytest.mark.parametrize("caller", CALLERS)
def test_an_answer_is_for_the_owner_of_the_request(node: Daemon, caller: str) -> None:
    """A request that the server with the API key has taken."""
    channel = f"answered.{caller}".replace(" ", "-")
    credential, status = shown(caller, channel)
    with ThreadPoolExecutor(2) as pool:
        taken = pool.submit(node.request, "GET", f"/{channel}?_serve=1&_wait=20", None, bearer(KEY))
        wait_for(lambda: pool.submit(node.request, "POST", f"/{channel}?_request=0.2", "1", {**JSON, **bearer(KEY)})
                 .result()[0] == 504, "it is asked")  # fmt: skip
        id = taken.result()[1]["raiden-request"]
    late = node.request("POST", f"/-/answer/{id}", "1", {**JSON, **bearer(credential)})[0]
    # The request is over by now: only its owner is told so.
    wanted = 410 if caller == "API key" else 403 if status == 200 or credential is None else status
    assert late == wanted


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("door", WIDE)
def test_doors_to_more_than_one_channel(node: Daemon, door: str, caller: str) -> None:
    channel = f"wide.{door}.{caller}".replace(" ", "-")
    credential, status = shown(caller, channel)
    judge(WIDE[door](node, channel, credential), 403 if caller == "right by name" else status)


# The same doors where a delegate decides what tokens don't: each caller's token or key, and the answer that it gets.
# The delegate decides by the caller's name, which is a part of the channel's.

DELEGATED: dict[str, tuple[str | None, int]] = {
    "allowed": (None, 200),
    "allowed besides a token": (token(**ONLY_ELSEWHERE), 200),
    "refused": (None, 403),
    "to log in": (None, 401),
    "refused besides a token": (token(**ONLY_ELSEWHERE), 403),
}
# These are settled without a question.
SETTLED: dict[str, tuple[str | None, int]] = {
    "allowed but with nonsense": ("nonsense", 401),
    "allowed but with another API key": (SMALL_KEY, 403),
    "right": (token(), 200),
    "API key": (KEY, 200),
}
# A delegate is not asked who manages, nor who sees who is there: callers without a token for that get these.
MANAGING = {
    "delete", "page of a channel", "command unsubscribe and forget", "metrics", "nodes", "channels", "durables",
    "webhooks", "revoke", "disconnect", *[door for door in OTHERS if "who is there" in door], "command presence",
}  # fmt: skip


def decide(question: dict[str, Any]) -> dict[str, Any]:
    channel = question.get("channel", "")
    return {"allow": "allowed" in channel, "status": 401 if "to-log-in" in channel else 403}


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    with Application(decide) as found:
        yield found


@pytest.fixture(scope="module")
def delegating(tmp_path_factory: pytest.TempPathFactory, application: Application) -> Iterator[Daemon]:
    found = Daemon(
        tmp_path_factory.mktemp("delegating"), workers=2, jwt_keys=JWT_KEYS, api_keys=API_KEYS,
        channels={"*": {}, "closed.*": {"subscribe": "nobody", "publish": "nobody"}},
        delegate={"url": application.url, "timeout": 30, "events": ["subscribe", "publish"]},
    )  # fmt: skip
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log() and "hidden" not in found.log(), found.log()


def frame(node: Daemon, channel: str, credential: str | None) -> int:
    """Publish by a frame on the channel's own socket."""
    url = f"ws://127.0.0.1:{node.port}/{channel}"
    try:
        with connect(url, proxy=None, additional_headers=bearer(credential)) as socket:
            socket.send("1")
            return 200 if socket.recv(20) == "1" else 500
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize("caller", DELEGATED | SETTLED)
@pytest.mark.parametrize("door", PUBLISHING | OTHERS | WIDE)
def test_what_a_delegate_decides(delegating: Daemon, application: Application, door: str, caller: str) -> None:
    channel = f"{door}.{caller}".replace(" ", "-")
    credential, status = (DELEGATED | SETTLED)[caller]
    if door in MANAGING and caller in DELEGATED:
        status = 401 if credential is None else 403
    if door in OTHERS:
        publish(delegating, channel)
    do = frame if door == "a frame" else (PUBLISHING | OTHERS | WIDE)[door]
    judge(do(delegating, channel, credential), status)
    asked = application.of("subscribe", channel) + application.of("subscribe", channel + "*")
    asked += application.of("publish", channel)
    assert bool(asked) == (caller in DELEGATED and door not in MANAGING)
    sub = None if credential is None else "ann"
    assert all(each["client"]["sub"] == sub for each in asked)
    if door in PUBLISHING:
        _, _, page = delegating.request("GET", f"/-/channels/{channel}/history", headers=bearer(KEY))
        assert bool(json.loads(page)["messages"]) == (status == 200), "a refusal comes before any effect"


@pytest.mark.parametrize("door", ["publish", "a frame", "command publish", "stream", "poll", "command subscribe"])
def test_what_is_for_nobody_is_not_asked(delegating: Daemon, application: Application, door: str) -> None:
    channel = f"closed.allowed.{door}".replace(" ", "-")
    do = frame if door == "a frame" else (PUBLISHING | OTHERS)[door]
    assert do(delegating, channel, None) == 403
    assert not [each for each in application.questions if each.get("channel") == channel]


def test_every_command_is_in_a_table() -> None:
    told = {"subscribe", "publish", "history", "presence", "unsubscribe", "auth", "request", "serve"}
    # Commands about what the client has got by the others.
    of_ones_own = {"ack", "nack", "session", "resume", "ping", "hello", "unserve", "answer"}
    assert told | of_ones_own == set(commands._COMMANDS)


def test_every_ask_and_every_page_is_in_a_table(node: Daemon) -> None:
    """A new ask must be given its needs; a new page must be named to those that look for one that is not there."""
    names = (
        f"{asks.Ask} | {asks.Command}".replace("raiden.sessions.asks.", "")
        .replace("raiden.model.page.", "")
        .split(" | ")
    )
    assert {getattr(asks, name) for name in names} == set(needs._NEEDS)
    _, _, answer = node.request("GET", "/-/none", headers=bearer(KEY))
    named = set(re.findall(r"/-/(\w+)", json.loads(answer)["detail"]))
    assert named == {*PUBLIC_PAGES, *WIDE} & named | {"publish", "subscribe", "websocket", "answer"}
    assert named >= reader._MANAGING.keys()


@pytest.mark.parametrize("page", sorted(PUBLIC_PAGES))
def test_pages_for_anyone(node: Daemon, page: str) -> None:
    assert node.request("GET", f"/-/{page}")[0] == 200


def publish(node: Daemon, channel: str, value: Any = 1) -> None:
    headers = {**JSON, **bearer(KEY)}
    assert node.request("POST", f"/{channel}", json.dumps(value), headers)[0] == 200


# Channels that are for anyone, or for nobody.


def test_what_is_for_anyone_needs_no_token_and_takes_no_bad_one(node: Daemon) -> None:
    assert node.request("POST", "/open.a", "1", JSON)[0] == 200
    with Stream(node, "/open.*") as found:
        assert found.status == 200
    assert node.request("POST", "/open.a", "1", {**JSON, **bearer("nonsense")})[0] == 401
    assert node.request("GET", "/-/channels/open.a/history")[0] == 401


def test_what_is_for_nobody_is_for_nobody(node: Daemon) -> None:
    for path in ("/secret", "/sec*", "/*"):
        with Stream(node, path, bearer(KEY)) as found:
            assert found.status == 403, path
    publish(node, "secret")


# Heads that are remembered.


def test_a_remembered_head_publishes_no_further_than_its_token(node: Daemon) -> None:
    """The second request of a head takes the short way."""
    headers = {**JSON, **bearer(token(publish=["mine.*"]))}
    connection = node.open()
    for _ in range(4):
        for channel, status in (("mine.a", 200), ("theirs", 403), ("mine.b", 200)):
            connection.request("POST", f"/{channel}", "1", headers)
            response = connection.getresponse()
            response.read()
            assert response.status == status
    connection.close()


def test_a_remembered_head_ends_with_its_token(node: Daemon) -> None:
    headers = {**JSON, **bearer(token(lasts=-8))}  # the leeway is 10 s
    connection = node.open()

    def refused() -> bool:
        connection.request("POST", "/mine", "1", headers)
        response = connection.getresponse()
        response.read()
        assert response.status in (200, 401)
        return response.status == 401

    assert not refused()
    wait_for(refused, "the token has ended")
    connection.close()


# The end of a token.


def test_a_streams_end(node: Daemon) -> None:
    with Stream(node, "/a", {"Accept": "text/event-stream", **bearer(token(lasts=-8))}) as found:
        assert (found.status, found.line(), found.line(), found.line()) == (200, b"event: expired", b"data: {}", b"")
    with Stream(node, "/a?_wrap=1", bearer(token(lasts=-8))) as found:
        assert (found.value(), found.line()) == ({"expired": True}, b"")
    with Stream(node, "/a", bearer(token(lasts=-8))) as found:
        assert found.line() == b""


def test_a_polls_end(node: Daemon) -> None:
    status, told, answer = node.request("GET", "/a?_wait=60", headers=bearer(token(lasts=-8)))
    assert status == 401 and "invalid_token" in told["www-authenticate"] and json.loads(answer)["status"] == 401
    assert told["content-type"] == "application/problem+json"


def test_a_sockets_end(node: Daemon) -> None:
    for path in ("/a", "/-/websocket"):
        headers = bearer(token(lasts=-8))
        with connect(f"ws://127.0.0.1:{node.port}{path}", proxy=None, additional_headers=headers) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    socket.recv(30)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401


def command(socket: Any, **members: Any) -> Any:
    socket.send(json.dumps({"id": 1, **members}))
    while (reply := json.loads(socket.recv(20))).get("id") != 1:
        pass
    return {name: value for name, value in reply.items() if name != "id"}


def test_a_token_is_renewed_without_a_gap(node: Daemon) -> None:
    headers = bearer(token(lasts=22))  # and the leeway
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None, additional_headers=headers) as socket:
        for name in ("kept", "lost"):
            assert "error" not in command(socket, cmd="subscribe", channel=name)
        told = json.loads(socket.recv(20))
        assert told.keys() == {"expires"} and 20 < told["expires"] <= 30, "half a minute before"
        socket.send(json.dumps({"id": 1, "cmd": "auth", "token": token(subscribe=["kept"], lasts=600)}))
        assert json.loads(socket.recv(20)) == {"channel": "lost", "ended": True}
        assert 590 <= json.loads(socket.recv(20))["expires"] <= 610
        publish(node, "kept", 7)
        publish(node, "lost", 8)
        pushed = json.loads(socket.recv(20))
        assert (pushed["channel"], pushed["data"]) == ("kept", 7)
        assert command(socket, cmd="subscribe", channel="lost")["error"]["code"] == 403


def test_a_subscription_that_a_new_token_does_not_permit_ends(node: Daemon) -> None:
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None, additional_headers=bearer(token())) as socket:
        command(socket, cmd="subscribe", channel="a")
        command(socket, cmd="subscribe", channel="b", durable="d")
        socket.send(json.dumps({"id": 9, "cmd": "auth", "token": token(subscribe=["c"])}))
        told = [json.loads(socket.recv(20)) for _ in range(3)]
        assert told[:2] == [
            {"channel": "a", "ended": True}, {"channel": "b", "durable": "d", "ended": True},
        ]  # fmt: skip
        assert told[2]["id"] == 9 and "error" not in told[2]


def test_only_the_same_subject_renews(node: Daemon) -> None:
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None, additional_headers=bearer(token())) as socket:
        assert command(socket, cmd="auth", token=token("bob"))["error"]["code"] == 401
        assert command(socket, cmd="auth", token="nonsense")["error"]["code"] == 401
        assert command(socket, cmd="auth", token=1)["error"]["code"] == 400
        assert "error" not in command(socket, cmd="subscribe", channel="a"), "what was shown first still holds"


def test_a_session_is_its_subjects(node: Daemon) -> None:
    url = f"ws://127.0.0.1:{node.port}/-/websocket"
    with connect(url, proxy=None, additional_headers=bearer(token("ann"))) as socket:
        command(socket, cmd="subscribe", channel="a")
        session = command(socket, cmd="session")["session"]
    for credential in (token("bob"), KEY, None):
        with connect(url, proxy=None, additional_headers=bearer(credential)) as socket:
            assert command(socket, cmd="resume", session=session)["error"]["code"] == 404
    with connect(url, proxy=None, additional_headers=bearer(token("ann", subscribe=["b"]))) as socket:
        assert command(socket, cmd="resume", session=session)["error"]["code"] == 403
    with connect(url, proxy=None, additional_headers=bearer(token("ann"))) as socket:
        assert command(socket, cmd="resume", session=session)["subscriptions"].keys() == {"a"}


# Cookies.


def test_a_cookie_is_for_pages_that_may_use_the_server(start: Callable[..., Daemon]) -> None:
    node = start(jwt_keys=JWT_KEYS, token_cookie="t", allowed_origins=["https://app.example"])
    cookie = {"Cookie": f"a=b; t={token()}"}

    def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return node.request("GET", "/a?_wait=0", headers={**cookie, **named})[0]

    assert status() == status(Sec_Fetch_Site="same-origin") == status(Sec_Fetch_Site="none") == 204
    assert status(Origin="https://app.example", Sec_Fetch_Site="cross-site") == 204
    assert status(Origin=f"http://127.0.0.1:{node.port}") == 204
    assert status(Origin="https://evil.example") == 403
    for site in ("cross-site", "same-site"):
        assert status(Sec_Fetch_Site=site) == 401, "an image or a form of another site"
    assert node.request("GET", "/a?_wait=0", headers={"Cookie": token()})[0] == 401
    assert node.request("GET", "/a?_wait=0", headers={**cookie, **bearer("x")})[0] == 401, "what is said counts"


def test_a_token_in_the_query_is_for_subscribing(node: Daemon) -> None:
    assert node.request("POST", f"/a?_token={token()}", "1", JSON)[0] == 400
    assert node.request("GET", f"/-/metrics?_token={token()}")[0] == 401


def test_another_scheme_is_refused(node: Daemon) -> None:
    for told in ("Basic YTpi", "Bearer", "Bearer ", token()):
        status, headers, _ = node.request("POST", "/a", "1", {**JSON, "Authorization": told})
        assert status == 401 and "invalid_token" in headers["www-authenticate"], told


def test_a_node_with_tokens_answers_for_any_name(start: Callable[..., Daemon]) -> None:
    """A page that makes its own name point here has no token."""
    closed = start(jwt_keys=JWT_KEYS, allowed_hosts=[])
    half = start(jwt_keys=JWT_KEYS, allowed_hosts=[], channels={"a": {"publish": "anyone"}})
    assert closed.request("GET", "/-/health", headers={"Host": "evil.example"})[0] == 200
    assert half.request("GET", "/-/health", headers={"Host": "evil.example"})[0] == 421


# Settings.


def test_a_reload_changes_keys(start: Callable[..., Daemon], tmp_path: Path) -> None:
    path = tmp_path / "raiden.conf.py"

    def configure(*secrets: str) -> None:
        keys = [{"alg": "HS256", "key": secret, "kid": str(at)} for at, secret in enumerate(secrets)]
        path.write_text(f"jwt_keys = {keys!r}\n")

    def takes(credential: str) -> bool:
        return found.request("POST", "/a", "1", {**JSON, **bearer(credential)})[0] == 200

    configure(SECRET)
    found = start(config=path, workers=2)
    old, new = token(), token(secret=OTHER)
    url = f"ws://127.0.0.1:{found.port}/-/websocket"
    with Stream(found, "/a", bearer(old)) as stream, connect(url, proxy=None, additional_headers=bearer(old)) as socket:
        assert takes(old) and not takes(new)
        configure(SECRET, OTHER)
        found.signal(SIGHUP)
        wait_for(lambda: all(takes(new) for _ in range(10)), "the new key is taken by both workers")
        configure(OTHER)
        found.signal(SIGHUP)
        wait_for(lambda: not any(takes(old) for _ in range(10)), "the old key is gone")
        assert stream.value() == 1, "who has subscribed stays"
        assert command(socket, cmd="auth", token=old)["error"]["code"] == 401
        assert "error" not in command(socket, cmd="auth", token=new)
    path.write_text("jwt_keys = [{'alg': 'HS256', 'key': 'short'}]\n")
    found.signal(SIGHUP)
    wait_for(lambda: "not reloaded: jwt_keys: key 1: the key of HS256 has 5 bytes" in found.log(), "it is refused")
    assert takes(new)


def raiden(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return daemons.run(daemons.command(*arguments, data_dir=Path("/nowhere"), **settings))


def test_the_commands_make_and_check(start: Callable[..., Daemon]) -> None:
    made = raiden("key").stdout
    key = made.split()[1]
    settings = ast.literal_eval(made.partition("api_keys = ")[2])
    made = raiden(
        "token", "make", "ann", "--subscribe", "a*", "--ttl", "60", jwt_keys=JWT_KEYS, jwt_audience="x"
    ).stdout
    shown = raiden("token", "make", "ann", "--info", '{"color": "red"}', jwt_keys=JWT_KEYS).stdout
    assert json.loads(raiden("token", "check", shown.strip(), jwt_keys=JWT_KEYS).stdout)["info"] == {"color": "red"}
    no_json = raiden("token", "make", "ann", "--info", "red", jwt_keys=JWT_KEYS)
    assert no_json.returncode == 2 and "'red' is not JSON" in no_json.stderr
    node = start(jwt_keys=JWT_KEYS, api_keys=settings, jwt_audience="x")
    assert node.request("POST", "/a", "1", {**JSON, **bearer(key)})[0] == 200
    assert node.request("GET", "/a?_wait=0", headers=bearer(made.strip()))[0] == 204
    before = time.time()
    told = json.loads(raiden("token", "check", made.strip(), jwt_keys=JWT_KEYS, jwt_audience="x").stdout)
    assert told["client"] == "ann" and told["subscribe"] == ["a*"]
    ends = jwt.decode(made.strip(), options={"verify_signature": False})["exp"] + 10
    assert ends - time.time() - 1 <= told["expires_in"] <= ends - before + 1, "with the leeway"
    entries = ["b", {"channel": "a.*", "filters": {"team": ["red", "blue"], "n": 1}}]
    made_here = jwt.encode({"sub": "ann", "subscribe": entries}, JWT_KEYS[0]["key"], "HS256")
    told = json.loads(raiden("token", "check", made_here, jwt_keys=JWT_KEYS).stdout)
    expected = ["b", {"channel": "a.*", "filters": {"n": ["1"], "team": ["blue", "red"]}}]
    assert told["subscribe"] == told["history"] == expected
    refused = raiden("token", "check", made.strip(), jwt_keys=JWT_KEYS, jwt_audience="y")
    assert refused.returncode == 1 and "another audience" in refused.stderr and len(refused.stderr.splitlines()) == 1
    without = raiden("token", "make", "ann")
    assert without.returncode == 1 and "jwt_keys has no secret" in without.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"jwt_keys": [{"alg": "none"}]}, "jwt_keys: key 1: alg is one of"),
        ({"jwt_keys": ["x"]}, "jwt_keys: key 1: each is a dict"),
        ({"api_keys": [{"name": "a", "sha256": "x"}]}, "api_keys: sha256 of 'a' is not a hash"),
        ({"api_keys": [{"name": "a"}]}, "api_keys: sha256 of 'a' is not a hash"),
        ({"api_keys": [{**API_KEYS[0], "publsh": []}]}, "unknown option 'publsh'"),
        ({"api_keys": [API_KEYS[0], {**API_KEYS[0], "name": "b"}]}, "have the same key"),
        ({"channels": {"*": {"publish": "everyone"}}}, "publish of '*' must be one of anyone, token, nobody"),
        ({"http_host": "0.0.0.0", "jwt_keys": JWT_KEYS, "channels": {"a": {"publish": "anyone"}}}, "open_to_the_world"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(config.ConfigError) as error:
        config.load(overrides=[f"{name} = {value!r}" for name, value in settings.items()], environ={})
    assert said in str(error.value) and "\n" not in str(error.value)


def test_with_keys_a_node_may_be_open_to_the_world() -> None:
    config.load(overrides=["http_host = '0.0.0.0'", f"jwt_keys = {JWT_KEYS!r}"], environ={})


def test_a_weak_key_is_warned_of_at_each_start(start: Callable[..., Daemon]) -> None:
    node = start(jwt_keys=[{"alg": "HS256", "key": "not long", "weak": True}])
    assert "a key of HS256 is too short" in node.log() and "not long" not in node.log()


# ZeroMQ's doors, by CURVE keys; `tests/test_zmq_keys.py` has more of them.


@pytest.fixture(scope="module")
def clients(node: Daemon) -> Iterator[Clients]:
    with Clients(node, server=SERVER.public) as found:
        yield found


def test_zmq_req(node: Daemon, clients: Clients) -> None:
    right, elsewhere = clients.req(key=RIGHT), clients.req(key=ELSEWHERE)
    assert ask(right, "publish", "req", "1")[0] == ask(right, "history", "req")[0] == b"200"
    for frames in (("publish", "req", "1"), ("history", "req")):
        assert refusal(ask(elsewhere, *frames))[0] == 403
    told = json.loads(ask(elsewhere, "channels")[1])["channels"]
    assert not told.keys() - {"elsewhere"} - {name for name in told if name.startswith("open.")}
    _, _, page = node.request("GET", "/-/channels/req/history", headers=bearer(KEY))
    assert len(json.loads(page)["messages"]) == 1


def test_requests_and_replies_by_zmq(node: Daemon, clients: Clients) -> None:
    right, elsewhere = clients.req(key=RIGHT), clients.req(key=ELSEWHERE)
    assert refusal(ask(elsewhere, "request", "zmq.asked", "1"))[0] == 403
    assert refusal(ask(right, "request", "zmq.asked", "1"))[0] == 503, "it is allowed, and nobody serves"
    assert refusal(ask(elsewhere, "serve", "zmq.served"))[0] == 403
    assert ask(right, "serve", "zmq.served") == [b"200", b""]
    assert ask(right, "unserve", "zmq.served") == [b"200", b""]


def test_zmq_sub_and_push(clients: Clients) -> None:
    right, elsewhere = clients.sub("push", "elsewhere", key=RIGHT), clients.sub("push", "elsewhere", key=ELSEWHERE)
    anyone = clients.sub("open.", "secret", key=ELSEWHERE)
    pushes = {key: clients.push(key=key) for key in (RIGHT, ELSEWHERE)}
    for push in pushes.values():
        for name in (b"push", b"elsewhere", b"open.z", b"secret"):
            push.send_multipart([name, b"1"])
    assert sorted(right.recv_multipart()[0] for _ in range(3)) == [b"elsewhere", b"elsewhere", b"push"]
    assert [elsewhere.recv_multipart()[0] for _ in range(2)] == [b"elsewhere"] * 2
    assert [anyone.recv_multipart()[0] for _ in range(2)] == [b"open.z"] * 2
    assert not any(sock.poll(100, zmq.POLLIN) for sock in (right, elsewhere, anyone))
