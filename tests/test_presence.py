"""Presence at a channel, joins and leaves: two workers, and clients by every transport."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import multiplex
from tests.daemons import Daemon, Stream, running, wait_for
from tests.tokens import API_KEYS, JWT_KEYS, KEY, bearer
from tests.tokens import token as token_of
from tests.zeromq import OPEN, Clients, Pair

ALL = {action: ["*"] for action in ("subscribe", "publish", "history", "presence", "manage")}
EVENTS = {"Accept": "text/event-stream"}
SERVER, SENSOR = Pair.make(), Pair.make()


def token(sub: str | None, **more: Any) -> str:
    return token_of(sub, **{**ALL, **more})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("presence")
    (folder / "doors.key").write_bytes(SERVER.secret + b"\n")
    yield from running(
        folder / "node", workers=2, jwt_keys=JWT_KEYS, api_keys=API_KEYS, presence_linger=1, max_presence=20,
        zmq_key=str(folder / "doors.key"), zmq_keys={SENSOR.name: {"name": "sensor", "subscribe": ["*"]}}, **OPEN,
    )  # fmt: skip


def who(node: Daemon, channel: str) -> dict[str, Any]:
    status, _, body = node.request("GET", f"/-/channels/{channel}/presence", headers=bearer(token("asker")))
    assert status == 200, body
    told: dict[str, Any] = json.loads(body)
    return told


def subs(node: Daemon, channel: str) -> dict[str, int]:
    """The members of a channel, with their connections."""
    return {each["sub"]: each["connections"] for each in who(node, channel)["members"]}


class Socket(multiplex.Client):
    """A client of ``/-/websocket`` with a token."""

    def __init__(self, node: Daemon, credential: str) -> None:
        super().__init__(node)
        self.name = credential
        assert "error" not in self.ask(cmd="auth", token=credential)

    def watch(self, channel: str) -> Any:
        told = self.ask(cmd="subscribe", channel=channel, presence=True)
        assert "error" not in told, told
        return told["presence"]

    def hears(self, kind: str, sub: str) -> Any:
        """The next thing that it is told, which is this."""
        told = self.push()
        assert told[kind]["sub"] == sub, told
        return told[kind]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def test_clients_by_every_transport(node: Daemon, channel: str, stack: ExitStack) -> None:
    def stream(sub: str | None, path: str, **headers: str) -> None:
        found = stack.enter_context(Stream(node, path, {**headers, **bearer(token(sub))}))
        assert found.status == 200

    assert who(node, channel) == {
        "channel": channel, "members": [], "count": 0, "anonymous": 0, "complete": True,
    }  # fmt: skip
    stream("stream", f"/{channel}")
    stream("filtered", f"/{channel}?a=1")
    stream("events", f"/{channel}", **EVENTS)
    stream("several", f"/-/subscribe?channel={channel}&channel=other")
    stream("pattern", f"/{channel[:-1]}*")
    stream(None, f"/{channel}")
    stream("elsewhere", f"/{channel}/")
    with (
        connect(f"ws://{node.host}:{node.port}/{channel}", proxy=None, additional_headers=bearer(token("websocket"))),
        Socket(node, token("multiplex", info={"color": "red"})) as socket,
        Clients(node, server=SERVER.public) as zmq,
    ):
        socket.ask(cmd="subscribe", channel=channel)
        socket.ask(cmd="subscribe", channel=channel[:-1] + "*")
        socket.ask(cmd="subscribe", channel=channel, durable="work")
        stack.enter_context(Socket(node, token("consumer"))).ask(cmd="subscribe", channel=channel, durable="work")
        server = stack.enter_context(Socket(node, KEY))
        server.ask(cmd="subscribe", channel=channel)
        sensor = zmq.sub(channel[:4], key=SENSOR)
        poll = node.open()
        poll.request("GET", f"/{channel}?_wait=60", headers=bearer(token("poll")))
        expected = {
            "stream", "filtered", "events", "several", "pattern", "websocket", "multiplex", "server", "sensor", "poll"
        }  # fmt: skip
        wait_for(lambda: set(subs(node, channel)) == expected, "all are there")
        told = who(node, channel)
        assert (told["count"], told["anonymous"], told["complete"]) == (len(expected), 1, True)
        assert set(subs(node, channel).values()) == {1}, "once, by whatever number of subscriptions"
        assert {each["state"] for each in told["members"]} == {"here"}
        rows = {each["sub"]: each for each in told["members"]}
        assert rows["multiplex"]["info"] == {"color": "red"} and rows["stream"]["info"] is None
        assert all(0 < each["since"] <= each["proved"] + 1 for each in told["members"])
        assert socket.ask(cmd="presence", channel=channel)["members"][0].keys() == told["members"][0].keys()
        poll.close()
        sensor.close()
    wait_for(lambda: not {"websocket", "multiplex", "sensor", "poll"} & subs(node, channel).keys(), "they have left")


def test_tabs_of_one_member(node: Daemon, channel: str, stack: ExitStack) -> None:
    """Connections on both workers: the member is there since the first, with the info of the newest."""
    since = set()
    for number in range(10):
        stack.enter_context(Stream(node, f"/{channel}", bearer(token("ann", info=number))))
        (row,) = who(node, channel)["members"]
        assert (row["connections"], row["info"]) == (number + 1, number)
        since.add(row["since"])
    assert len(since) == 1


def subscribers(node: Daemon, channel: str) -> int:
    _, _, body = node.request("GET", f"/-/channels/{channel}", headers=bearer(KEY))
    found: int = json.loads(body)["subscribers"]
    return found


@contextmanager
def waiting_poll(node: Daemon, channel: str, query: str) -> Iterator[Callable[[], Any]]:
    """A long-poll that waits by now; the function returns its answer."""
    before = subscribers(node, channel)
    connection = node.open()
    connection.request("GET", f"/{channel}?_wait=60&{query}", headers=bearer(token(None)))
    wait_for(lambda: subscribers(node, channel) > before, "it waits")
    yield lambda: json.loads(connection.getresponse().read())
    connection.close()


def poll(node: Daemon, channel: str, sub: str | None, query: str = "_wait=60") -> dict[str, Any]:
    """A long-poll on a connection of its own."""
    status, _, body = node.request("GET", f"/{channel}?{query}", headers=bearer(token(sub)))
    assert status == 200, body
    told: dict[str, Any] = json.loads(body)
    return told


def test_a_client_counts_between_two_polls(start: Callable[..., Daemon], channel: str) -> None:
    node = start(jwt_keys=JWT_KEYS, presence_linger=30)
    poll(node, channel, "ann", "_wait=0&_presence=1")
    assert subs(node, channel) == {"ann": 0}, "its connection is gone, and it may come back"
    kept = node.open()
    for credential in (token(None), token(None), token("bob")):
        kept.request("GET", f"/{channel}?_wait=0", headers=bearer(credential))
        kept.getresponse().read()
        assert who(node, channel)["anonymous"] == ("bob" not in subs(node, channel))
    assert subs(node, channel) == {"ann": 0, "bob": 1} and who(node, channel)["anonymous"] == 0
    kept.request("GET", f"/-/channels/{channel}/history", headers=bearer(token("bob")))
    kept.getresponse().read()
    assert subs(node, channel) == {"ann": 0, "bob": 1}, "other requests change nothing"
    kept.close()
    wait_for(lambda: subs(node, channel) == {"ann": 0, "bob": 0}, "nobody knows yet whether it comes back")
    short = start(jwt_keys=JWT_KEYS, presence_linger=0)
    poll(short, channel, "ann", "_wait=0&_presence=1")
    assert subs(short, channel) == {}


# Joins and leaves.


def test_joins_and_leaves_by_every_transport(node: Daemon, channel: str, stack: ExitStack) -> None:
    """Each watcher is told of each member once, however many connections that has, on whichever worker."""
    watcher = stack.enter_context(Socket(node, token("watcher")))
    assert watcher.watch(channel) == {"members": [], "count": 0, "complete": True}
    assert watcher.hears("join", "watcher")["info"] is None
    events = stack.enter_context(Stream(node, f"/{channel}?_presence=1", {**EVENTS, **bearer(token(None))}))
    lines = stack.enter_context(Stream(node, f"/{channel}?_presence=1&_wrap=1", bearer(token(None))))
    url = f"ws://{node.host}:{node.port}/{channel}?_presence=1&_wrap=1"
    socket = stack.enter_context(connect(url, proxy=None, additional_headers=bearer(token(None))))
    first = poll(node, channel, None, "_wait=60&_presence=1")

    def told_events() -> Any:
        name, data = events.line(), events.line()
        told = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: %b" % next(iter(told.keys() - {"channel"})).encode()
        return told

    def told_frames() -> Any:
        while (told := json.loads(socket.recv(60))).keys() == {"cursor"}:
            pass
        return told

    hears: list[Callable[[], Any]] = [told_events, lines.value, told_frames]
    begun = [each() for each in hears] + first["messages"]
    assert len(begun) == 4
    for each in begun:
        assert each["channel"] == channel and each["presence"]["complete"]
        assert [row["sub"] for row in each["presence"]["members"]] == ["watcher"]

    with waiting_poll(node, channel, f"_presence={first['presence']}") as answer:
        tabs = [Stream(node, f"/{channel}", bearer(token("ann", info={"n": 1}))) for _ in range(6)]
        second = answer()
    joins = [each() for each in hears] + second["messages"]
    joins.append({"channel": channel, "join": watcher.hears("join", "ann")})
    for each in joins:
        assert each["channel"] == channel and each["join"].keys() == {"sub", "info", "since"}
        assert (each["join"]["sub"], each["join"]["info"]) == ("ann", {"n": 1})
    for tab in tabs[1:]:
        tab.close()
    back = Stream(node, f"/{channel}", bearer(token("ann", info={"n": 1})))
    tabs[0].close()
    assert node.request("POST", f"/{channel}", "1", {"Content-Type": "application/json", **bearer(KEY)})[0] == 200
    assert watcher.push()["data"] == 1
    assert lines.value()["data"] == told_frames()["data"] == 1 and events.line(positions=True) and events.line()
    wait_for(lambda: subs(node, channel).get("ann") == 1, "all others have left")
    with waiting_poll(node, channel, f"_presence={second['presence']}") as answer:
        back.close()
        third = answer()
    leaves = [each() for each in hears] + third["messages"]
    leaves.append({"channel": channel, "leave": watcher.hears("leave", "ann")})
    assert leaves == [{"channel": channel, "leave": {"sub": "ann", "info": {"n": 1}}}] * 5
    # A list that the client does not have is told at once, and nothing where it has the present one.
    assert poll(node, channel, None, f"_wait=60&_presence={second['presence']}")["messages"][0]["presence"]
    status, head, _ = node.request(
        "GET", f"/{channel}?_wait=0&_presence={third['presence']}", headers=bearer(token(None))
    )
    assert status == 204 and head["raiden-presence"] == third["presence"]


def test_who_comes_back_soon_has_not_left(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.hears("join", "watcher")
    with Stream(node, f"/{channel}", bearer(token("ann"))):
        watcher.hears("join", "ann")
    for _ in range(3):
        Stream(node, f"/{channel}", bearer(token("ann"))).close()
    wait_for(lambda: "ann" not in subs(node, channel), "she has left")
    poll(node, channel, "bob", "_wait=60&_presence=1")
    watcher.hears("join", "bob")
    assert {watcher.push()["leave"]["sub"] for _ in range(2)} == {"ann", "bob"}


def test_a_member_by_long_polls_stays(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.hears("join", "watcher")
    with Stream(node, f"/{channel}", bearer(token("ann"))):
        watcher.hears("join", "ann")
        connection = node.open()
        connection.request("GET", f"/{channel}?_wait=60", headers=bearer(token("bob")))
        watcher.hears("join", "bob")
        for number in range(5):
            node.request("POST", f"/{channel}", "1", {"Content-Type": "application/json", **bearer(KEY)})
            assert watcher.push()["data"] == 1
            assert len(json.loads(connection.getresponse().read())["messages"]) == 1, number
            connection.request("GET", f"/{channel}?_wait=60", headers=bearer(token("bob")))
    watcher.hears("leave", "ann")
    connection.close()
    watcher.hears("leave", "bob")


def test_several_channels(node: Daemon, channel: str, stack: ExitStack) -> None:
    path = f"/-/subscribe?channel={channel}.1&channel={channel}.2&_presence=1"
    stream = stack.enter_context(Stream(node, path, bearer(token("ann"))))
    told = [stream.value() for _ in range(4)]
    assert [list(each) for each in told] == [["channel", "presence"]] * 2 + [["channel", "join"]] * 2
    assert {each["channel"] for each in told[2:]} == {f"{channel}.1", f"{channel}.2"}
    first = poll(node, "-/subscribe", None, path.partition("?")[2] + "&_wait=60")
    assert [each["presence"]["count"] for each in first["messages"]] == [1, 1] and first["presence"].count(",") == 1
    with Stream(node, f"/{channel}.2", bearer(token("bob"))):
        query = path.partition("?")[2].replace("_presence=1", f"_presence={first['presence']}")
        second = poll(node, "-/subscribe", None, query + "&_wait=60")
    (item,) = second["messages"]
    # A join that came between the polls is in a list.
    told = [item["join"]] if "join" in item else item["presence"]["members"]
    assert item["channel"] == f"{channel}.2" and "bob" in [each["sub"] for each in told]
    one, two = (each["presence"].split(",") for each in (first, second))
    assert one[0] == two[0] and one[1] != two[1]


def test_the_end_of_a_token_is_a_leave(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.hears("join", "watcher")
    stack.enter_context(Stream(node, f"/{channel}", bearer(token("short", lasts=-8))))  # the leeway is 10 s
    watcher.hears("join", "short")
    revoked = stack.enter_context(Socket(node, token("revoked")))
    revoked.ask(cmd="subscribe", channel=channel)
    watcher.hears("join", "revoked")
    status, _, _ = node.request("POST", "/-/revoke", '{"sub": "revoked"}', bearer(KEY))
    assert status == 200
    left = {watcher.push(60)["leave"]["sub"] for _ in range(2)}
    assert left == {"short", "revoked"}


def test_info_that_changes(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.hears("join", "watcher")
    ann = stack.enter_context(Socket(node, token("ann", info="red")))
    ann.ask(cmd="subscribe", channel=channel)
    first = watcher.hears("join", "ann")
    ann.ask(cmd="auth", token=token("ann", info="red"))
    ann.ask(cmd="auth", token=token("ann", info="blue"))
    assert watcher.hears("join", "ann") == {**first, "info": "blue"}
    assert [row["info"] for row in who(node, channel)["members"]] == ["blue", None]


def test_a_token_that_no_longer_permits_to_watch(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.ask(cmd="subscribe", channel=f"{channel}.2")
    watcher.hears("join", "watcher")
    watcher.send(cmd="auth", token=token("watcher", presence=[]))
    assert watcher.push() == {"channel": channel, "ended": True}, "and the other one stays"
    assert watcher.rest() == []


def test_a_channel_that_is_deleted(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.hears("join", "watcher")
    assert node.request("DELETE", f"/{channel}", headers=bearer(KEY))[0] == 202
    assert watcher.push() == {"channel": channel, "ended": True}
    assert subs(node, channel) == {}
    assert [row["sub"] for row in watcher.watch(channel)["members"]] in (["watcher"], [])


def test_watchers_that_leave_are_told_nothing(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.hears("join", "watcher")
    watcher.ask(cmd="unsubscribe", channel=channel)
    watcher.ask(cmd="subscribe", channel=channel)
    with Stream(node, f"/{channel}?_presence=1", {**EVENTS, **bearer(token("ann"))}) as other:
        assert other.line() == b"event: presence" and b'"watcher"' in other.line()
        assert other.line() == b"event: join" and b'"ann"' in other.line()
    assert watcher.rest() == []


# Bounds, and what is refused.


def test_more_members_than_are_listed_are_counted(node: Daemon, channel: str, stack: ExitStack) -> None:
    watcher = stack.enter_context(Socket(node, token("watcher")))
    watcher.watch(channel)
    watcher.hears("join", "watcher")
    for number in range(19):
        stack.enter_context(Stream(node, f"/{channel}", bearer(token(f"member {number}"))))
    assert who(node, channel)["count"] == len(subs(node, channel)) == 20
    for _ in range(19):
        assert "join" in watcher.push()
    with Stream(node, f"/{channel}", bearer(token("another"))):
        told = who(node, channel)
        assert (told["members"], told["count"], told["complete"]) == (None, 21, True)
        assert watcher.push() == {"channel": channel, "presence": {"members": None, "count": 21, "complete": True}}
        with Socket(node, token(None)) as late:
            assert late.watch(channel)["members"] is None
        for number in range(45):  # more than are listed on each worker, and on one of them surely
            stack.enter_context(Stream(node, f"/{channel}", bearer(token(f"more {number}"))))
        assert who(node, channel)["count"] == 66 and who(node, channel)["members"] is None

        def crowd() -> Any:
            return poll(node, channel, None, "_wait=60&_presence=1")["messages"][0]["presence"]

        wait_for(lambda: crowd() == {"members": None, "count": 66, "complete": True}, "the number is known", every=0.1)
    stack.pop_all().close()


def code(node: Daemon, path: str, **headers: str) -> tuple[int, str]:
    status, _, body = node.request("GET", path, headers={**headers, **bearer(token("ann"))})
    return status, json.loads(body)["detail"]


def test_what_is_refused(node: Daemon, channel: str, stack: ExitStack) -> None:
    assert code(node, "/-/channels/a*/presence")[0] == code(node, "/-/channels/%00/presence")[0] == 400
    assert code(node, "/-/channels/a/presence?_limit=1")[0] == 400
    assert code(node, "/a*?_presence=1", **EVENTS)[0] == 400
    assert code(node, "/-/subscribe?channel=a&channel=b*&_presence=1")[0] == 400
    for path in ("/a?_presence=1", "/a?_presence=2&_wrap=1", "/a?_presence=1&_durable=d&_wait=0", "/a?presence=1"):
        assert code(node, path)[0] == 400, path
    assert "_wrap=1" in code(node, "/a?_presence=1")[1]
    for value in ("2", "x" * 16, "00fc47fcd257fc13,many", "00fc47fcd257fc1"):
        assert code(node, f"/a?_wait=0&_presence={value}")[0] == 400, value
    assert code(node, "/a?_wrap=1&_presence=00fc47fcd257fc13")[0] == 400, "a stream is told all"
    for path in ("/a?_presence=1", "/-/websocket?_presence=1"):
        assert code(node, path, Connection="Upgrade", Upgrade="websocket")[0] == 400, path
    socket = stack.enter_context(Socket(node, token("ann")))
    assert socket.code(cmd="subscribe", channel="a*", presence=True) == 400
    assert socket.code(cmd="subscribe", channel="a", presence=1) == 400
    assert socket.code(cmd="subscribe", channel="a", durable="d", presence=True) == 400
    assert socket.code(cmd="presence", channel="a*") == socket.code(cmd="presence") == 400
    assert socket.code(cmd="presence", channel="a", watch=True) == 400
    blind = stack.enter_context(Socket(node, token("ann", presence=["b"])))
    assert blind.code(cmd="presence", channel=channel) == 403
    assert blind.code(cmd="subscribe", channel=channel, presence=True) == 403
    assert blind.ask(cmd="presence", channel="b")["count"] == 0
    for path in (f"/-/channels/{channel}/presence", f"/{channel}?_presence=1&_wrap=1"):
        assert node.request("GET", path, headers=bearer(token("ann", presence=["b"])))[0] == 403
        assert node.request("GET", path)[0] == 401


def test_many_questions_at_once(node: Daemon, channel: str, stack: ExitStack) -> None:
    """Each is answered, or told that too many ask; and questions about one channel are one question."""
    head = f"HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token('ann')}\r\n\r\n"
    stack.enter_context(Stream(node, f"/{channel}", bearer(token("bob"))))
    sockets = [stack.enter_context(node.connect()) for _ in range(50)]
    for at, each in enumerate(sockets):
        name = channel if at % 2 else f"{channel}.{at}"
        each.sendall("".join(f"GET /-/channels/{name}/presence {head}" for _ in range(10)).encode())
    for each in sockets:
        with each.makefile("rb") as answers:
            for _ in range(10):
                status = answers.readline().split()[1]
                size = 0
                while (line := answers.readline().lower()) != b"\r\n":
                    size = int(line.split()[1]) if line.startswith(b"content-length:") else size
                body = json.loads(answers.read(size))
                assert status == b"503" or body["count"] in (0, 1), body


def test_where_anyone_may_do_all(start: Callable[..., Daemon], channel: str) -> None:
    node = start(store="none")
    with Stream(node, f"/{channel}?_presence=1", EVENTS) as stream, Stream(node, f"/{channel}"):
        assert stream.line() == b"event: presence"
        told = node.json(f"/-/channels/{channel}/presence")
    assert told == {"channel": channel, "members": [], "count": 0, "anonymous": 2, "complete": True}


def test_the_death_of_a_worker(start: Callable[..., Daemon], channel: str, stack: ExitStack) -> None:
    """Its members leave."""
    node = start(workers=2, jwt_keys=JWT_KEYS, presence_linger=2, store="none")
    workers = {name: pid for name, pid in node.workers().items() if name.startswith("worker")}
    found: dict[str, list[Socket]] = {name: [] for name in workers}
    number = 0
    while not all(found.values()):
        client = stack.enter_context(Socket(node, token(f"member {number}")))
        found[multiplex.worker_of(node, client, workers)].append(client)
        number += 1
    watcher, *_ = found["worker 1"]
    watcher.watch(channel)
    others = found["worker 0"]
    for each in (*found["worker 0"], *found["worker 1"][1:]):
        each.ask(cmd="subscribe", channel=channel)
    joined = {watcher.push()["join"]["sub"] for _ in range(number)}
    assert joined == {f"member {at}" for at in range(number)} == set(subs(node, channel))
    os.kill(workers["worker 0"], signal.SIGKILL)
    left = {watcher.push()["leave"]["sub"] for _ in others}
    wait_for(lambda: who(node, channel)["complete"], "the worker was replaced")
    assert set(subs(node, channel)) == joined - left and len(left) == len(others)
    for each in others:
        with pytest.raises((ConnectionClosed, OSError)):
            each.ws.recv(20)
        each.abort()
