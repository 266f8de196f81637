"""The Pusher protocol: connections, channels, events of clients, users; two workers, and clients by its texts alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.daemons import Daemon, Stream, running, wait_for
from tests.dialects.pusher_client import APP, Client, call, hex_of, trigger

SILENT = {"id": "8", "key": "silent", "secret": "other", "prefix": "b:", "client_events": False}
_numbers = itertools.count()
ANSWERS = ("pusher_internal:subscription_succeeded", "pusher:subscription_error")
SLOW = {"id": "9", "key": "slow", "secret": "third", "client_events_per_second": 2, "max_data": 50}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(
        tmp_path_factory.mktemp("pusher") / "node", workers=2, dialects=["pusher"], presence_linger=0.2,
        pusher_apps=[{**APP, "prefix": ""}, SILENT, SLOW], max_presence=4, max_subscriptions=8,
        channels={"*": dict.fromkeys(("subscribe", "publish", "history", "presence"), "anyone")},
    )  # fmt: skip


@pytest.fixture
def channel() -> str:
    """A name that no other test has, of characters that the protocol allows."""
    return f"room-{next(_numbers)}"


def test_a_connection_is_told_its_id(node: Daemon) -> None:
    with Client(node) as one, Client(node, query="?protocol=5&client=java-client&version=2.4") as other:
        assert one.first["event"] == "pusher:connection_established"
        told = json.loads(one.first["data"])
        assert told["activity_timeout"] == 120
        worker, _, own = told["socket_id"].partition(".")
        assert worker.isdigit() and own.isdigit() and one.socket_id != other.socket_id
        one.send("pusher:ping")
        assert one.next() == {"event": "pusher:pong", "data": "{}"}


@pytest.mark.parametrize(
    ("path", "code"),
    [("/app/unknown?protocol=7", 4001), ("/app/app-key?protocol=4", 4007), ("/app/app-key?protocol=", 4007),
     ("/app/app-key/more?protocol=7", 4005), ("/app/?protocol=7", 4001)],
)  # fmt: skip
def test_a_refused_connection_is_told_why_by_an_event_and_by_the_close_code(node: Daemon, path: str, code: int) -> None:
    key, _, query = path.removeprefix("/app/").partition("?")
    with Client(node, {**APP, "key": key}, query=f"?{query}") as client:
        assert (client.first["event"], client.first["data"]["code"]) == ("pusher:error", code)
        assert client.close_code() == code


def test_a_client_without_a_version_speaks_the_newest(node: Daemon) -> None:
    with Client(node, query="") as client:
        assert client.first["event"] == "pusher:connection_established"


def test_a_page_of_another_origin_is_refused(node: Daemon) -> None:
    with Client(node, origin="https://elsewhere.example") as client:
        assert client.first["data"]["code"] == 4009
        assert client.close_code() == 4009
    with Client(node, origin=f"http://{node.host}:{node.port}") as client:
        assert client.socket_id


@pytest.mark.parametrize("garbage", ["", "{", "[]", '"text"', "{}", '{"event":1}', '{"event":"pusher:subscribe"}',
                                     '{"event":"pusher:subscribe","data":{"channel":5}}',
                                     '{"event":"pusher:subscribe","data":"no"}', '{"event":"own-name","data":1}',
                                     '{"event":"client-x","data":1}', "[" * 600])  # fmt: skip
def test_garbage_is_answered_and_the_connection_stays(node: Daemon, garbage: str) -> None:
    with Client(node) as client:
        client.ws.send(garbage)
        told = client.next()
        assert told["event"] == "pusher:error" and told["data"]["code"] is None and told["data"]["message"]
        client.send("pusher:unheard-of")
        assert client.ping() == []


def test_binary_frames_end_the_connection(node: Daemon) -> None:
    with Client(node) as client:
        client.ws.send(b"{}")
        assert client.close_code() == 1003


def test_messages_of_all_doors_reach_a_public_channel(node: Daemon, channel: str) -> None:
    with Client(node) as client, Client(node, compression="deflate") as packed:
        for each in (client, packed):
            assert each.subscribe(channel) == {}
        trigger(node, channel, "made", '{ "a" : [1,  2.50] }')
        node.publish(channel, {"b": 1})
        node.request("POST", f"/{channel}", "text", {"Content-Type": "text/plain", "Raiden-Event": "named"})
        node.request("POST", f"/{channel}", b"\x00\x01", {"Content-Type": "application/octet-stream"})
        node.request("POST", f"/{channel}", "1", {"Content-Type": "application/json", "Raiden-Event": "pusher:error"})
        for each in (client, packed):
            assert [each.next() for _ in range(5)] == [
                {"event": "made", "channel": channel, "data": '{ "a" : [1,  2.50] }'},
                {"event": "message", "channel": channel, "data": '{"b": 1}'},
                {"event": "named", "channel": channel, "data": "text"},
                {"event": "message", "channel": channel, "data": "AAE="},
                {"event": "message", "channel": channel, "data": "1"},
            ]


@pytest.mark.parametrize("data", ["", "text", '"json"', ' {"a":1}', '{"a":\n1}', "1.000", "\u2028\x00", "x" * 10_000])
def test_data_comes_as_it_was_given(node: Daemon, channel: str, data: str) -> None:
    with Client(node) as client:
        client.subscribe(channel)
        trigger(node, channel, "made", data)
        assert client.next() == {"event": "made", "channel": channel, "data": data}


def test_others_see_events_as_json_and_by_their_names(node: Daemon, channel: str) -> None:
    with (
        Stream(node, f"/{channel}", {"Accept": "text/event-stream"}) as stream,
        Stream(node, f"/{channel}?_event=App%5CMade") as filtered,
    ):
        trigger(node, channel, "App\\Made", '{"a": 1}')
        trigger(node, channel, "error", "no JSON")  # an EventSource has its own event of this name
        trigger(node, channel, "n" * 200, "\n[]")
        lines = [line for line in [stream.line() for _ in range(8)] if not line.startswith(b"id: ")]
        assert lines == [
            b"event: App\\Made", b'data: {"a": 1}', b'data: "no JSON"', b"event: " + b"n" * 200, b'data: "\\n[]"',
        ]  # fmt: skip
        assert filtered.value() == {"a": 1}


def test_private_channels_need_the_application_s_signature(node: Daemon, channel: str) -> None:
    name = f"private-{channel}"
    with Client(node) as client:
        for auth in ("", "app-key", "app-key:", f"app-key:{'0' * 64}", f"other:{hex_of('app-secret', 'x')}", 7, None):
            client.ask(name, auth=auth)
            told = client.expect("pusher:subscription_error", name)["data"]
            assert (told["type"], told["status"]) == ("AuthError", 401) and told["error"]
        assert client.subscribe(name) == {}
        told = json.dumps({"any": "data"})
        assert client.subscribe(f"private-encrypted-{channel}", channel_data=told) == {}
        trigger(node, name, "secret", "1")
        assert client.next() == {"event": "secret", "channel": name, "data": "1"}


def test_a_signature_is_for_one_connection(node: Daemon, channel: str) -> None:
    name = f"private-{channel}"
    with Client(node) as one, Client(node) as other:
        signed = f"app-key:{hex_of('app-secret', f'{one.socket_id}:{name}')}"
        other.ask(name, auth=signed)
        assert other.expect("pusher:subscription_error")["data"]["type"] == "AuthError"
        one.ask(name, auth=signed)
        assert one.expect("pusher_internal:subscription_succeeded")["channel"] == name


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a b", "Error"), ("", "Error"), ("a*", "Error"), ("#own", "Error"), ("x" * 201, "LimitReached"), ("é", "Error")],
)
def test_names_that_are_none_are_refused(node: Daemon, name: str, kind: str) -> None:
    with Client(node) as client:
        client.ask(name)
        told = client.next()
        assert (told["event"], told["channel"]) == ("pusher:subscription_error", name)
        assert json.loads(told["data"])["type"] == kind
        assert client.subscribe("x" * 200) == {}


def test_subscriptions_are_bounded(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        for number in range(8):
            client.subscribe(f"{channel}-{number}")
        client.ask(channel)
        assert client.expect("pusher:subscription_error")["data"]["type"] == "LimitReached"
        client.send("pusher:unsubscribe", {"channel": f"{channel}-0"})
        assert client.subscribe(channel) == {}
        assert client.subscribe(channel) == {}, "a second time changes nothing"
        trigger(node, f"{channel}-0", "unheard", "")
        trigger(node, channel, "heard", "")
        assert client.next()["event"] == "heard"
        assert client.ping() == [], "once"


def test_who_subscribes_again_and_again_is_told_so_and_waits_for_a_bounded_number(node: Daemon, channel: str) -> None:
    name = f"presence-{channel}"
    with Client(node) as client:
        client.join(name, "ann")
        assert client.join(name, "bob")["ids"] == ["ann"], "another user is not looked at"
        for number in range(100):
            client.ask(f"cache-{channel}-{number}")
            client.send("pusher:unsubscribe", {"channel": f"cache-{channel}-{number}"})
        told = {frame["event"] for frame in client.ping()}
        assert told <= {"pusher:subscription_error", "pusher_internal:subscription_succeeded", "pusher:cache_miss"}

        def subscribes() -> bool:
            client.ask(channel)
            while (frame := client.next()).get("channel") != channel:
                pass
            return bool(frame["event"] == "pusher_internal:subscription_succeeded")

        wait_for(subscribes, "those that waited are answered, and there is room again")


def test_apps_have_channels_of_their_own(node: Daemon, channel: str) -> None:
    with Client(node) as one, Client(node, SILENT) as other, Stream(node, f"/b:{channel}") as stream:
        one.subscribe(channel)
        other.subscribe(channel)
        trigger(node, channel, "first", "1")
        trigger(node, channel, "second", "2", app=SILENT)
        assert one.next()["event"] == "first" and one.ping() == []
        assert other.next() == {"event": "second", "channel": channel, "data": "2"} and other.ping() == []
        assert stream.value() == 2


def test_members_join_and_leave(node: Daemon, channel: str) -> None:
    name = f"presence-{channel}"
    with Client(node) as ann:
        assert ann.join(name, "ann", {"color": "red"}) == {
            "ids": ["ann"], "hash": {"ann": {"color": "red"}}, "count": 1,
        }  # fmt: skip
        with Client(node) as bob, Client(node) as tab:
            assert bob.join(name, 10)["hash"] == {"ann": {"color": "red"}, "10": None}
            assert ann.expect("pusher_internal:member_added") == {
                "event": "pusher_internal:member_added", "channel": name, "data": {"user_id": "10", "user_info": None},
            }  # fmt: skip
            assert tab.join(name, "ann", {"color": "blue"}) == {
                "ids": ["10", "ann"], "hash": {"ann": {"color": "red"}, "10": None}, "count": 2,
            }, "who is there already keeps its info"  # fmt: skip
            told = node.json(f"/-/channels/{name}/presence")
            assert {each["sub"]: each["connections"] for each in told["members"]} == {"ann": 2, "10": 1}
        assert ann.expect("pusher_internal:member_removed") == {
            "event": "pusher_internal:member_removed", "channel": name, "data": {"user_id": "10"},
        }  # fmt: skip
        assert ann.ping() == [], "a tab of ann's came and went"
        ann.send("pusher:unsubscribe", {"channel": name})
        wait_for(lambda: node.json(f"/-/channels/{name}/presence")["count"] == 0, "nobody is there")


def test_a_channel_has_a_bounded_number_of_members(node: Daemon, channel: str) -> None:
    name = f"presence-{channel}"
    clients = [Client(node) for _ in range(6)]
    for number, client in enumerate(clients[:4]):
        client.join(name, f"user{number}")
    clients[4].ask(name, channel_data='{"user_id":"one too many"}')
    assert clients[4].expect("pusher:subscription_error")["data"]["type"] == "LimitReached"
    assert clients[5].join(name, "user0")["count"] == 4, "another connection of a member"
    for client in clients:
        client.close()


def test_members_that_come_at_once_are_bounded_too(node: Daemon, channel: str) -> None:
    name = f"presence-{channel}"
    clients = [Client(node) for _ in range(30)]
    for number, client in enumerate(clients):
        # Of each user there are two, which say different things of it.
        client.ask(name, channel_data=json.dumps({"user_id": f"user{number // 2}", "user_info": number % 2}))
    answers = [next(frame for frame in iter(client.next, None) if frame["event"] in ANSWERS) for client in clients]
    # Each worker sees those that are there and its own.
    assert 4 <= len({number // 2 for number, told in enumerate(answers) if told["event"] == ANSWERS[0]}) <= 8
    for client in clients:
        client.close()


def test_a_user_that_comes_several_times_at_once_has_one_info(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, store="none", dialects=["pusher"], pusher_apps=[APP])
    tabs = [Client(node) for _ in range(8)]
    tabs[0].join("presence-room", "bob")
    for number, client in enumerate(tabs[1:]):
        client.ask("presence-room", channel_data=json.dumps({"user_id": "ann", "user_info": number}))
    told = [client.expect(ANSWERS[0], "presence-room")["data"]["presence"]["hash"] for client in tabs[1:]]
    assert len(told[0]) == 2 and all(each == told[0] for each in told), "who is there already keeps its info"
    for client in tabs:
        client.close()


@pytest.mark.parametrize(
    ("data", "kind"),
    [("{", "Error"), ("[]", "Error"), ("{}", "Error"), ('{"user_id":null}', "Error"), ('{"user_id":true}', "Error"),
     ('{"user_id":""}', "Error"), (json.dumps({"user_id": "x" * 129}), "LimitReached"),
     (json.dumps({"user_id": "x", "user_info": "x" * 5000}), "LimitReached"), (None, "AuthError")],
)  # fmt: skip
def test_who_does_not_say_who_it_is_does_not_join(node: Daemon, channel: str, data: Any, kind: str) -> None:
    with Client(node) as client:
        client.ask(f"presence-{channel}", **({} if data is None else {"channel_data": data}))
        assert client.expect("pusher:subscription_error")["data"]["type"] == kind


def test_members_that_others_know_by_a_token_or_by_signing_in(node: Daemon, channel: str) -> None:
    name = f"presence-{channel}"
    with Client(node) as client:
        client.sign_in("carl", user_info={"name": "Carl"})
        assert client.expect("pusher:signin_success")["data"]["user_data"] == json.dumps(
            {"id": "carl", "user_info": {"name": "Carl"}}
        )
        assert client.subscribe(name)["presence"]["hash"] == {"carl": {"name": "Carl"}}


def test_clients_publish_to_each_other(node: Daemon, channel: str) -> None:
    private, presence = f"private-{channel}", f"presence-{channel}"
    with Client(node) as ann, Client(node) as bob, Stream(node, f"/{presence}?_wrap=1") as stream:
        for client, user in ((ann, "ann"), (bob, "bob")):
            client.subscribe(private)
            client.join(presence, user)
        ann.expect("pusher_internal:member_added")
        ann.send("client-typing", {"x": [1, "2"]}, channel=private)
        ann.send("client-typing", "text", channel=presence)
        assert bob.next() == {"event": "client-typing", "channel": private, "data": {"x": [1, "2"]}}
        assert bob.next() == {"event": "client-typing", "channel": presence, "data": "text", "user_id": "ann"}
        assert ann.ping() == [], "not to itself"
        told = stream.value()
        assert (told["event"], told["data"], told["from"]) == ("client-typing", "text", {"sub": "ann"})
    _, _, body = node.request("GET", f"/{private}?_wait=0&_since=earliest")
    assert not body or json.loads(body)["messages"] == [], "they are not kept"


def test_events_of_clients_that_may_not_be(node: Daemon, channel: str) -> None:
    private = f"private-{channel}"
    with Client(node) as client, Client(node, SILENT) as silent, Client(node, SLOW) as slow:
        client.subscribe(private)
        client.subscribe(channel)
        client.subscribe(f"private-encrypted-{channel}")
        for name in (channel, f"private-encrypted-{channel}", f"private-other-{channel}"):
            client.send("client-x", {}, channel=name)
            told = client.expect("pusher:error")
            assert (told["channel"], told["data"]["code"]) == (name, 4301)
        silent.subscribe(private)
        silent.send("client-x", {}, channel=private)
        assert silent.expect("pusher:error")["data"]["code"] == 4301
        slow.subscribe(private)
        slow.send("client-x", "x" * 60, channel=private)
        assert "50 bytes" in slow.expect("pusher:error")["data"]["message"]
        for _ in range(20):
            slow.send("client-x", {}, channel=private)
        assert "2 client events a second" in slow.expect("pusher:error")["data"]["message"]


def test_a_user_hears_what_is_sent_to_it(node: Daemon) -> None:
    with Client(node) as ann, Client(node) as tab, Client(node) as other:
        for client in (ann, tab):
            client.sign_in("ann@example.com")
            client.expect("pusher:signin_success")
            client.subscribe("#server-to-user-ann@example.com")
        other.ask("#server-to-user-ann@example.com")
        assert other.expect("pusher:subscription_error")["data"]["type"] == "AuthError"
        ann.ask("#server-to-user-bob")
        assert ann.expect("pusher:subscription_error")["data"]["type"] == "AuthError"
        trigger(node, "#server-to-user-ann@example.com", "mail", '{"from":"bob"}')
        for client in (ann, tab):
            told = client.expect("mail")
            assert (told["channel"], told["data"]) == ("#server-to-user-ann@example.com", {"from": "bob"})


def test_a_watchlist_tells_who_is_online(node: Daemon) -> None:
    def here(client: Client, user: str, **more: Any) -> None:
        client.sign_in(user, **more)
        client.expect("pusher:signin_success")
        client.subscribe(f"#server-to-user-{user}")

    def changes(client: Client) -> Any:
        return client.expect("pusher_internal:watchlist_events")["data"]["events"]

    with Client(node) as eve, Client(node) as fay:
        here(eve, "eve")
        here(fay, "fay", watchlist=["eve", "gil", "eve"])
        assert changes(fay) == [{"name": "online", "user_ids": ["eve"]}, {"name": "offline", "user_ids": ["gil"]}]
        with Client(node) as gil:
            here(gil, "gil")
            assert changes(fay) == [{"name": "online", "user_ids": ["gil"]}]
        assert changes(fay) == [{"name": "offline", "user_ids": ["gil"]}]
        assert eve.ping() == []
    with Client(node) as client:
        here(client, "hal", watchlist=[f"u{number}" for number in range(101)])
        assert client.expect("pusher:error")["data"]["code"] == 4302
        assert len(changes(client)[0]["user_ids"]) == 100


def test_watchlists_have_a_bound_of_their_own(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, dialects=["pusher"], pusher_apps=[APP], pusher_max_watched=3)
    with Client(node) as ann, Client(node) as bob, Client(node) as carl:
        ann.sign_in("ann", watchlist=["u1", "u2"])
        told = ann.expect("pusher_internal:watchlist_events")["data"]["events"]
        assert told == [{"name": "offline", "user_ids": ["u1", "u2"]}]
        bob.sign_in("bob", watchlist=["u3", "u4"])
        told = bob.expect("pusher:error")["data"]
        assert told["code"] is None and "3 users of watchlists" in told["message"]
        for number in range(4):
            assert bob.join(f"presence-{number}", "bob")["count"] == 1, "presence is not refused"
        carl.sign_in("carl", watchlist=["u2", "u1"])
        assert carl.expect("pusher_internal:watchlist_events"), "these are watched already"


@pytest.mark.parametrize("user", ['{"id":""}', '{"id":1}', "[]", "{", '{"id":"other"}'])
def test_who_can_t_be_signed_in_is_cut_off(node: Daemon, user: str) -> None:
    with Client(node) as client:
        client.sign_in("first")
        client.expect("pusher:signin_success")
        auth = f"app-key:{hex_of('app-secret', f'{client.socket_id}::user::{user}')}"
        client.send("pusher:signin", {"auth": auth, "user_data": user})
        assert client.expect("pusher:error")["data"]["code"] == 4009
        assert client.close_code() == 4009


def test_no_user_of_an_app_is_one_of_another(node: Daemon) -> None:
    with Client(node, SILENT) as other, Client(node) as client:
        other.sign_in("ann")
        other.expect("pusher:signin_success")
        assert call(node, "POST", "users/b:ann/terminate_connections", {})[0] == 400
        assert other.ping() == []
        client.sign_in("b:ann")
        assert client.close_code() == 4009


def test_a_sign_in_needs_the_application_s_signature(node: Daemon) -> None:
    with Client(node) as client:
        client.send("pusher:signin", {"auth": "app-key:00", "user_data": '{"id":"ann"}'})
        assert client.close_code() == 4009


def test_cached_channels_tell_their_last_event(node: Daemon, channel: str) -> None:
    for name in (f"cache-{channel}", f"private-cache-{channel}"):
        with Client(node) as client:
            client.subscribe(name)
            assert client.next() == {"event": "pusher:cache_miss", "channel": name}
            for number in range(3):
                trigger(node, name, "made", f"[{number}]")
            assert [client.next()["data"] for _ in range(3)] == ["[0]", "[1]", "[2]"]
            if name.startswith("private"):
                client.send("client-x", 1, channel=name)
                client.ping()
        with Client(node) as client:
            client.subscribe(name)
            assert client.next() == {"event": "made", "channel": name, "data": "[2]"}
            trigger(node, name, "made", "[3]")
            assert client.next()["data"] == "[3]" and client.ping() == []


def test_a_deleted_channel_goes_on(node: Daemon, channel: str) -> None:
    with Client(node) as client:
        client.subscribe(channel)
        trigger(node, channel, "before", "1")
        assert node.request("DELETE", f"/{channel}")[0] in (200, 202, 204)
        trigger(node, channel, "behind", "2")
        assert [client.next()["event"] for _ in range(2)] == ["before", "behind"]
