"""Rates: how much a client may do, by every door. Clients are told apart by loopback's addresses."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq
from websockets.exceptions import ConnectionClosed

from raiden.access.clients import Client
from raiden.access.permit import OPEN, Permit
from raiden.access.rates import account, limits, network
from raiden.node import config
from tests.addresses import JSON, Answer, From, command, websocket
from tests.daemons import Daemon, running, wait_for
from tests.tokens import API_KEYS, JWT_KEYS, KEY, token
from tests.zeromq import OPEN as DOORS
from tests.zeromq import Clients, ask, in_force, payloads, refusal

BATCH = {"Content-Type": "application/x-ndjson"}
# Next to nothing comes back within a test: so many at once are all there are.
RATES = {"publish": (0.01, 5), "subscribe": (0.01, 4), "connect": (0.01, 30), "channel": (0.01, 8)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("rates"), workers=2, rates=RATES, allowed_origins=["*"], **DOORS)


def batch(client: From, channel: str, count: int) -> Answer:
    return client.request("POST", f"/{channel}", "1\n" * count, BATCH)


def once(node: Daemon, address: str, channel: str) -> int:
    """The status of a publish on a connection of its own."""
    with From(node, address) as client:
        return client.publish(channel)[0]


def check_refusal(answer: Answer, policy: str) -> None:
    """The answer is the refusal of a limit, in full."""
    status, told, body = answer
    assert status == 429, body
    per_second, at_once = RATES[policy]
    wait = int(told["retry-after"])
    assert 0 < wait <= at_once / per_second
    assert told["ratelimit"] == f'"{policy}";r=0;t={wait}'
    assert told["ratelimit-policy"] == f'"{policy}";q={at_once};w={int(at_once / per_second)}'
    problem = json.loads(body)
    assert problem["type"].endswith("#quota-exceeded") and problem["violated-policies"] == [policy]
    assert wait - 1 <= problem["retry_after"] <= wait and problem["status"] == 429
    assert "rates allow" in problem["detail"]


# Publish.


def test_one_connection_publishes_so_much(node: Daemon, here: str, there: str, channel: str) -> None:
    """The third request and all later ones have a head that is known."""
    with From(node, here) as client, From(node, there) as other:
        for number in range(5):
            status, told, _ = client.publish(f"{channel}.{number}")
            assert status == 200 and told["ratelimit"] == f'"publish";r={4 - number};t=100'
        for _ in range(3):
            check_refusal(client.publish(channel), "publish")
        assert other.publish(channel)[0] == 200, "another address has its own"


def test_a_refused_message_is_not_published(node: Daemon, here: str, channel: str) -> None:
    with From(node, here) as client:
        for _ in range(7):
            client.publish(channel)
    assert len(node.json(f"/-/channels/{channel}/history")["messages"]) == 5


def test_workers_count_together(node: Daemon, here: str, channel: str) -> None:
    """The kernel spreads connections over both workers."""
    assert sorted(once(node, here, f"{channel}.{number}") for number in range(20)) == [200] * 5 + [429] * 15


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/CHANNEL", "1\n2\n3", BATCH),
        ("/-/publish", '{"channels": ["CHANNEL", "CHANNEL.b", "CHANNEL.c"], "data": 1}', JSON),
    ],
    ids=["batch", "many"],
)
def test_each_message_counts(
    node: Daemon, here: str, channel: str, path: str, body: str, fields: dict[str, str]
) -> None:
    with From(node, here) as client:
        path, body = path.replace("CHANNEL", channel), body.replace("CHANNEL", channel)
        status, _, answer = client.request("POST", path, body, fields)
        assert status == 200, answer
        assert client.request("POST", path, body, fields)[0] == 429
        assert [client.publish(f"{channel}.d")[0] for _ in range(3)] == [200, 200, 429], "a refusal counts nothing"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_all_types_count(node: Daemon, here: str, channel: str, content_type: str) -> None:
    with From(node, here) as client:
        fields = {"Content-Type": content_type}
        statuses = [client.request("POST", f"/{channel}", "a=1", fields)[0] for _ in range(6)]
    assert statuses == [200] * 5 + [429]


def test_a_batch_that_may_never_be_is_told_so(node: Daemon, here: str, channel: str) -> None:
    with From(node, here) as client:
        status, told, body = batch(client, channel, 6)
        assert status == 413 and "retry-after" not in told
        assert b"6 messages in one go are more than rates allow (0.01 messages a second, 5 at once)" in body
        assert batch(client, channel, 5)[0] == 200


def test_a_channel_gets_so_much_from_all_together(node: Daemon, channel: str) -> None:
    addresses = [f"127.0.5.{number}" for number in range(1, 4)]
    with From(node, addresses[0]) as one, From(node, addresses[1]) as two, From(node, addresses[2]) as three:
        assert [client.publish(channel)[0] for client in (one, one, one, one, two, two, two, two)] == [200] * 8
        check_refusal(three.publish(channel), "channel")
        assert [three.publish(f"{channel}.else")[0] for _ in range(6)] == [200] * 5 + [429], "its own were given back"


def test_pages_may_read_the_fields(node: Daemon, here: str, channel: str) -> None:
    with From(node, here) as client:
        told = client.publish(channel, fields={"Origin": "https://a.example"})[1]
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= set(told["access-control-expose-headers"].split(", "))
    assert told["ratelimit"] == '"publish";r=4;t=100'


def test_a_command_is_refused_by_a_reply(node: Daemon, here: str, channel: str) -> None:
    with websocket(node, here) as socket:
        for _ in range(5):
            assert "cursor" in command(socket, cmd="publish", channel=channel, data=1)
        error = command(socket, cmd="publish", channel=channel, data=1)["error"]
        assert error["code"] == 429 and 0 < error["retry_after"] <= 100 and "rates allow" in error["message"]
        assert command(socket, cmd="ping") == {"id": 1}
    assert once(node, here, channel) == 429, "it is the same bucket"


def test_a_frame_closes_its_socket(node: Daemon, here: str, channel: str) -> None:
    with websocket(node, here, f"/{channel}") as socket:
        for number in range(6):
            socket.send(str(number))
        got = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                got.append(socket.recv(60))
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
        assert "rates allow" in closed.value.rcvd.reason

    def published() -> list[int]:
        return [message["data"] for message in node.json(f"/-/channels/{channel}/history")["messages"]]

    wait_for(lambda: len(published()) == 5, "those before it are published")
    assert published() == [0, 1, 2, 3, 4]


# Subscribe.


def test_each_subscription_counts(node: Daemon, here: str, channel: str) -> None:
    with From(node, here) as client:
        assert client.poll(f"/-/subscribe?channel={channel}&channel=b&channel=c*") == 204
        assert client.poll(f"/-/subscribe?channel={channel}&channel=b") == 429
        assert [client.poll(f"/{channel}") for _ in range(3)] == [204, 429, 429], "a refusal counts nothing"
        status, _, body = client.request("GET", "/-/subscribe?channel=1&channel=2&channel=3&channel=4&channel=5")
        assert status == 413 and b"5 subscriptions in one go are more than rates allow" in body


def test_long_polls_with_one_head_count(node: Daemon, here: str, there: str, channel: str) -> None:
    """They are served by a plan, and join those that wait."""
    with From(node, here) as client, From(node, there) as other:
        assert [client.poll(f"/{channel}") for _ in range(6)] == [204] * 4 + [429] * 2
        assert [other.poll(f"/{channel}") for _ in range(5)] == [204] * 4 + [429]
        check_refusal(client.request("GET", f"/{channel}?_wait=0"), "subscribe")


@pytest.mark.parametrize("path", ["/CHANNEL", "/CHANNEL*", "/CHANNEL?_durable=d&_wait=0"])
def test_streams_and_durables_count(node: Daemon, here: str, channel: str, path: str) -> None:
    statuses = []
    for _ in range(5):
        with closing(http.client.HTTPConnection(node.host, node.port, 60, source_address=(here, 0))) as connection:
            connection.request("GET", path.replace("CHANNEL", channel))
            response = connection.getresponse()
            statuses.append(response.status)
            response.close()
    assert statuses[:4] in ([200] * 4, [204] * 4) and statuses[4] == 429


def test_an_event_source_is_told_when_to_come_back(node: Daemon, here: str, channel: str) -> None:
    """A browser's would give up for good on 429."""
    with From(node, here) as client:
        assert [client.poll(f"/{channel}") for _ in range(4)] == [204] * 4
        status, told, body = client.request("GET", f"/{channel}", fields={"Accept": "text/event-stream"})
    assert status == 200 and told["content-type"] == "text/event-stream"
    retry, event, data = body.decode().strip().split("\n")
    assert event == "event: refused" and 0 < int(retry.removeprefix("retry: ")) <= 100_000
    problem = json.loads(data.removeprefix("data: "))
    assert problem["status"] == 429 and problem["violated-policies"] == ["subscribe"]


def test_commands_that_subscribe_count(node: Daemon, here: str, there: str, channel: str) -> None:
    with websocket(node, here) as socket:
        assert "error" not in command(socket, cmd="subscribe", channel=channel, durable="d")
        session = command(socket, cmd="session")["session"]
        for name in ("a", "b", "c"):
            assert "error" not in command(socket, cmd="subscribe", channel=f"{channel}.{name}")
        assert command(socket, cmd="subscribe", channel=f"{channel}.d")["error"]["code"] == 429
        assert command(socket, cmd="subscribe", channel=f"{channel}.d", durable="d")["error"]["code"] == 429
        assert command(socket, cmd="unsubscribe", channel=f"{channel}.d")["error"]["code"] == 404
    with websocket(node, here) as socket:
        wait_for(
            lambda: (error := command(socket, cmd="resume", session=session)["error"])["code"] == 429 and error,
            "the session was given back, and its subscriptions are more than are left",
        )
    with websocket(node, there) as socket:
        wait_for(
            lambda: len(command(socket, cmd="resume", session=session).get("subscriptions", ())) == 3,
            "it is as it was, for a client that may subscribe",
        )
        assert "error" not in command(socket, cmd="subscribe", channel=f"{channel}.d")
        assert command(socket, cmd="subscribe", channel=f"{channel}.e")["error"]["code"] == 429


# Connect.


def test_connections_are_refused_before_anything_is_read(node: Daemon, here: str, there: str) -> None:
    def come(address: str) -> bytes:
        with socket.create_connection((node.host, node.port), 60, (address, 0)) as sock:
            sock.settimeout(60)
            sock.sendall(b"GET /-/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            try:
                answer = b""
                while data := sock.recv(65536):
                    answer += data
            except ConnectionResetError:
                pass  # it was closed with what we had sent
            return answer

    answers = [come(here) for _ in range(32)]
    assert [answer.split(b" ")[1] for answer in answers[:30]] == [b"200"] * 30
    for answer in answers[30:]:
        assert answer == b"" or (answer.startswith(b"HTTP/1.1 429 ") and b'RateLimit-Policy: "connect";q=30' in answer)
    assert any(answers[30:]) or node.metric("raiden_rate_limited_total") >= 2
    assert come(there).startswith(b"HTTP/1.1 200 ")


def test_zeromq_clients_are_connections_too(node: Daemon, here: str) -> None:
    port = int(node.doors()["REQ"].rpartition(":")[2])
    refused = 0
    for number in range(32):
        with socket.create_connection((node.host, port), 60, (here, 0)) as sock:
            sock.settimeout(60)
            try:
                refused += sock.recv(1) == b""
            except ConnectionResetError:
                refused += 1
        assert refused == max(0, number - 29)


# ZeroMQ.


def test_req_is_refused(node: Daemon, here: str, channel: str) -> None:
    with Clients(node) as clients:
        port = node.doors()["REQ"].rpartition(":")[2]
        req = clients.context.socket(zmq.REQ)
        req.linger, req.rcvtimeo = 0, 60_000
        req.connect(f"tcp://{here}:0;{node.host}:{port}")
        for _ in range(5):
            assert ask(req, "publish", channel, "1")[0] == b"200"
        answer = ask(req, "publish", channel, "1")
        status, detail = refusal(answer)
        assert status == 429 and "rates allow" in detail and 0 < json.loads(answer[1])["retry_after"] <= 100
        assert ask(req, "ping")[0] == b"200"


def test_push_and_sub_are_slowed_down(start: Callable[..., Daemon], channel: str) -> None:
    """Nothing is lost, and nothing out of order, with and without a history."""
    node = start(
        rates={"publish": (400, 10), "subscribe": (100, 5)},
        channels={"*": {"history_size": 0}, "kept.*": {"history_size": 100}}, **DOORS,
    )  # fmt: skip
    with Clients(node) as clients:
        names = [f"{prefix}.{channel}" for prefix in ("kept", "free")]
        subs = [clients.sub(name) for name in names]
        push, begun = clients.push(), time.monotonic()
        for number in range(50):
            for name in names:
                push.send_multipart([name.encode(), b"%d" % number])
        for sub in subs:
            assert payloads(sub, 50) == [b"%d" % number for number in range(50)]
        assert time.monotonic() - begun > 90 / 400
        # 20 topics at once are 15 too many: those that follow wait.
        begun = time.monotonic()
        sub = clients.sub(*[f"{channel}.{number}" for number in range(20)])
        sub.subscribe(f"{channel}.late")
        in_force(sub)
        assert time.monotonic() - begun > 14 / 100
        node.publish(f"{channel}.late", 1)
        assert payloads(sub, 1) == [b"1"]


# Accounts.


def test_a_subject_and_a_key_count_wherever_they_come_from(
    start: Callable[..., Daemon], here: str, there: str, channel: str
) -> None:
    node = start(rates={"publish": (0.01, 2)}, jwt_keys=JWT_KEYS, api_keys=API_KEYS, channels={"*": {}, "open.*": {
        "publish": "anyone"}})  # fmt: skip
    for credential in (token("ann"), KEY):
        with From(node, here, credential) as client, From(node, there, credential) as other:
            assert [each.publish(channel)[0] for each in (client, other, client, other)] == [200, 200, 429, 429]
    with From(node, here, token("bob")) as client:
        assert client.publish(channel)[0] == 200
    with From(node, here) as client, From(node, there) as other:
        assert [each.publish("open.a")[0] for each in (client, client, other, client)] == [200, 200, 200, 429]
        assert client.publish(channel)[0] == 401, "who may not do it at all is told so"


def test_clients_of_a_trusted_proxy_have_their_own(start: Callable[..., Daemon], channel: str) -> None:
    node = start(rates={"publish": (0.01, 2), "connect": (0.01, 3)}, trusted_proxies=["127.0.0.1"])
    found = []
    for number in range(6):  # more connections than one address may make
        with From(node, "127.0.0.1") as proxy:
            client = f"192.0.2.{1 + number // 3}"
            found += [proxy.publish(channel, fields={"X-Forwarded-For": client})[0]]
    assert found == [200, 200, 429] * 2


def test_accounts() -> None:
    def permit(**known: Any) -> Permit:
        return Permit(Client("x", **known), OPEN)

    assert account(None, "1.2.3.4") == "1.2.3.4" == account(permit(credential=""), "1.2.3.4")
    assert account(permit(credential="key"), "1.2.3.4") == "key:x"
    assert account(permit(credential="token", subject="ann"), "1.2.3.4") == "sub:ann"
    assert account(permit(credential="token"), "1.2.3.4") == "1.2.3.4", "a token that names nobody"


def test_networks() -> None:
    assert network("1.2.3.4") == "1.2.3.4" == network("::ffff:1.2.3.4")
    assert network("2001:db8:1:2::5") == network("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::5") != network("2001:db8:1:2::5")
    assert network("fe80::1%eth0") == "fe80::/64" and network("@unix") == "@unix"


# The whole.


def test_a_flood_from_one_address_refuses_no_other(start: Callable[..., Daemon], here: str, there: str) -> None:
    node = start(rates={"publish": (50, 100), "channel": (100_000, 100_000), "connect": (1000, 1000)})
    stop = threading.Event()
    refused = itertools.count()

    def flood() -> None:
        with From(node, here) as client:
            while not stop.is_set():
                if client.publish("flood")[0] == 429:
                    next(refused)

    threads = [threading.Thread(target=flood) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: next(refused) > 50, "the flood is refused")
        with From(node, there) as client:
            assert [client.publish("calm")[0] for _ in range(80)] == [200] * 80
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert node.metric("raiden_rate_limited_total") > 40


def test_a_reload_keeps_the_buckets_of_limits_that_stay(tmp_path: Path, here: str, channel: str) -> None:
    file = tmp_path / "conf.py"
    file.write_text("rates = {'publish': (0.01, 5)}")
    node = Daemon(tmp_path / "node", config=file, workers=2)
    loaded = itertools.count(1)

    def reload(setting: str) -> None:
        file.write_text(f"rates = {setting}\n")
        node.signal(signal.SIGHUP)
        number = next(loaded)
        wait_for(lambda: node.log().count("reloaded") == number, "the settings are read again")

    try:
        with From(node, here) as client, websocket(node, here) as socket:
            assert batch(client, channel, 5)[0] == 200
            assert client.publish(channel)[0] == 429
            reload("{'publish': (0.01, 5), 'subscribe': (0.01, 1)}")
            wait_for(lambda: command(socket, cmd="subscribe", channel="b").get("error", {}).get("code") == 429,
                     "connections that are open go by the new limit")  # fmt: skip
            assert client.publish(channel)[0] == 429, "a limit that stays has its buckets"
            reload("{'publish': (0.01, 3)}")
            wait_for(lambda: client.publish(channel)[0] == 200, "another limit has new ones")
            reload("{}")
            wait_for(lambda: all(client.publish(channel)[0] == 200 for _ in range(5)), "no limit")
            reload("{'publish': (0.01, 5)}")
            wait_for(lambda: client.publish(channel)[0] == 429, "and again what the first one left")
            reload("{'publish': 5}")
        assert "rates: publish must be like (100, 200)" in node.log()
    finally:
        assert node.stop() == 0


def test_curl_sees_it(node: Daemon, here: str, channel: str) -> None:
    command = ["curl", "-sS", "--interface", here, "-i", "-d", "1", "-H", "Content-Type: application/json"]
    urls = [f"{node.url}/{channel}.{number}" for number in range(6)]
    said = subprocess.run([*command, *urls], capture_output=True, text=True, check=True).stdout
    assert said.count("HTTP/1.1 200 OK") == 5 and said.count("HTTP/1.1 429 Too Many Requests") == 1
    assert 'RateLimit-Policy: "publish";q=5;w=500' in said


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("{'publsh': (1, 2)}", "there is no 'publsh'; did you mean publish?"),
        ("{1: (1, 2)}", "there is no 1; known here: channel, connect, publish, subscribe"),
        ("{'publish': 5}", "publish must be like (100, 200), for 100 a second and 200 at once, not 5"),
        ("{'publish': (0, 5)}", "publish must be like"),
        ("{'publish': (-1, 5)}", "publish must be like"),
        ("{'publish': (5, 0.5)}", "publish must be like"),
        ("{'publish': (5, 1.5)}", "publish must be like"),
        ("{'publish': ('5', 1)}", "publish must be like"),
        ("{'publish': (float('nan'), 1)}", "publish must be like"),
        ("{'publish': (1, float('inf'))}", "publish must be like"),
        ("{'publish': (1, 2, 3)}", "publish must be like"),
        ("{'publish': (1e-300, 5)}", "publish must be like"),
    ],
)
def test_settings_that_are_wrong(setting: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "conf.py"
    file.write_text(f"rates = {setting}\n")
    with pytest.raises(config.ConfigError, match="rates: ") as error:
        config.load(str(file), environ={})
    assert why in str(error.value)


def test_settings_that_are_right() -> None:
    settings, _ = config.load(overrides=["rates = {'publish': (0.5, 10), 'connect': [20, 40]}"], environ={})
    found = limits(settings.rates)
    assert {name: (limit.per_second, limit.at_once, limit.window) for name, limit in found.items()} == {
        "publish": (0.5, 10.0, 20), "connect": (20.0, 40.0, 2),
    }  # fmt: skip
