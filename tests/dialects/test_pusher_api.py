"""The HTTP API of the Pusher protocol: its signatures, its routes, and the settings of its apps."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raiden.delivery.connection_ids import ConnectionIds
from raiden.dialects.pusher import signatures
from raiden.dialects.pusher.apps import CLOSED, apps, with_own
from raiden.dialects.pusher.limits import EventRate
from raiden.dialects.pusher.socket_ids import NOBODY, connection_id, socket_id
from raiden.model.refusals import Invalid
from raiden.node import config
from tests.collecting import Collecting
from tests.daemons import PATIENCE, Daemon, Stream, running, wait_for
from tests.dialects.pusher_client import APP, Client, call, signed, trigger
from tests.tokens import JWT_KEYS, bearer, token

OTHER = {"id": "8", "key": "other-key", "secret": "other-secret", "max_data": 100, "max_channels": 2, "max_batch": 2}
KEY, SECRET = "278d425bdf160c739803", "7ad3773142a6692b25b8"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(
        tmp_path_factory.mktemp("pusher") / "node", workers=2, dialects=["pusher"], presence_linger=0.2,
        pusher_apps=[{**APP, "prefix": ""}, OTHER],
        channels={"*": {}, "forbidden": {"publish": "nobody"}},
    )  # fmt: skip


@pytest.fixture
def channel() -> str:
    return f"room-{next(_numbers)}"


# What is signed.


def test_the_signatures_of_the_documents() -> None:
    private = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
    assert signatures.of_subscription(SECRET, "1234.1234", "private-foobar", None) == private
    presence = "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"
    data = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'
    assert signatures.of_subscription(SECRET, "1234.1234", "presence-foobar", data) == presence
    user = "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"
    assert signatures.of_signin(SECRET, "1234.1234", json.dumps({"id": "12345"}, separators=(",", ":"))) == user
    assert signatures.is_signed(f"{KEY}:{private}", KEY, private)
    for auth in (private, f"{KEY}:{private.upper()}", f"{KEY}:{private}\0", f"x:{private}", "", "é", None, 1):
        assert not signatures.is_signed(auth, KEY, private)


def test_the_signature_of_the_document_s_request() -> None:
    query = (
        f"auth_key={KEY}&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f"
        "&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
    )
    body = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
    queries = signatures.read_query(query)
    signatures.check_request(KEY, SECRET, "POST", "/apps/3/events", queries, body, 1353088179.0)


def test_a_query_is_read_in_both_ways_that_libraries_write_it() -> None:
    assert signatures.read_query("a=b%20c&D=%2b&e") == ({"a": "b c", "d": "+", "e": ""},)
    assert signatures.read_query("a=b+c") == ({"a": "b c"}, {"a": "b+c"})
    for query in ("a=1&A=2", "a=%ff"):
        with pytest.raises(Invalid):
            signatures.read_query(query)


def test_a_socket_id_leads_to_its_connection() -> None:
    class Connection:
        own_id = b""

    ids = ConnectionIds()
    for _ in range(300):
        found = ids.of(Connection())
        assert connection_id(socket_id(found)) == found
    for own in (f"{1 << 48}.1", f"1.{1 << 72}"):
        assert connection_id(own) == NOBODY
    for text in ("", "1", "1.", ".1", "1.2.3", "a.b", "1.2 ", "-1.2", "1.2\n", "1" * 41 + ".1", 1.5, None):
        with pytest.raises(Invalid):
            connection_id(text)


def test_the_rate_of_a_connection_s_events() -> None:
    rate = EventRate(2.0, 10.0)
    assert [rate.take(2.0, 10.0) for _ in range(3)] == [True, True, False]
    assert [rate.take(2.0, 10.5) for _ in range(2)] == [True, False]
    slow = EventRate(0.5, 0.0)
    assert [slow.take(0.5, now) for now in (0.0, 1.0, 2.0, 3.0)] == [True, False, True, False]


# Settings.


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ([], "must have an app"),
        (["x"], "app 1: it must be a dict"),
        ([{"id": "1", "key": "k"}], "secret must be a text"),
        ([{**APP, "client_event": True}], "did you mean client_events"),
        ([{**APP, "key": "a/b"}], "can't have '/'"),
        ([APP, {**APP, "id": "8"}], "the same key"),
        ([APP, {**APP, "key": "8"}], "the same id"),
        ([{**APP, "prefix": ""}, {**OTHER, "prefix": "b-"}], "could have the same names"),
        ([{**APP, "prefix": "-/x"}], "Raiden's own"),
        ([{**APP, "prefix": "x" * 56}], "at most 55 bytes"),
        ([{**APP, "max_data": 0}], "max_data must be a whole number"),
        ([{**APP, "client_events_per_second": -1}], "must be a number"),
        ([{**APP, "client_events": 1}], "True or False"),
        ([{**APP, "allowed_origins": "*"}], "must be a list"),
        ([{**APP, "allowed_origins": ["example.com"]}], "is no origin"),
    ],
)
def test_apps_that_can_t_be(setting: list[Any], says: str) -> None:
    with pytest.raises(config.ConfigError, match=says):
        config.load(None, ["dialects=['pusher']", f"pusher_apps={setting!r}"], {})


def test_a_path_that_can_t_be() -> None:
    with pytest.raises(config.ConfigError, match="pusher_path must be"):
        config.load(None, ["dialects=['pusher']", f"pusher_apps={[APP]!r}", "pusher_path='ws/'"], {})


def test_the_prefixes_of_apps() -> None:
    assert [app.prefix for app in apps([APP])] == [""]
    assert [app.prefix for app in apps([APP, OTHER])] == ["7:", "8:"]


def test_the_options_of_an_app_s_channels() -> None:
    given = {"*": {"history_size": 0, "subscribe": "anyone"}, "cache-own-*": {}}
    found = with_own(given, apps([APP]), caches=True)
    assert found["cache-*"] == {"history_size": 1, "history_ttl": 1800.0, "subscribe": "anyone"}
    assert found["private-*"] == {**dict.fromkeys(CLOSED, "token"), "history_size": 0, "subscribe": "anyone"}
    assert found["presence-cache-*"]["publish"] == "token" and found["presence-cache-*"]["history_size"] == 1
    assert found["#server-to-user-*"]["subscribe"] == "anyone" and given.items() <= found.items()
    larger = with_own({"presence-cache-*": {"history_size": 7}, "*": {"history_ttl": 9000}}, apps([APP]), caches=True)
    assert larger["presence-cache-*"] == {"history_size": 7}
    assert larger["cache-*"] == {"history_ttl": 9000, "history_size": 100}
    assert "history_ttl" not in with_own({"*": {}}, apps([APP]), caches=False)["cache-*"]


def test_signed_channels_are_closed_to_other_doors(node: Daemon, channel: str) -> None:
    for name in (f"private-{channel}", f"presence-{channel}", "%23server-to-user-ann", f"8:private-{channel}"):
        assert node.request("GET", f"/{name}?_wait=0")[0] == 401
        assert node.request("POST", f"/{name}", "1", {"Content-Type": "application/json"})[0] == 401
    assert node.request("POST", f"/{channel}", "1", {"Content-Type": "application/json"})[0] in (200, 202)
    assert node.json("/-/nodes")["nodes"]


# The API.


@pytest.fixture(params=["none", "empty"])
def md5(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The libraries differ in whether they sign the body of a GET, which is empty."""
    return {} if request.param == "none" else {"body_md5": hashlib.md5(b"").hexdigest()}


def ask(node: Daemon, path: str, *, app: dict[str, Any] = APP, **query: Any) -> tuple[int, Any]:
    return call(node, "GET", path, app=app, **query)


def test_servers_publish(node: Daemon, channel: str) -> None:
    with Client(node) as one, Client(node) as other:
        for client in (one, other):
            client.subscribe(channel)
        assert trigger(node, channel, "made", "1", socket_id=one.socket_id) == {}
        assert trigger(node, channel, "again", "2", info="subscription_count") == {
            "channels": {channel: {"subscription_count": 2}}
        }
        assert one.next()["event"] == "again" and other.next()["event"] == "made"
        batch = [{"channel": channel, "name": f"event{number}", "data": str(number)} for number in range(3)]
        batch[1]["info"] = "subscription_count"
        assert call(node, "POST", "batch_events", {"batch": batch}) == (
            200, {"batch": [{}, {"subscription_count": 2}, {}]},
        )  # fmt: skip
        assert [one.next()["event"] for _ in range(3)] == ["event0", "event1", "event2"]
        assert call(node, "POST", "batch_events", {"batch": batch[:1]}) == (200, {})
        status, told = call(node, "POST", "events", {"name": "one", "channel": channel, "data": ""})
        assert (status, told) == (200, {})
        assert one.expect("one")["channel"] == channel


def test_a_publish_can_be_repeated(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        client.subscribe(channel)
        for _ in range(2):
            event = {"name": "made", "channels": [channel], "data": "1"}
            assert call(node, "POST", "events", event, headers={"Idempotency-Key": channel}) == (200, {})
        assert client.next()["event"] == "made" and client.ping() == []


def test_servers_ask_about_channels(node: Daemon, channel: str, md5: dict[str, Any]) -> None:
    public, presence, cached = f"{channel}-public", f"presence-{channel}", f"cache-{channel}"
    assert ask(node, f"channels/{public}", **md5) == (200, {"occupied": False})
    trigger(node, cached, "made", "[1]")
    with Client(node) as one, Client(node) as other, Stream(node, f"/{public}"):
        for client in (one, other):
            client.subscribe(public)
            client.join(presence, "same")
        one.subscribe(cached)
        one.sign_in("me")
        one.subscribe("#server-to-user-me")
        status, told = ask(node, "channels", **md5)
        assert status == 200 and {public, presence, cached} <= told["channels"].keys()
        assert not any("#" in name for name in told["channels"]) and told["channels"][public] == {}
        assert ask(node, "channels", filter_by_prefix=f"presence-{channel}", info="user_count", **md5) == (
            200, {"channels": {presence: {"user_count": 1}}},
        )  # fmt: skip
        assert ask(node, f"channels/{public}", info="subscription_count", **md5) == (
            200, {"occupied": True, "subscription_count": 3},
        )  # fmt: skip
        assert ask(node, f"channels/{presence}", info="subscription_count,user_count", **md5) == (
            200, {"occupied": True, "subscription_count": 2, "user_count": 1},
        )  # fmt: skip
        status, told = ask(node, f"channels/{cached}", info="cache", **md5)
        assert told["cache"]["data"] == "[1]" and 1700 <= told["cache"]["ttl"] <= 1800
        assert ask(node, f"channels/{presence}/users", **md5) == (200, {"users": [{"id": "same"}]})
        status, told = ask(node, "connections", **md5)
        assert status == 200 and told["connections"] >= 2
        assert ask(node, "channels", app=OTHER)[1] == {"channels": {}}


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ([], 400), ({}, 400), ({"data": 1}, 400), ({"data": {"a": 1}}, 400), ({"name": ""}, 400), ({"name": 5}, 400),
        ({"name": "x" * 201}, 400), ({"name": "a\nb"}, 400), ({"name": "pusher:error"}, 400),
        ({"data": "x" * 101}, 413),
        ({"channels": []}, 400), ({"channels": ["a", "b", "c"]}, 400), ({"channels": "a"}, 400),
        ({"channels": ["a b"]}, 400), ({"channels": [1]}, 400), ({"channels": ["x" * 201]}, 400),
        ({"channels": ["a", "b*"]}, 400), ({"channel": "b"}, 400), ({"socket_id": "1"}, 400),
        ({"info": "all"}, 400), ({"data": "\ud800"}, 400),
    ],
)  # fmt: skip
def test_what_can_t_be_published_is_refused_whole(node: Daemon, event: Any, status: int) -> None:
    whole = {"name": "made", "channels": ["all"], "data": "1"}
    with Client(node, OTHER) as client:
        client.subscribe("all")
        given = {**whole, **event} if isinstance(event, dict) and event else event
        found, told = call(node, "POST", "events", given, app=OTHER)
        assert found == status and told["error"]
        found, told = call(node, "POST", "batch_events", {"batch": [{**whole}, given]}, app=OTHER)
        assert found == status and "event 2" in told["error"]
        assert client.ping() == []


def test_bodies_and_batches_that_are_none(node: Daemon) -> None:
    event = {"name": "made", "channel": "all", "data": "1"}
    bodies: list[Any] = [
        {"batch": []},
        {"batch": [event] * 3},
        {"batch": 1},
        [],
        {"batch": [{**event, "channels": ["b"]}]},
    ]
    for body in bodies:
        assert call(node, "POST", "batch_events", body, app=OTHER)[0] == 400
    for path in ("/apps/7/events", "/apps/7/batch_events"):
        target = signed(APP, "POST", path, b"{")
        assert node.request("POST", target, b"{")[0] == 400


@pytest.mark.parametrize(
    "query",
    [{"auth_key": "other-key"}, {"auth_version": "2.0"}, {"auth_timestamp": "1"}, {"auth_timestamp": "x"},
     {"auth_timestamp": "4102444800"}, {"auth_signature": "0" * 64}, {"auth_signature": ""},
     {"body_md5": "0" * 32}],
)  # fmt: skip
def test_a_request_must_be_signed(node: Daemon, query: dict[str, Any]) -> None:
    event = {"name": "made", "channels": ["all"], "data": "1"}
    status, told = call(node, "POST", "events", event, **query)
    assert status == 401 and told["error"]


def test_a_body_must_be_signed(node: Daemon) -> None:
    body = json.dumps({"name": "made", "channels": ["all"], "data": "1"}).encode()
    assert node.request("POST", signed(APP, "POST", "/apps/7/events"), body)[0] == 401
    assert node.request("POST", signed(APP, "POST", "/apps/7/events", body), body + b" ")[0] == 401
    assert node.request("POST", signed(APP, "POST", "/apps/7/events", body), body)[0] == 200
    assert node.request("POST", "/apps/7/events", body)[0] == 401


def test_paths_that_are_none(node: Daemon, channel: str) -> None:
    for path in ("nothing", "channels/a/b", "users/1", "events/1", ""):
        assert call(node, "GET", path)[0] == 404, path
    assert call(node, "GET", "channels", app={**APP, "id": "12"})[0] == 404
    for method, path in (("GET", "events"), ("POST", "channels"), ("GET", "users/1/terminate_connections")):
        assert call(node, method, path)[0] == 405, path
    assert ask(node, f"channels/{channel}/users")[0] == 400
    assert ask(node, "channels", info="user_count")[0] == 400
    assert ask(node, f"channels/{channel}", info="user_count")[0] == 400
    assert ask(node, "channels/a%20b")[0] == 400


def test_channels_for_nobody_stay_so(node: Daemon) -> None:
    status, told = call(node, "POST", "events", {"name": "made", "channels": ["forbidden"], "data": ""})
    assert status == 403 and "nobody may publish" in told["error"]


def test_the_connections_of_a_user_are_ended(node: Daemon) -> None:
    with Client(node) as ann, Client(node) as tab, Client(node) as bob, Client(node, OTHER) as namesake:
        for client, user in ((ann, "a/b c"), (tab, "a/b c"), (bob, "bob"), (namesake, "a/b c")):
            client.sign_in(user)
            client.expect("pusher:signin_success")
        path = "/apps/7/users/a%2Fb%20c/terminate_connections"
        status, _, told = node.request("POST", signed(APP, "POST", path), None)
        assert (status, json.loads(told)) == (200, {})
        for client in (ann, tab):
            assert client.close_code() == 4009
        assert bob.ping() == [] and namesake.ping() == []


def test_a_node_with_tokens_a_path_and_pages(start: Callable[..., Daemon]) -> None:
    app = {**APP, "allowed_origins": ["https://shop.example"]}
    node = start(
        dialects=["pusher"], pusher_apps=[{**app, "prefix": ""}, OTHER], pusher_path="/ws/v1", jwt_keys=JWT_KEYS,
        channels={"*": {}, "news": {"subscribe": "anyone"}},
    )  # fmt: skip
    with Client(node, path="/ws/v1", origin="https://shop.example") as client:
        client.ask("orders")
        assert client.expect("pusher:subscription_error", "orders")["data"]["type"] == "AuthError"
        for name in ("news", "private-orders", "presence-orders"):
            client.subscribe(name, **({"channel_data": '{"user_id":1}'} if name.startswith("presence") else {}))
        client.send("client-x", 1, channel="private-orders")
        body = b'{"name":"made","channel":"private-orders","data":"1"}'
        assert node.request("POST", signed(APP, "POST", "/ws/v1/apps/7/events", body), body)[0] == 200
        assert client.expect("made", "private-orders")
        assert node.request("POST", "/orders", "1", {"Content-Type": "application/json"})[0] == 401
    with Client(node, path="/ws/v1", origin="https://other.example") as client:
        assert client.close_code() == 4009
    with Client(node, OTHER, path="/ws/v1") as client:
        assert client.subscribe("orders") == {}, "public channels behind a prefix are the app's"
    with Client(node, path="/ws/v1") as client:
        client.sign_in("ann")
        client.expect("pusher:signin_success")
        manager = {"Content-Type": "application/json", **bearer(token("boss", manage=["*"]))}
        client.subscribe("news")
        assert node.request("POST", "/-/disconnect", '{"sub":"ann","channel":"news"}', manager)[0] == 200
        assert client.expect("pusher:subscription_error", "news")["data"]["type"] == "AuthError"
        assert node.request("POST", "/-/revoke", '{"sub":"ann"}', manager)[0] == 200
        assert client.close_code() == 4009


def raw(node: Daemon, *channels: str, buffer: int | None = None) -> socket.socket:
    """A connection that reads only what the test reads, and answers no ping; ``buffer`` bounds what the kernel has for
    it."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.connect((node.host, node.port))
    sock.sendall(
        b"GET /app/app-key?protocol=7 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for channel in channels or ("room",):
        command = b'{"event":"pusher:subscribe","data":{"channel":"%b"}}' % channel.encode()
        sock.sendall(b"\x81" + bytes([0x80 | len(command)]) + bytes(4) + command)
        came = b""
        while b"succeeded" not in came:
            came += sock.recv(65536)
    return sock


def rest(sock: socket.socket) -> bytes:
    came = b""
    while more := sock.recv(65536):
        came += more
    return came


def test_who_does_not_answer_and_who_reads_too_slowly_is_told_so(start: Callable[..., Daemon]) -> None:
    node = start(dialects=["pusher"], pusher_apps=[APP], store="none", keepalive=0.5, max_outbox=100_000)
    with raw(node) as silent:
        came = rest(silent)
        assert b'"code":4201' in came and came[came.index(b"\x88") + 2 :].startswith((4201).to_bytes(2, "big"))
    with raw(node) as slow:

        def publish() -> int:
            return node.post_json("/room", "x" * 100_000)[0] // 1000

        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wait_for(
            lambda: publish() or node.metric("raiden_slow_consumers_total"), "it is too slow"
        )  # fmt: skip
        came = rest(slow)
        assert b'"code":4100' in came[-400:] and (4100).to_bytes(2, "big") in came[-100:]


def test_a_channel_that_is_deleted_while_its_cached_event_is_sent_goes_on(start: Callable[..., Daemon]) -> None:
    node = start(dialects=["pusher"], pusher_apps=[{**APP, "max_data": 1_000_000}])
    trigger(node, "cache-room", "before", "x" * 900_000)
    with raw(node, "room", "cache-room", buffer=4096) as slow:
        assert node.request("DELETE", "/cache-room")[0] < 300
        for data in ("1", "2"):
            trigger(node, "cache-room", "behind", data)
        trigger(node, "room", "end", "")
        came = b""
        while came.count(b'"event":"behind"') < 2 or b'"event":"end"' not in came:
            more = slow.recv(65536)
            assert more, came[-300:]
            came += more
        assert -1 < came.rfind(b"x" * 100) < came.index(b'"event":"behind"')


def test_no_cycle_is_left_of_clients_that_have_gone(tmp_path: Path) -> None:
    node = Collecting(tmp_path, dialects=["pusher"], pusher_apps=[APP])

    def live(number: int) -> None:
        with Client(node) as client:
            client.sign_in(f"user{number}", watchlist=["user1", "user2"])
            client.join("presence-room", f"user{number}")
            for name in ("room", "private-room", "cache-room"):
                client.subscribe(name)
            client.send("client-x", {}, channel="private-room")
            client.ask("private-room-refused", auth="")
            client.send("pusher:unsubscribe", {"channel": "room"})
            client.ask("last")  # and it does not wait for the answer

    try:
        others = node.metric("raiden_connections")
        live(0)
        with Client(node, {**APP, "key": "unknown"}) as client:
            client.close_code()
        node.collected()
        for number in range(10):
            live(number)
            trigger(node, "cache-room", "made", "1")
            with Client(node, {**APP, "key": "unknown"}) as client:
                client.close_code()
        wait_for(lambda: node.metric("raiden_connections") <= others, "all have gone")
        assert node.collected() == ""
    finally:
        node.stop()
