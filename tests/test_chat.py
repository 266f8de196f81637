"""examples/chat in Chromium: its application, its node, and people who log in with browsers of their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import test_clients
from tests.daemons import ROOT, Daemon, environment, wait_for
from tests.test_clients import Browser
from tests.test_daemon import free_port
from tests.test_page import tab
from tests.tokens import SECRET, bearer, token

pytest.importorskip("flask", reason="needs flask: pip install -r examples/chat/requirements.txt")

browser = test_clients.browser

EXAMPLE = ROOT / "examples" / "chat"
API_KEY = "the application's key"
JSON = {"Content-Type": "application/json"}
SHOWN = "[...document.querySelectorAll('#messages li span')].map((each) => each.textContent)"
STATE = "document.getElementById('state').value"
NOTICE = "document.getElementById('notice').textContent"
# Keeps the sockets that the page opens, when each was opened, and the codes by which they were closed.
WATCH = """const sockets = [], codes = [];
    WebSocket = class extends WebSocket {
        constructor(...given) {
            super(...given);
            sockets.push(this);
            this.addEventListener("open", () => { this.since = Date.now(); });
            this.addEventListener("close", (event) => codes.push(event.code));
        }
    };"""


class Chat:
    """The example's node and application, each of which can be ended and started again."""

    def __init__(self, folder: Path, seconds: float = 300.0) -> None:
        self.origin = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self.variables = {"CHAT_ORIGIN": self.origin, "CHAT_JWT_SECRET": SECRET, "CHAT_API_KEY": API_KEY}
        self.node = self.start_node(0)
        self._environ = {
            **environment(), **self.variables, "CHAT_COOKIE_SECRET": "chocolate", "CHAT_RAIDEN": self.node.url,
            "CHAT_TOKEN_SECONDS": str(seconds), "NO_PROXY": "*", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        try:
            self.application = self.start_application()
        except BaseException:
            self.node.stop()
            raise

    def start_node(self, port: int) -> Daemon:
        self.node = Daemon(
            self._folder / "node", config=EXAMPLE / "raiden.conf.py", variables=self.variables, http_port=port,
            workers=2, allowed_hosts=None, jwt_leeway=0.0,
        )  # fmt: skip
        return self.node

    def start_application(self) -> subprocess.Popen[bytes]:
        with open(self._folder / "application", "ab") as log:
            self.application = subprocess.Popen(
                [sys.executable, str(EXAMPLE / "app.py")], env=self._environ, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip
        wait_for(lambda: answers(self.origin) or self.application.poll() is not None, "the application answers")
        assert self.application.poll() is None, self.log()
        return self.application

    def log(self) -> str:
        return (self._folder / "application").read_text()

    def end_application(self) -> None:
        self.application.terminate()
        self.application.wait(20)

    def close(self) -> None:
        self.end_application()
        assert self.node.stop() == 0
        assert "Traceback" not in self.node.log() + self.log(), self.node.log() + self.log()

    def publish(self, room: str, text: str) -> None:
        """Publish as the application does."""
        body = json.dumps({"from": "ann", "text": text, "at": 0})
        status, _, answer = self.node.request("POST", f"/room.{room}", body, {**JSON, **bearer(API_KEY)})
        assert status == 200, answer

    def post(self, path: str, body: Any, **headers: str) -> int:
        """POST to the application; the status."""
        connection = http.client.HTTPConnection(self.origin.removeprefix("http://"), timeout=60)
        try:
            connection.request("POST", path, json.dumps(body), {**JSON, "Origin": self.origin, **headers})
            response = connection.getresponse()
            self.cookie = response.headers["Set-Cookie"]
            return response.status
        finally:
            connection.close()


def answers(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), 20).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    chat = Chat(tmp_path_factory.mktemp("chat"))
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def restless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """A chat whose tokens live for six seconds, and whose node and application are ended and started again."""
    chat = Chat(tmp_path_factory.mktemp("restless"), 6.0)
    yield chat
    chat.close()


class Person:
    """Somebody with a browser of their own."""

    def __init__(self, evaluate: Callable[[str], Any], name: str) -> None:
        self.evaluate = evaluate
        self.name = name

    def log_in(self, password: str | None = None) -> None:
        self.evaluate(f"""document.querySelector("#login [name=name]").value = "{self.name}";
            document.querySelector("#login [name=password]").value = "{password or self.name + "123"}";
            document.getElementById("login").requestSubmit()""")

    def enter(self, room: str) -> None:
        self.evaluate(f"document.querySelector('#rooms [value={room}]').click()")

    def say(self, text: str) -> None:
        self.evaluate(f"""document.querySelector("#say [name=text]").value = {json.dumps(text)};
            document.getElementById("say").requestSubmit()""")

    def sees(self, *texts: str) -> None:
        wait_for(lambda: self.evaluate(SHOWN) == list(texts), f"{self.name} sees {texts}", every=0.05)

    def is_told(self, text: str) -> None:
        wait_for(lambda: text in (self.evaluate(NOTICE) or ""), f"{self.name} is told: {text}", every=0.05)

    def is_in(self) -> None:
        wait_for(lambda: self.evaluate(STATE) == "connected", f"{self.name} is connected", every=0.05)

    def is_out(self) -> None:
        wait_for(lambda: self.evaluate(STATE) == "connecting again", f"{self.name} has lost it", every=0.05)


@pytest.fixture
def come(browser: Browser) -> Iterator[Callable[..., Person]]:
    """Somebody opens the page of a chat, in a browser that has no cookies yet."""
    with ExitStack() as stack:

        def come(chat: Chat, name: str) -> Person:
            context = browser.call("Target.createBrowserContext")["browserContextId"]
            stack.callback(browser.call, "Target.disposeBrowserContext", browserContextId=context)
            person = Person(stack.enter_context(tab(browser, chat.origin, browserContextId=context)), name)
            wait_for(lambda: person.evaluate("document.getElementById('login')?.hidden") is False, "the page is there")
            person.evaluate(WATCH)
            return person

        yield come


def test_two_people_talk(chat: Chat, come: Callable[..., Person]) -> None:
    ann, bob = come(chat, "ann"), come(chat, "bob")
    bob.log_in("ann123")
    bob.is_told("wrong name or password")
    for each in (ann, bob):
        each.log_in()
        each.is_in()
    ann.say("hello")
    bob.sees("hello")
    attack = "<img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script>"
    bob.say(attack)
    for each in (ann, bob):
        each.sees("hello", attack)
        assert each.evaluate("document.querySelectorAll('#messages img, #messages script').length") == 0
        assert each.evaluate("document.title") == "Chat"
        names = "[...document.querySelectorAll('#messages b')].map((each) => each.textContent)"
        assert each.evaluate(names) == ["ann", "bob"], "who said it"
    # A private room.
    ann.enter("staff")
    ann.sees()
    ann.say("secret")
    ann.sees("secret")
    bob.enter("staff")
    bob.is_told("this room is private")
    bob.sees()
    bob.enter("garden")
    bob.say("roses")
    bob.sees("roses")
    # A room that one comes to later has its history, and the page that is loaded again knows who one is.
    eve = come(chat, "eve")
    eve.log_in()
    eve.sees("hello", attack)
    eve.evaluate("location.reload()")
    wait_for(lambda: eve.evaluate("typeof sockets") == "undefined", "it is loaded again")
    eve.sees("hello", attack)
    eve.enter("garden")
    eve.sees("roses")
    for room in ("lobby", "garden", "lobby", "garden", "lobby"):  # faster than the answers come
        bob.enter(room)
    bob.sees("hello", attack)
    bob.evaluate("document.getElementById('logout').click()")
    wait_for(lambda: bob.evaluate("document.getElementById('login').hidden") is False, "bob is logged out")
    wait_for(lambda: bob.evaluate("sockets.every((each) => each.readyState === 3)"), "his socket is closed")


def test_nobody_gets_around_the_application(chat: Chat) -> None:
    """What a page could try without the script of its own."""
    said = {"text": "it is I", "key": "0f0e"}
    assert chat.post("/token", {}) == 401
    assert chat.post("/login", {"name": "bob", "password": "bob123"}) == 200
    assert "HttpOnly" in chat.cookie and "SameSite=Strict" in chat.cookie
    cookie = {"Cookie": chat.cookie.split(";")[0]}
    assert chat.post("/rooms/staff", said, **cookie) == chat.post("/rooms/none", said, **cookie) == 403
    assert chat.post("/ban", {"name": "ann"}, **cookie) == 403
    for elsewhere in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""}):
        assert chat.post("/rooms/garden", said, **cookie, **elsewhere) == 403, "from another site's page"
    assert chat.post("/rooms/garden", said, **cookie, **{"Content-Type": "text/plain"}) == 415
    bodies: list[Any] = [[], {}, {"text": "a"}, {"text": "", "key": "0"}, {"text": "x" * 2001, "key": "0"}]
    for body in bodies:
        assert chat.post("/rooms/garden", body, **cookie) == 400
    for key in ("a\r\nb", "0" * 37, 1, None):
        assert chat.post("/rooms/garden", {"text": "a", "key": key}, **cookie) == 400
    forged = cookie["Cookie"][:-2] + "AA"
    assert chat.post("/rooms/garden", said, Cookie=forged) == 401
    # With the token that the application makes for bob, at Raiden.
    connection = http.client.HTTPConnection(chat.origin.removeprefix("http://"), timeout=60)
    connection.request("POST", "/token", "{}", {**JSON, "Origin": chat.origin, **cookie})
    mine = bearer(json.loads(connection.getresponse().read())["token"])
    connection.close()
    assert chat.node.request("GET", "/room.garden?_wait=0", None, mine)[0] in (200, 204)
    assert chat.node.request("GET", "/room.staff?_wait=0", None, mine)[0] == 403
    assert chat.node.request("GET", "/room.*?_wait=0", None, mine)[0] == 403
    assert chat.node.request("GET", "/-/channels/room.staff/history", None, mine)[0] == 403
    assert chat.node.request("POST", "/room.garden", '{"from": "ann"}', {**JSON, **mine})[0] == 403
    assert chat.node.request("POST", "/-/revoke", '{"sub": "ann"}', {**JSON, **mine})[0] == 403
    # The same request twice is said once.
    head = {**JSON, **bearer(token(subscribe=["room.garden"]))}
    before = json.loads(chat.node.request("GET", "/-/channels/room.garden/history", None, head)[2])["messages"]
    assert chat.post("/rooms/garden", said, **cookie) == chat.post("/rooms/garden", said, **cookie) == 200
    after = json.loads(chat.node.request("GET", "/-/channels/room.garden/history", None, head)[2])["messages"]
    assert [each["data"]["from"] for each in after[len(before) :]] == ["bob"]


def test_a_ban(chat: Chat, come: Callable[..., Person]) -> None:
    eve, mod = come(chat, "eve"), come(chat, "mod")
    for each in (eve, mod):
        each.log_in()
        each.is_in()
        each.enter("garden")
    eve.say("spam")
    wait_for(lambda: mod.evaluate(SHOWN)[-1:] == ["spam"], "it is there")
    eve.evaluate("token().then((made) => { document.body.dataset.token = made; })")
    kept = bearer(wait_for(lambda: eve.evaluate("document.body.dataset.token"), "a token of hers"))
    assert chat.node.request("GET", "/room.garden?_wait=0", None, kept)[0] in (200, 204)
    mod.evaluate("[...document.querySelectorAll('#messages button')].at(-1).click()")
    eve.is_told("you are banned")
    assert eve.evaluate("codes") == [4503], "it came by the end of her connection"
    assert eve.evaluate("document.getElementById('chat').hidden") is True
    assert chat.node.request("GET", "/room.garden?_wait=0", None, kept)[0] == 401, "the token is of no use any more"
    eve.evaluate("document.getElementById('notice').textContent = ''")
    eve.log_in()
    eve.is_told("you are banned")
    assert chat.post("/login", {"name": "eve", "password": "eve123"}) == 403
    eve.evaluate("location.reload()")
    wait_for(lambda: eve.evaluate("typeof sockets") == "undefined", "it is loaded again")
    eve.is_told("you are banned")
    mod.say("peace")
    wait_for(lambda: mod.evaluate(SHOWN)[-1:] == ["peace"], "the others go on")
    assert mod.evaluate("codes") == []


def test_what_is_said_while_a_page_is_away_comes_once(restless: Chat, come: Callable[..., Person]) -> None:
    """The node is started again. The application is away, too, until something was said, so that no page is back
    before. What was written meanwhile is sent afterwards."""
    ann, bob = come(restless, "ann"), come(restless, "bob")
    for each in (ann, bob):
        each.log_in()
        each.is_in()
    for text in "123":
        bob.say(text)
    ann.sees(*"123")
    restless.end_application()
    port = restless.node.port
    assert restless.node.stop() == 0
    for each in (ann, bob):
        each.is_out()
    restless.start_node(port)
    restless.publish("lobby", "4")
    restless.publish("lobby", "5")
    bob.say("6")
    bob.say("7")
    restless.start_application()
    for each in (ann, bob):
        each.is_in()
        each.sees(*"1234567")
    ann.say("8")
    bob.sees(*"12345678")
    assert ann.evaluate(NOTICE) == bob.evaluate(NOTICE) == "", "nothing is lost"


def test_a_token_is_renewed_and_expires(restless: Chat, come: Callable[..., Person]) -> None:
    ann = come(restless, "ann")
    ann.log_in()
    ann.is_in()
    ann.enter("garden")
    lasting = "sockets.at(-1)?.readyState === 1 && Date.now() - sockets.at(-1).since > 7000"
    wait_for(lambda: ann.evaluate(lasting), "a connection outlives a token of six seconds", every=0.2)
    restless.publish("garden", "1")
    ann.sees("1")
    before = ann.evaluate("codes.length")
    restless.end_application()
    wait_for(lambda: ann.evaluate("codes.length") > before, "without another token it ends", every=0.2)
    assert ann.evaluate("codes.at(-1)") == 4401
    ann.is_out()
    restless.publish("garden", "2")
    restless.start_application()
    ann.sees("1", "2")


def test_it_starts_as_its_readme_says(tmp_path: Path) -> None:
    """In a copy of it, so that its secrets go there."""
    commands = re.findall(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "chat", ignore=shutil.ignore_patterns("keys"))
    (tmp_path / "bin").symlink_to(ROOT / "bin")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    ports = free_port(), free_port()
    origin, raiden = (f"http://127.0.0.1:{port}" for port in ports)
    environ = {
        **environment(), "CHAT_ORIGIN": origin, "CHAT_RAIDEN": raiden, "RAIDEN_HTTP_PORT": str(ports[1]),
        "RAIDEN_BACKEND_PORT": "0", "RAIDEN_DATA_DIR": str(tmp_path / "data"),
    }  # fmt: skip

    @contextmanager
    def running(*lines: str) -> Iterator[None]:
        started = [
            subprocess.Popen(["sh", "-c", line], cwd=tmp_path, env=environ, process_group=0, stdin=subprocess.DEVNULL)
            for line in lines
        ]
        try:
            wait_for(lambda: answers(origin) and answers(raiden), f"{lines} serve")
            yield
        finally:
            for each in started:
                os.killpg(each.pid, signal.SIGTERM)
                each.wait(60)
        wait_for(lambda: not answers(origin) and not answers(raiden), "both have ended")

    def secrets() -> list[str]:
        return (tmp_path / "examples" / "chat" / "keys").read_text().split("\n")

    first, *by_hand = commands
    install, run = first.splitlines()
    assert install.endswith(" install -r examples/chat/requirements.txt")
    with running(run):
        made = secrets()
        assert len(made) == 4 and len(set(made)) == 4
    assert (tmp_path / "examples" / "chat" / "keys").stat().st_mode & 0o77 == 0
    with running(*by_hand):
        pass
    assert secrets() == made
