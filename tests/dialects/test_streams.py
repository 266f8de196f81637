"""Durable Streams on a node: what the protocol's own suite does not try."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from raiden.dialects.streams import events, intervals, places
from raiden.model.message import Cursor, Message
from raiden.model.refusals import Invalid
from raiden.node import config
from tests.daemons import Daemon, Stream, running, wait_for
from tests.dialects.streams import JSON, START, TEXT, Events, add, ask, close, put, read
from tests.tokens import JWT_KEYS, bearer, token

SETTINGS: dict[str, Any] = {
    "dialects": ["streams"], "workers": 2, "streams_poll": 30.0,
    "channels": {"*": {}, "none.*": {"history_size": 0}, "few.*": {"history_size": 2}},
}  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(
        tmp_path_factory.mktemp("streams"), max_message=8192, allowed_origins=["https://listed.example"], **SETTINGS
    )


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node that wants tokens; what it sends ends soon, and is kept alive often."""
    yield from running(
        tmp_path_factory.mktemp("strict"), jwt_keys=JWT_KEYS, keepalive=0.5, streams_sse=3.0, streams_prefix="s/",
        **SETTINGS,
    )  # fmt: skip


class Later:
    """A request that waits, in a thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._found.append(work()), daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(60)
        assert self._found, "it still waits"
        return self._found[0]


def polls(node: Daemon, name: str, offset: str) -> Later:
    """A long-poll that waits."""
    before = node.metric("raiden_connections", transport="streams")
    later = Later(lambda: ask(node, "GET", f"{name}?offset={offset}&live=long-poll"))
    wait_for(lambda: node.metric("raiden_connections", transport="streams") > before, "it waits")
    return later


# The native side.


def test_a_stream_is_a_channel(node: Daemon, channel: str) -> None:
    made = put(node, channel, '[{"a":1},{"a":2}]', JSON)
    with Stream(node, f"/{channel}?_since=earliest&_wrap=1") as reader:
        assert [reader.value()["data"] for _ in range(2)] == [{"a": 1}, {"a": 2}]
        status, _, body = node.post_json(f"/{channel}", {"a": 3})
        assert status == 200 and reader.value()["data"] == {"a": 3}
        assert add(node, channel, "[[4],5]", JSON).status == 204
        assert [reader.value()["data"] for _ in range(2)] == [[4], 5]
        found = read(node, channel)
        assert json.loads(found.body) == [{"a": 1}, {"a": 2}, {"a": 3}, [4], 5]
        assert json.loads(read(node, channel, made.next).body) == [{"a": 3}, [4], 5]
        assert close(node, channel).closed
        assert reader.value() == {
            "channel": channel,
            "end": True,
            "cursor": _cursor(node, channel),
        }
    assert node.json(f"/-/channels/{channel}")["end"] is True
    status, _, body = node.post_json(f"/{channel}", {"a": 6})
    assert status == 409, body


def _cursor(node: Daemon, channel: str) -> str:
    found: str = node.json(f"/-/channels/{channel}")["cursor"]
    return found


def test_bytes_are_bytes(node: Daemon, channel: str) -> None:
    put(node, channel, bytes(range(256)), "image/png")
    with Stream(node, f"/{channel}?_since=earliest") as reader:
        assert base64.b64decode(reader.value()["base64"]) == bytes(range(256))
    assert read(node, channel).body == bytes(range(256))


def test_a_native_publish_must_fit(node: Daemon, channel: str) -> None:
    put(node, channel, None, JSON)
    status, _, body = node.request("POST", f"/{channel}", b"text", {"Content-Type": "text/plain"})
    assert status == 409 and JSON in json.loads(body)["detail"]
    put(node, channel + ".bytes", None, "application/octet-stream")
    assert node.post_json(f"/{channel}.bytes", 1)[0] == 409
    assert node.request("POST", f"/{channel}.bytes", b"x", {"Content-Type": "application/octet-stream"})[0] == 200
    assert read(node, channel + ".bytes").body == b"x"


def test_a_transient_message_is_none_of_the_stream(node: Daemon, channel: str) -> None:
    tail = put(node, channel, "[1]", JSON).next
    poll = polls(node, channel, tail)
    with Events(node, channel, tail) as reader:
        assert reader.pair()[1]["upToDate"]
        headers = {"Content-Type": JSON, "Raiden-Transient": "true"}
        assert node.request("POST", f"/{channel}", b"2", headers)[0] == 202
        assert add(node, channel, "3", JSON).status == 204
        assert json.loads(reader.pair()[0]) == [3]
    assert json.loads(poll.result().body) == [3]


def test_a_native_end_closes_a_stream(node: Daemon, channel: str) -> None:
    put(node, channel, "[1]", JSON)
    with Events(node, channel) as reader:
        assert json.loads(reader.pair()[0]) == [1]
        headers = {"Content-Type": JSON, "Raiden-End": "true"}
        assert node.request("POST", f"/{channel}", b"2", headers)[0] == 200
        data, told = reader.pair()
        assert json.loads(data) == [2] and told["streamClosed"] and reader.event() is None
    assert add(node, channel, "3", JSON).closed
    fork = put(node, channel + ".fork", "[3]", "", Stream_Forked_From=f"/v1/stream/{channel}")
    assert json.loads(read(node, channel + ".fork").body) == [1, 2, 3] and not fork.closed
    with Stream(node, f"/{channel}.fork?_since=earliest") as native:
        assert [native.value() for _ in range(3)] == [1, 2, 3]


def test_an_ordinary_channel_is_no_stream(node: Daemon, channel: str) -> None:
    assert node.post_json(f"/{channel}", 1)[0] == 200
    assert ask(node, "PUT", channel, None, Content_Type=JSON).status == 409
    for method in "GET", "HEAD", "DELETE":
        assert ask(node, method, channel).status == 404, method
    assert add(node, channel, "2", JSON).status == 404
    assert node.json(f"/-/channels/{channel}/history")["messages"][0]["data"] == 1


def test_a_channel_without_history_can_be_no_stream(node: Daemon, channel: str) -> None:
    refused = ask(node, "PUT", f"none.{channel}", None, Content_Type=TEXT)
    assert refused.status == 409 and b"history_size" in refused.body


def test_the_history_of_a_stream_is_not_cut(node: Daemon, channel: str) -> None:
    put(node, f"few.{channel}", "[0,1,2]", JSON)
    for number in range(3, 9):
        assert node.post_json(f"/few.{channel}", number)[0] == 200
    assert json.loads(read(node, f"few.{channel}").body) == list(range(9))


@pytest.mark.parametrize("natively", [False, True])
def test_who_waits_is_told_that_a_stream_was_deleted(node: Daemon, channel: str, natively: bool) -> None:
    tail = put(node, channel, "a").next
    poll = polls(node, channel, tail)
    with Events(node, channel, tail) as reader:
        assert reader.pair()[1]["upToDate"]
        path = f"/{channel}" if natively else f"/v1/stream/{channel}"
        assert node.request("DELETE", path)[0] == (202 if natively else 204)
        assert reader.event() is None
    assert poll.result().status == 404
    assert read(node, channel).status == 404
    assert put(node, channel, "b").next != tail
    assert read(node, channel, tail).status == 410, "the place of another stream"


# Live reads.


def test_an_array_comes_as_one_event(node: Daemon, channel: str) -> None:
    tail = put(node, channel, None, JSON).next
    with Events(node, channel, tail) as reader:
        told = reader.pair()[1]
        assert int(told.pop("streamCursor")) <= intervals.now()
        assert told == {"streamNextOffset": tail, "upToDate": True}
        added = add(node, channel, '[{"a":1},[2],"three"]', JSON)
        data, told = reader.pair()
        assert json.loads(data) == [{"a": 1}, [2], "three"]
        assert told["streamNextOffset"] == added.next and told["upToDate"]


def test_a_reader_goes_on_where_it_was(node: Daemon, channel: str) -> None:
    put(node, channel, "[0]", JSON)
    place, found = START, []
    for number in range(1, 6):
        with Events(node, channel, place) as reader:
            data, told = reader.pair()
            found += json.loads(data)
            add(node, channel, f"[{number}]", JSON)
            if not told["upToDate"]:
                _, told = reader.pair()
            place = told["streamNextOffset"]
    assert found == [0, 1, 2, 3, 4]


def test_a_poll_is_told_of_a_close(node: Daemon, channel: str) -> None:
    tail = put(node, channel, "a").next
    poll, again = polls(node, channel, tail), polls(node, channel, "now")
    closed = close(node, channel)
    for each in poll, again:
        found = each.result()
        assert (found.status, found.next, found.closed) == (204, closed.next, True)
        assert "stream-cursor" not in found.fields


def test_a_poll_is_told_of_the_last_append_with_the_close(node: Daemon, channel: str) -> None:
    tail = put(node, channel, "a").next
    poll = polls(node, channel, tail)
    closed = add(node, channel, "b", Stream_Closed="true")
    found = poll.result()
    assert (found.status, found.body, found.next, found.closed) == (200, b"b", closed.next, True)


def test_polls_of_one_connection_go_on(node: Daemon, channel: str) -> None:
    place = put(node, channel, "a").next
    connection = node.open()
    try:
        for text in "b", "c", "d":
            later = Later(lambda text=text: add(node, channel, text))  # type: ignore[misc]
            connection.request("GET", f"/v1/stream/{channel}?offset={place}&live=long-poll")
            response = connection.getresponse()
            assert response.read() == text.encode()
            place = response.headers["Stream-Next-Offset"]
            later.result()
    finally:
        connection.close()


@pytest.mark.parametrize("ttl", [None, "3600"])
def test_polls_for_the_same_share_an_answer(node: Daemon, channel: str, ttl: str | None) -> None:
    """Each client gets it, has its own connection, and may leave before the others."""

    def subscribers() -> int:
        found: int = node.json(f"/-/channels/{quote(channel, '')}")["subscribers"]
        return found

    place = put(node, channel, "a", **({"Stream_TTL": ttl} if ttl else {})).next
    for text in "b", "c":
        waiting = [polls(node, channel, place) for _ in range(8)]
        with node.connect() as leaver:
            target = f"/v1/stream/{quote(channel)}?offset={place}&live=long-poll"
            leaver.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            wait_for(lambda: subscribers() == 9, "all wait")
        wait_for(lambda: subscribers() == 8, "one has left")
        told = add(node, channel, text)
        found = [each.result() for each in waiting]
        place = told.next
        assert {(answer.status, answer.body, answer.next) for answer in found} == {(200, text.encode(), place)}
        assert len({answer.fields["etag"] for answer in found}) == 1
    waiting = [polls(node, channel, place) for _ in range(3)]
    assert ask(node, "DELETE", channel).status == 204
    assert [each.result().status for each in waiting] == [404] * 3
    assert ask(node, "GET", f"{channel}?offset={place}&live=long-poll").status == 404


def test_a_stream_that_is_made_again_is_another_one_for_polls(node: Daemon, channel: str) -> None:
    place = put(node, channel, "a").next
    later = polls(node, channel, place)
    assert ask(node, "DELETE", channel).status == 204 and later.result().status == 404
    put(node, channel, "z")
    assert ask(node, "GET", f"{channel}?offset={place}&live=long-poll").status == 410


def test_a_large_past_comes_in_pieces(node: Daemon, channel: str) -> None:
    put(node, channel, None, "application/octet-stream")
    piece = bytes(range(256)) * 30
    for _ in range(40):
        assert add(node, channel, piece, "application/octet-stream").status == 204
    found = b""
    with Events(node, channel) as reader:
        told: dict[str, Any] = {}
        while not told.get("upToDate"):
            data, told = reader.pair()
            found += base64.b64decode(data or "")
    assert found == piece * 40


def test_a_client_that_leaves_leaves_nothing(node: Daemon, channel: str) -> None:
    put(node, channel, "a")
    with Events(node, channel) as reader:
        reader.pair()
        assert node.json(f"/-/channels/{channel}")["subscribers"] == 1
    wait_for(lambda: node.json(f"/-/channels/{channel}")["subscribers"] == 0, "it has left")


# Life.


def test_a_live_read_holds_its_stream(strict: Daemon) -> None:
    headers = bearer(token())
    fields = {"Authorization": headers["Authorization"]}
    put(strict, "held", "a", Stream_TTL="1", **fields)
    begun, told = time.monotonic(), 0
    with Events(strict, "held", headers=headers) as reader:
        while reader.event() is not None:  # it is ended after 3 seconds
            told += 1
    assert told > 3 and time.monotonic() - begun > 2
    assert ask(strict, "HEAD", "held", **fields).status == 200
    wait_for(lambda: ask(strict, "HEAD", "held", **fields).status == 404, "its time is over")


def test_who_waits_is_told_that_the_time_is_over(node: Daemon, channel: str) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
    tail = put(node, channel, "a", Stream_Expires_At=at).next
    assert ask(node, "HEAD", channel).fields["stream-expires-at"] == at
    poll = polls(node, channel, tail)
    with Events(node, channel, tail) as reader:
        reader.pair()
        assert reader.event() is None
    assert poll.result().status == 404


# Refusals.


def test_a_refusal_is_a_line_of_text(node: Daemon, channel: str) -> None:
    put(node, channel, None, JSON)
    for refused, status in (
        (ask(node, "PATCH", channel), 405),
        (ask(node, "GET", f"{channel}?offset=x"), 400),
        (ask(node, "GET", f"{channel}?offset=-1&live=pigeon"), 400),
        (ask(node, "GET", "nothing"), 404),
        (ask(node, "GET", "__ds/subscriptions/x"), 404),
        (ask(node, "GET", ""), 400),
        (ask(node, "GET", "%00"), 400),
        (ask(node, "GET", "-/own"), 400),
        (add(node, channel, '{"a":'  , JSON), 400),
        (add(node, channel, json.dumps("x" * 9000), JSON), 413),
        (add(node, channel, json.dumps([1] * 10_001), JSON), 413),
        (add(node, channel, "1", JSON, Producer_Id="p"), 400),
        (add(node, channel, "1", JSON, Producer_Id="p", Producer_Epoch="0", Producer_Seq="9007199254740992"), 400),
        (add(node, channel, "1", JSON, Producer_Id="p" * 256, Producer_Epoch="0", Producer_Seq="0"), 400),
        (ask(node, "PUT", "new", None, Content_Type="a/" + "b" * 254), 400),
        (ask(node, "PUT", "new", None, Stream_TTL="1" * 30), 400),
        (ask(node, "PUT", "new", None, Stream_Expires_At="2030-02-30T00:00:00Z"), 400),
        (ask(node, "PUT", "new", None, Stream_Forked_From="elsewhere"), 400),
    ):  # fmt: skip
        assert refused.status == status, refused
        assert refused.fields["content-type"] == "text/plain; charset=utf-8"
        assert refused.fields["x-content-type-options"] == "nosniff"
        assert (refused.body.count(b"\n") == 1 and len(refused.body) > 10) or refused.status == 405
    assert ask(node, "HEAD", channel).next == START, "nothing was added"
    assert ask(node, "HEAD", "new").status == 404


def test_a_browser_runs_no_scripts_of_a_stream(node: Daemon, channel: str) -> None:
    put(node, channel, "<script>alert(1)</script>", "text/html")
    for query in ("", "?offset=-1&live=long-poll"):
        found = ask(node, "GET", channel + query)
        assert found.fields["content-type"] == "text/html"
        assert found.fields["content-security-policy"] == "sandbox"
    with Events(node, channel) as reader:
        assert reader.response.getheader("Content-Security-Policy") == "sandbox"


def test_an_array_keeps_its_elements_as_they_were_written(node: Daemon, channel: str) -> None:
    put(node, channel, None, JSON)
    assert add(node, channel, r'[ "\ud800" , {"a" : [1, 1e400, 12345678901234567890123]} ,"]" ]', JSON).status == 204
    assert read(node, channel).body == rb'["\ud800",{"a" : [1, 1e400, 12345678901234567890123]},"]"]'


def test_the_messages_of_an_array_may_be_many(node: Daemon, channel: str) -> None:
    put(node, channel, None, JSON)
    assert add(node, channel, json.dumps(list(range(3000))), JSON).status == 204
    found: list[int] = []
    place = START
    while len(found) < 3000:
        page = read(node, channel, place)
        found += json.loads(page.body)
        place = page.next
    assert found == list(range(3000))


def test_pages_of_listed_origins_may_use_streams(node: Daemon, channel: str) -> None:
    put(node, channel, "a")
    own = {"Origin": "https://listed.example"}
    found = ask(node, "GET", channel, **own)
    assert found.fields["access-control-allow-origin"] == "https://listed.example"
    assert "stream-next-offset" in found.fields["access-control-expose-headers"]
    preflight = ask(node, "OPTIONS", channel, Access_Control_Request_Method="PUT", **own)
    assert preflight.status == 204 and "PUT" in preflight.fields["access-control-allow-methods"]
    with Events(node, channel, headers=own) as reader:
        assert reader.response.headers["Access-Control-Allow-Origin"] == "https://listed.example"
    foreign = ask(node, "GET", channel, Origin="https://elsewhere.example")
    assert foreign.status == 403 and foreign.fields["content-type"].startswith("text/plain")
    told = ask(node, "OPTIONS", channel, Origin="https://elsewhere.example").fields
    assert "access-control-allow-origin" not in told


def test_garbage_ends_one_connection(node: Daemon, channel: str) -> None:
    put(node, channel, "a")
    with Events(node, channel) as reader, node.connect() as sock:
        reader.pair()
        sock.sendall(b"PUT /v1/stream/x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        assert b" 400 " in sock.recv(65536)
        assert add(node, channel, "b").status == 204
        assert reader.pair()[0] == "b"


# Permissions.


def test_each_request_needs_its_permission(strict: Daemon) -> None:
    def with_(action: str) -> dict[str, str]:
        claims: dict[str, Any] = {action: ["s/*"]}
        return {"Authorization": f"Bearer {token('ann', **claims)}"}

    name = "mine"
    for credentials in ({}, with_("history")):
        refused = ask(strict, "PUT", name, None, Content_Type=TEXT, **credentials)
        assert refused.status == (403 if credentials else 401)
        assert refused.fields["content-type"].startswith("text/plain")
    assert put(strict, name, "a", **with_("publish")).status == 201
    assert add(strict, name, "b", **with_("publish")).status == 204
    assert add(strict, name, "b", **with_("history")).status == 403
    found = read(strict, name, **with_("history"))
    assert found.body == b"ab" and found.fields["cache-control"].startswith("private")
    assert read(strict, name, **with_("publish")).status == 403
    live = f"{name}?offset=-1&live=sse"
    assert ask(strict, "GET", live, **with_("history")).status == 403
    assert ask(strict, "GET", live, **with_("subscribe")).status == 200, "to subscribe is to read"
    assert ask(strict, "HEAD", name, **with_("subscribe")).status == 200
    fork = {"Stream_Forked_From": f"/v1/stream/{name}"}
    assert ask(strict, "PUT", "fork", None, **fork, **with_("publish")).status == 403
    assert ask(strict, "DELETE", name, **with_("publish")).status == 403
    assert ask(strict, "DELETE", name, **with_("manage")).status == 204
    assert strict.request("GET", "/-/channels/s/mine", headers=bearer(token()))[0] in (200, 404)


def test_a_poll_that_others_have_sent_needs_its_own_permission(strict: Daemon) -> None:
    """A worker remembers the heads of polls, without the tokens in them."""
    owner = {"Authorization": f"Bearer {token()}"}
    tail = put(strict, "alike", "a", **owner).next

    def statuses(count: int, **claims: Any) -> set[int]:
        fields = {"Authorization": f"Bearer {token(**claims)}"}
        asked = [ask(strict, "GET", f"alike?offset={tail}&live=long-poll", **fields) for _ in range(count)]
        return {each.status for each in asked}

    assert add(strict, "alike", "b", **owner).status == 204
    assert statuses(6) == {200}
    for claims in {"publish": ["s/*"]}, {"history": ["s/*"]}, {"subscribe": ["other"]}:
        assert statuses(4, **claims) == {403}
    assert statuses(2, subscribe=["s/*"]) == {200}
    anyone = [ask(strict, "GET", f"alike?offset={tail}&live=long-poll").status for _ in range(4)]
    assert set(anyone) == {401}


def test_a_revocation_ends_polls(strict: Daemon) -> None:
    fields, reading = {"Authorization": f"Bearer {token()}"}, {"Authorization": f"Bearer {token('tom')}"}
    tail = put(strict, "polled", "a", **fields).next
    laters = [
        Later(lambda who=who: ask(strict, "GET", f"polled?offset={tail}&live=long-poll", **who))  # type: ignore[misc]
        for who in (reading, fields)
    ]

    def subscribers() -> int:
        found: int = json.loads(strict.request("GET", "/-/channels/s%2Fpolled", headers=fields)[2])["subscribers"]
        return found

    wait_for(lambda: subscribers() == 2, "both wait")
    told = json.dumps({"sub": "tom"})
    status, _, _ = strict.request("POST", "/-/revoke", told, {"Content-Type": JSON, **bearer(token())})
    assert status == 200 and laters[0].result().status == 401
    assert add(strict, "polled", "b", **fields).status == 204
    assert laters[1].result().body == b"b"


def test_a_revocation_ends_live_reads(strict: Daemon) -> None:
    fields = {"Authorization": f"Bearer {token()}"}
    reading = bearer(token("eve"))
    tail = put(strict, "revoked", "a", **fields).next
    before = strict.request("GET", "/-/health")[0]
    assert before == 200
    with Events(strict, "revoked", tail, headers=reading) as reader:
        reader.pair()
        status, _, _ = strict.request(
            "POST", "/-/revoke", json.dumps({"sub": "eve"}), {"Content-Type": JSON, **bearer(token())}
        )
        assert status == 200
        while reader.event() is not None:
            pass
    assert read(strict, "revoked", **{"Authorization": reading["Authorization"]}).status == 401


# Nothing is lost, and nothing done twice.


def test_appends_of_a_producer_survive_a_kill(start: Callable[..., Daemon]) -> None:
    """A producer sends 1,000 appends, several at once; the node is killed amid them, and each is sent again until it is
    answered."""
    node = start(dialects=["streams"], workers=2)
    put(node, "s", None, JSON)
    acknowledged = threading.Event()

    def fields(number: int) -> dict[str, str]:
        producer = {"Producer-Id": "p", "Producer-Epoch": "1", "Producer-Seq": str(number)}
        return {"Content-Type": JSON, **producer}

    def pipeline(daemon: Daemon, begin: int) -> int:
        """Send all from this number on, on one connection. Returns the number up to which there are answers."""
        done = begin
        with contextlib.suppress(OSError), daemon.connect() as sock:
            sender = threading.Thread(target=_send_all, args=(sock, fields, begin), daemon=True)
            sender.start()
            with sock.makefile("rb") as answers:
                while done < 1000 and (line := answers.readline()):
                    status = int(line.split()[1])
                    length = 0
                    while (line := answers.readline()).strip():
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    answers.read(length)
                    assert status in (200, 204), status
                    done += 1
                    if done > 150:
                        acknowledged.set()
            sender.join(60)
        return done

    def kill() -> bool:
        acknowledged.wait(60)
        node.signal_all(9)
        return True

    killer = Later(kill)
    done = pipeline(node, 0)
    killer.result()
    assert done > 150
    node.process.wait()
    again = Daemon(node.folder, dialects=["streams"], workers=2)
    try:
        # It does not know which of them were done: it sends some again, in their order.
        assert pipeline(again, max(0, done - 50)) == 1000
        found: list[int] = []
        place = START
        while not (page := read(again, "s", place)).fields.get("stream-up-to-date") or page.body != b"[]":
            found += json.loads(page.body)
            place = page.next
        assert found == list(range(1000))
    finally:
        again.stop()


def _send_all(sock: Any, fields: Callable[[int], dict[str, str]], begin: int) -> None:
    with contextlib.suppress(OSError):
        for number in range(begin, 1000):
            head = "".join([f"{name}: {value}\r\n" for name, value in fields(number).items()])
            body = str(number)
            request = f"POST /v1/stream/s HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
            sock.sendall(request.encode())


# Parts.


def test_places() -> None:
    place = Cursor("", 41, "00ff00ff00ff")
    assert places.token(place) == "0000000000000041_0001095233372415"
    assert places.parse(places.token(place)) == place
    assert places.token(places.START) == START and places.parse(START) == places.START
    for text in ("", "1", "1_2", START + "0", "\u0661" * 16 + "_" + "1" * 16, START.replace("_", "-")):
        with pytest.raises(Invalid):
            places.parse(text)


def test_a_cursor_is_always_greater_than_the_client_s() -> None:
    present = intervals.now()
    assert intervals.at_least(intervals.behind(None)) >= present
    for cursor in (present - 5, present, present + 1, present + 10_000):
        assert intervals.at_least(intervals.behind(str(cursor))) > cursor
    for nonsense in ("", "x", "-1", "1.5", "9" * 40, "\u0661"):
        assert intervals.behind(nonsense) == 0


@pytest.mark.parametrize(
    ("payload", "lines"),
    [
        (b"a", ["a"]), (b"a\nb", ["a", "b"]), (b"a\r\nb\rc\n", ["a", "b", "c", ""]), (b" a", ["  a"]), (b"", [""]),
        (b"\n\nevent: control\n", ["", "", "event: control", ""]), (b"\xff", ["\ufffd"]),
    ],
)  # fmt: skip
def test_text_can_begin_no_field(payload: bytes, lines: list[str]) -> None:
    told = events.data(events.TEXT, [payload]).decode()
    assert told == "event: data\n" + "".join(f"data:{line}\n" for line in lines) + "\n"


def test_messages_are_encoded_once_for_all_readers() -> None:
    encode = events.encoding(events.JSON, 0, True)
    assert encode is events.encoding(events.JSON, 0, True)
    message = Message("s", 0, b"1", Cursor("e", 1, "0" * 12))
    assert encode(message) is encode(message)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"store": "none"}, "history"),
        ({"streams_prefix": "-/"}, "streams_prefix"),
        ({"streams_poll": -1}, "streams_poll"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], says: str) -> None:
    words = [f"{name} = {value!r}" for name, value in {"dialects": ["streams"], **settings}.items()]
    with pytest.raises(config.ConfigError, match=says):
        config.load(None, words, {})
