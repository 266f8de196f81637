"""Delegates that fail: a URL that hangs, lies, sends too much, redirects or dies, and a Python object that raises."""

from __future__ import annotations

import http.client
import json
import re
import socket as sockets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from raiden.hooks import delegate as delegates
from raiden.hooks.breaker import FAILURES
from raiden.hooks.delegate import Delegate, DelegateAway
from raiden.hooks.question import Asker, Question
from raiden.hooks.verdict import Verdict, of_json
from raiden.hooks.ways import ByMethods
from raiden.model.message import Kind, Message
from raiden.model.refusals import Fault
from raiden.node import config
from tests.daemons import Daemon, Stream, wait_for
from tests.scripted import Scripted
from tests.tokens import API_KEYS, KEY, bearer

JSON = {"Content-Type": "application/json"}
SECRET = {"Cookie": "chocolate"}


def answer(body: bytes, head: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


GOOD = answer(b'{"allow":true}')
LARGE = b'{"allow":true,"reason":"%b"}' % (b"x" * 10_000_000)
# Answers by channel, with the reason that the log gives for each; None: the connection is closed.
FAULTY: dict[str, tuple[bytes | None, str]] = {
    "hangs": (b"", "no answer within"),
    "trickles": (b"HTTP/1.1 200 OK\r\nContent-Len", "no answer within"),
    "dies": (None, "closed without an answer"),
    "breaks-off": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "broke off"),
    "no-http": (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
    "no-json": (answer(b"<html>chocolate"), "it is no JSON"),
    "no-object": (answer(b"[]"), "it is no JSON object"),
    "nothing": (answer(b""), "it is no JSON"),
    "wrong-type": (answer(b'{"allow":"yes"}'), "allow is neither true nor false"),
    "wrong-ttl": (answer(b'{"allow":true,"ttl":"chocolate"}'), "ttl is no number"),
    "wrong-filters": (answer(b'{"allow":true,"filters":7}'), "filters is no object"),
    "unknown": (answer(b'{"allow":true,"chocolate":1}'), "unknown member"),
    "no-word": (answer(b"{}"), "allow is neither true nor false"),
    "large": (answer(LARGE), "more than 65536 bytes"),
    "large-in-chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n",
        "more than 65536 bytes",
    ),
    "long-head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "head"),
    "redirects": (b"HTTP/1.1 302 Found\r\nLocation: /chocolate\r\nContent-Length: 0\r\n\r\n", "the status 302"),
    "fails": (answer(b"chocolate", b"500 Chocolate"), "the status 500"),
    "not-there": (answer(GOOD, b"404 Not Found"), "the status 404"),
    "says-nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", "the status 204"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    def act(sock: sockets.socket, number: int) -> bool:
        asked = json.loads(found.requests[number][1])
        data, _ = FAULTY.get(asked.get("channel", ""), (GOOD, ""))
        if data is None:
            return False
        try:
            sock.sendall(data)
        except OSError:
            return False  # the node takes no more of it
        if "no answer" in FAULTY.get(asked.get("channel", ""), ("", ""))[1]:
            found.over.wait(60)
        return asked.get("channel") != "breaks-off"

    with Scripted(act) as found:
        yield found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, server: Scripted) -> Iterator[Daemon]:
    found = Daemon(
        tmp_path_factory.mktemp("faults"), api_keys=API_KEYS, channels={"*": {}, "open.*": {"subscribe": "anyone"}},
        delegate={"url": server.url, "timeout": 1, "headers": ["cookie"], "events": ["subscribe", "publish"]},
    )  # fmt: skip
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()
    for secret in ("chocolate", "hidden", "payload"):
        assert secret not in found.log(), "the log has nothing of a question or an answer"


def post(node: Daemon, channel: str, value: Any = "payload", **headers: str) -> tuple[int, dict[str, str], bytes]:
    return node.request("POST", f"/{channel}", json.dumps(value), {**JSON, **headers})


def reset(node: Daemon) -> None:
    """A good answer, so that failures don't follow each other."""
    assert post(node, "good")[0] == 200


@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_is_refused_fast_and_disturbs_nothing(node: Daemon, fault: str) -> None:
    reset(node)
    with Stream(node, "/open.a") as stream:
        status, told, body = post(node, fault, **SECRET)
        assert status == 503 and 1 <= int(told["retry-after"]) <= 5 and json.loads(body)["status"] == 503
        reset(node)
        status, told, _ = node.request("GET", f"/{fault}?_wait=0", headers=SECRET)
        assert status == 503 and "retry-after" in told
        assert post(node, "open.a", 1, **bearer(KEY))[0] == 200
        assert stream.value() == 1
    reset(node)
    assert FAULTY[fault][1] in node.log()
    _, _, page = node.request("GET", f"/-/channels/{fault}/history", headers=bearer(KEY))
    assert json.loads(page)["messages"] == [], "a refusal comes before any effect"


def test_an_event_source_is_told_to_come_back(node: Daemon) -> None:
    reset(node)
    with Stream(node, "/fails", {"Accept": "text/event-stream"}) as stream:
        assert stream.status == 200 and stream.line().startswith(b"retry:") and stream.line() == b"event: refused"
    reset(node)


def test_a_delegate_that_is_away_and_comes_back(start: Callable[..., Daemon]) -> None:
    """Refused at once while it is away, those subscribed stay, and it is asked again by itself."""

    def act(sock: sockets.socket, number: int) -> bool:
        sock.sendall(answer(b'{"allow":true,"ttl":1}'))
        return True

    server = Scripted(act)
    found = start(api_keys=API_KEYS, delegate={"url": server.url, "events": ["subscribe", "publish"]})
    with Stream(found, "/a") as stream:
        assert stream.status == 200
        server.close()
        for _ in range(FAILURES):
            status, told, _ = found.request("GET", "/b?_wait=0")
            assert status == 503 and "retry-after" in told
        wait_for(lambda: "fails again and again" in found.log(), "the breaker opens")
        assert found.request("GET", "/b?_wait=0")[0] == post(found, "b")[0] == 503
        assert post(found, "a", 1, **bearer(KEY))[0] == 200 and stream.value() == 1, "who has subscribed stays"
        with Scripted(act, port=server.port) as again:
            wait_for(lambda: found.request("GET", "/b?_wait=0")[0] == 204, "it is asked again", every=0.2)
            wait_for(lambda: "answers again" in found.log(), "the log says so")
            wait_for(lambda: any(b'"channel":"a"' in body for _, body in again.requests), "also about the past")
            assert post(found, "a", 2, **bearer(KEY))[0] == 200 and stream.value() == 2


# A Python object.

OBJECT = """
import gevent

class Rules:
    headers = ["cookie"]
    timeout = 1

    def on_subscribe(self, question):
        if question.channel == "slow":
            gevent.sleep(0.5)
        return question.channel != "refused"

    def on_publish(self, question):
        if question.channel == "raises":
            raise ValueError("chocolate cake")
        if question.channel == "hangs":
            gevent.sleep(60)
        if question.channel == "nothing":
            return None
        if question.channel == "lies":
            return {"allow": True, "data": object()}
        return {"allow": question.data != 0, "reason": "no zero", "data": [question.client.address, question.data]}

    def on_unsubscribe(self, question):
        raise RuntimeError("told in vain")

delegate = Rules()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "raiden.conf.py"
    path.write_text(OBJECT)
    return path


def test_a_python_object(start: Callable[..., Daemon], file: Path) -> None:
    found = start(config=file, api_keys=API_KEYS)
    assert post(found, "a", 1)[0] == 200
    status, _, body = post(found, "a", 0)
    assert status == 403 and json.loads(body)["detail"] == "no zero"
    with Stream(found, "/a?_since=earliest") as stream:
        assert stream.value() == ["127.0.0.1", 1]
        for channel, wanted in (("raises", 500), ("nothing", 500), ("lies", 500), ("hangs", 503)):
            assert post(found, channel)[0] == wanted, channel
            assert post(found, "a", channel)[0] == 200 and stream.value() == ["127.0.0.1", channel]
    wait_for(lambda: "told in vain" in found.log(), "it is told of the end")
    with Stream(found, "/refused") as stream:
        assert stream.status == 403
    done: list[int] = []
    slow = threading.Thread(target=lambda: done.append(found.request("GET", "/slow?_wait=0")[0]))
    slow.start()
    assert post(found, "a", 2)[0] == 200
    slow.join()
    assert done == [204]
    log = found.log()
    assert "on_publish failed" in log and "chocolate cake" in log and "on_unsubscribe failed" in log
    assert "Traceback" in log and log.count("ValueError: chocolate cake") == 1


def test_a_reload_says_that_another_object_needs_a_restart(start: Callable[..., Daemon], file: Path) -> None:
    found = start(config=file)
    file.write_text(OBJECT + "\nkeepalive = 7\n")
    found.signal(1)
    wait_for(lambda: "changed=['keepalive']" in found.log(), "it is reloaded")
    assert "needs a restart" not in found.log()
    file.write_text(OBJECT.replace("no zero", "no nought"))
    found.signal(1)
    wait_for(lambda: re.search("needs a restart: .*delegate", found.log()), "it says so")


# The bounds, in this process.

ANN = Asker("1", "ann", None, "127.0.0.1")


class Gated:
    """Answers when ``gate`` is set."""

    timeout = 30.0

    def __init__(self, answer: Any = True) -> None:
        self.gate = Event()
        self.answer = answer
        self.asked = 0

    def on_subscribe(self, question: Question) -> Any:
        self.asked += 1
        self.gate.wait()
        return self.answer

    on_publish = on_subscribe


def about(channel: str, payload: bytes | None = None) -> Question:
    if payload is None:
        return Question("subscribe", ANN, channel)
    return Question("publish", ANN, channel, message=Message(channel, Kind.JSON, payload))


def test_questions_under_way_are_bounded() -> None:
    gated = Gated()
    delegate = Delegate(ByMethods(gated))
    asked = [gevent.spawn(delegate.ask, about(str(number))) for number in range(delegates.MAX_QUESTIONS)]
    gevent.sleep(0)
    with pytest.raises(DelegateAway, match="too many"):
        delegate.ask(about("one more"))
    same = gevent.spawn(delegate.ask, about("7"))  # it waits for one that is under way
    gated.gate.set()
    gevent.joinall([*asked, same], timeout=30, raise_error=True)
    assert all(each.value == Verdict() for each in [*asked, same]) and gated.asked == delegates.MAX_QUESTIONS
    assert delegate.ask(about("one more")) == Verdict()


def test_bytes_of_questions_under_way_are_bounded() -> None:
    gated = Gated()
    delegate = Delegate(ByMethods(gated))
    message = b'"%b"' % (b"x" * (1 << 20))
    asked = [gevent.spawn(delegate.ask, about("a", message)) for _ in range(delegates.MAX_BYTES // (1 << 20) - 1)]
    gevent.sleep(0)
    with pytest.raises(DelegateAway, match="too many"):
        delegate.ask(about("a", message))
    gated.gate.set()
    gevent.joinall(asked, timeout=30, raise_error=True)
    assert delegate.ask(about("a", message)) == Verdict()


def test_a_delegate_that_fails_is_not_asked_for_a_while() -> None:
    gated = Gated()
    gated.timeout = 0.01
    delegate = Delegate(ByMethods(gated))
    for number in range(FAILURES + 20):
        with pytest.raises(DelegateAway):
            delegate.ask(about(str(number)))
    assert gated.asked == FAILURES


def test_answers_that_are_kept_are_bounded() -> None:
    gated = Gated({"allow": True, "info": "x" * 4000, "ttl": 600})
    gated.gate.set()
    delegate = Delegate(ByMethods(gated))
    fit = delegates.MAX_KEPT // 4000
    for number in range(fit + 100):
        delegate.ask(about(str(number)))
    delegate.ask(about(str(fit + 99)))
    assert gated.asked == fit + 100, "the last one is kept"
    delegate.ask(about("0"))
    assert gated.asked == fit + 101, "the first one went"


def test_those_that_wait_for_the_same_answer_hear_of_its_failure() -> None:
    class Failing(Gated):
        def on_subscribe(self, question: Question) -> Any:
            super().on_subscribe(question)
            raise ValueError("no")

    gated = Failing()
    delegate = Delegate(ByMethods(gated))
    first, second = gevent.spawn(_outcome, delegate), gevent.spawn(_outcome, delegate)
    gevent.sleep(0)
    gated.gate.set()
    gevent.joinall([first, second], timeout=30)
    assert gated.asked == 1 and isinstance(first.value, Fault) and isinstance(second.value, Fault)
    gated.gate.clear()
    first, second = gevent.spawn(_outcome, delegate), gevent.spawn(_outcome, delegate)
    gevent.sleep(0)
    first.kill()
    second.join(30)
    assert gated.asked == 2 and isinstance(second.value, DelegateAway), "the first one's connection has ended"


def _outcome(delegate: Delegate) -> Any:
    try:
        return delegate.ask(about("a"))
    except Exception as error:
        return error


# Settings.


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("{}", "url is a text"),
        ("{'url': 'http://app.example/'}", "delegate: url is https"),
        ("{'url': 'ftp://127.0.0.1/'}", "delegate: url is like"),
        ("{'url': 'https://a:b@app.example/'}", "without a name and a password"),
        ("{'url': 'https://app.example/', 'timout': 2}", "did you mean timeout?"),
        ("{'url': 'https://app.example/', 'timeout': 0}", "timeout is a number of seconds, at most 30"),
        ("{'url': 'https://app.example/', 'timeout': True}", "timeout is a number of seconds, at most 30"),
        ("{'url': 'https://app.example/', 'headers': 'cookie'}", "headers is a list of names"),
        ("{'url': 'https://app.example/', 'events': ['subscribed']}", "events is a list of some of connect"),
        ("{'url': 'https://app.example/', 'connections': 0}", "connections is a whole number"),
        ("{'url': 'https://app.example/', 'insecure': 1}", "insecure is True or False"),
        ("7", "delegate: int has none of the methods on_connect"),
        ("'https://app.example/'", "delegate: str has none of the methods on_connect"),
        ("Rules", "make an object of it, as Rules()"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, setting: str, said: str) -> None:
    path = tmp_path / "raiden.conf.py"
    path.write_text(f"class Rules:\n    def on_subscribe(self, question): return True\ndelegate = {setting}\n")
    with pytest.raises(config.ConfigError) as error:
        config.load(str(path), environ={})
    assert said in str(error.value) and "\n" not in str(error.value)


# The documents' examples.

TEXT = (Path(__file__).parent.parent / "docs/delegates.md").read_text()


def test_the_documents_application() -> None:
    found = re.search(r"<!-- application -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    made: dict[str, Any] = {"__name__": "app"}
    exec(found[1], made)
    server = made["ThreadingHTTPServer"](("127.0.0.1", 0), made["Application"])
    spare = http.client.HTTPConnection(*server.server_address)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for event, channel, cookie, allowed in (
            ("connect", None, "", True), ("subscribe", "news", "", True), ("subscribe", "other", "", False),
            ("publish", "news", "", False), ("publish", "news", "sid=1", True),
        ):  # fmt: skip
            question = {"event": event, "channel": channel, "client": {"headers": {"cookie": cookie}}}
            spare.request("POST", "/", json.dumps(question))
            assert json.loads(spare.getresponse().read())["allow"] is allowed
    finally:
        spare.close()
        server.shutdown()
        server.server_close()


def test_the_documents_example(start: Callable[..., Daemon], tmp_path: Path) -> None:
    path = tmp_path / "raiden.conf.py"
    found = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    path.write_text(found[1])
    node = start(config=path)
    assert post(node, "chat", "hello", Cookie="sid=1")[0] == 200
    status, _, body = post(node, "chat", "hello")
    assert status == 401 and json.loads(body)["detail"] == "log in to write" and post(node, "news", 1)[0] == 401
    for channel, wanted in (("news", 200), ("team.red.1", 200), ("chat", 403)):
        with Stream(node, f"/{channel}") as stream:
            assert stream.status == wanted


def test_the_documents_json() -> None:
    question, answer = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))
    client = question["client"]
    asker = Asker(client["id"], client["sub"], client["info"], client["address"], client["headers"])
    assert json.loads(Question(question["event"], asker, question["channel"]).to_json()) == question
    assert of_json(json.dumps(answer).encode()).ttl == 60
