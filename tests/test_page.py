"""The page at ``/``, in a browser and by what is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from tests import test_clients
from tests.daemons import ROOT, Daemon, Stream, post, wait_for
from tests.test_clients import Browser, PageLeft

browser = test_clients.browser

CHROMIUM = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}


@contextmanager
def tab(browser: Browser, url: str, **where: str) -> Iterator[Callable[[str], Any]]:
    """A tab with a page; yields what evaluates an expression in it: to None where the page is left meanwhile."""
    target = browser.call("Target.createTarget", url=url, **where)["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def evaluate(expression: str) -> Any:
        try:
            told = browser.call("Runtime.evaluate", session, expression=expression, returnByValue=True)
        except PageLeft:
            return None
        return told["result"].get("value")

    yield evaluate
    browser.call("Target.closeTarget", targetId=target)


SHOWN = "[...document.querySelectorAll('#messages li > span')].map((each) => each.textContent)"
STATE = "document.getElementById('state')?.value"
ANSWER = "document.getElementById('answer')?.value"


def submit(form: str, field: str, text: str) -> str:
    """The expression that fills in a field and sends its form."""
    return f"document.getElementById('{field}').value = {json.dumps(text)}; document.forms.{form}.requestSubmit()"


def test_a_newcomer_sees_the_first_message(browser: Browser, start: Callable[..., Daemon]) -> None:
    """A node with its defaults, but for ports and folder, and the address that it prints."""
    node = start(allowed_hosts=None)
    found = re.search(r"http://\S+$", node.banner(), re.MULTILINE)
    assert found
    with tab(browser, found.group()) as evaluate:
        wait_for(lambda: evaluate(STATE) == "subscribed to hello", "the page has subscribed")
        evaluate(submit("publish", "message", '{"text": "hi"}'))
        wait_for(lambda: evaluate(SHOWN) == ['{"text": "hi"}'], "the first message is shown")
        wait_for(lambda: evaluate(ANSWER).startswith('published: {"cursor":'), "its answer is shown, too")
        evaluate(submit("publish", "message", "hello <b>you</b>"))
        wait_for(lambda: evaluate(SHOWN) == ['"hello <b>you</b>"', '{"text": "hi"}'], "text is shown as it is")
        node.publish("hello", "by curl")
        wait_for(lambda: evaluate(SHOWN)[0] == '"by curl"', "what others publish is shown")
        # Another channel, with what was published there before.
        node.publish("news/a%20b", 1)
        evaluate(submit("subscribe", "channel", "news/a b"))
        wait_for(lambda: evaluate(SHOWN) == ["1"], "the channel's last messages are shown")
        assert evaluate("location.search") == "?channel=news%2Fa%20b"
        evaluate(submit("subscribe", "channel", "news/*"))
        wait_for(lambda: evaluate(STATE) == "subscribed to news/*", "it follows a pattern")
        node.publish("news/c", 2)
        wait_for(lambda: len(evaluate(SHOWN)) == 1, "the pattern's message is shown")
        assert json.loads(evaluate(SHOWN)[0])["channel"] == "news/c"
        evaluate(submit("publish", "message", "1"))
        wait_for(lambda: "pattern" in evaluate(ANSWER), "why it can't publish is shown")


def test_a_channels_address_in_a_browser(browser: Browser, start: Callable[..., Daemon]) -> None:
    node = start(allowed_hosts=None)
    node.publish("a/b%3Fc", {"team": "red"})
    node.publish("a/b%3Fc", {"team": "blue"})
    with tab(browser, f"{node.url}/a/b%3Fc?team=red") as evaluate:
        wait_for(lambda: evaluate(SHOWN) == ['{"team": "red"}'], "it is led to the page, with its filter")
        assert evaluate("location.pathname + location.search") == "/?channel=a%2Fb%3Fc&team=red"


def test_an_event_source_survives_a_refusal_that_passes(browser: Browser, start: Callable[..., Daemon]) -> None:
    """A browser's EventSource gives up for good on a status other than 200."""
    node = start(max_channels=1, allowed_hosts=None)
    with tab(browser, "about:blank") as evaluate:
        with Stream(node, "/one"):
            evaluate(f"location = '{node.url}/?channel=two'")
            wait_for(lambda: evaluate(STATE) == "connecting again to two", "it is refused")
            assert evaluate("events.readyState") != 2, "not closed: it opens for a moment each time"
        wait_for(lambda: evaluate(STATE) == "subscribed to two", "it came back by itself")
        node.publish("two", 1)
        wait_for(lambda: evaluate(SHOWN) == ["1"], "and gets what is published")


@pytest.mark.parametrize("fields", [{}, {"Accept": "*/*"}, CHROMIUM])
def test_what_is_sent(daemon: Daemon, fields: dict[str, str]) -> None:
    status, head, body = daemon.request("GET", "/", None, fields)
    assert (status, head["content-type"]) == (200, "text/html; charset=utf-8")
    policy = head["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not re.search(rb"https?://|src=|style=| on[a-z]+=\"", body), "nothing from elsewhere, nothing inline"
    _, alike, nothing = daemon.request("HEAD", "/", None, fields)
    assert {**alike, "date": ""} == {**head, "date": ""} and nothing == b""


def test_what_is_no_page(daemon: Daemon, channel: str) -> None:
    """curl and EventSource get what they always got."""
    assert daemon.request("GET", "/", None, {"Accept": "text/event-stream"})[0] == 400
    assert daemon.request("POST", "/", "1", {"Content-Type": "application/json"})[0] == 400
    for fields in ({}, {"Accept": "*/*"}, {"Accept": "text/event-stream"}):
        with Stream(daemon, f"/{channel}", fields) as stream:
            assert stream.status == 200 and "html" not in stream.response.headers["Content-Type"]
    assert daemon.request("GET", f"/{channel}?_wait=0", None, CHROMIUM)[0] == 204


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/hello", "./?channel=hello"),
        ("/a/b/c%20d?team=red&_last=1", "../../?channel=a%2Fb%2Fc%20d&team=red&_last=1"),
        ("//evil.example/x", "../../?channel=%2Fevil.example%2Fx"),
        ("/news.*", "./?channel=news.%2A"),
    ],
)
def test_where_a_browser_is_led(daemon: Daemon, path: str, location: str) -> None:
    for method in ("GET", "HEAD"):
        status, head, _ = daemon.request(method, path, None, CHROMIUM)
        assert (status, head["location"]) == (303, location)


def test_the_root_of_a_virtual_host_may_be_a_channel(start: Callable[..., Daemon]) -> None:
    node = start(channel_builder="host_path")
    assert node.request("GET", "/?_wait=0", None, {})[0] == 204
    assert node.request("GET", "/", None, CHROMIUM)[1]["content-type"].startswith("text/html")
    assert node.request("GET", "/a", None, CHROMIUM)[1]["location"] == "./?channel=a"


def test_the_example_of_a_page_of_ones_own(browser: Browser, start: Callable[..., Daemon]) -> None:
    """examples/browser, from a web server of another origin, as the README says."""
    handler = partial(test_clients.Files, directory=str(ROOT / "examples/browser"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        page = f"http://localhost:{server.server_port}"
        node = start(allowed_hosts=None, allowed_origins=[page])
        try:
            with tab(browser, f"{page}/?channel={node.url}/hello") as evaluate:
                wait_for(lambda: evaluate("events.readyState") == 1, "it has subscribed")
                evaluate("document.querySelector('input').value = 'hi'; document.querySelector('form').requestSubmit()")
                items = "[...document.querySelectorAll('li')].map((each) => each.textContent)"
                wait_for(lambda: evaluate(items) == ['{"text":"hi"}'], "its message is shown")
        finally:
            server.shutdown()


def test_what_the_documents_tell_to_do_with_a_closed_event_source(
    browser: Browser, start: Callable[..., Daemon]
) -> None:
    """A status other than 200 closes it for good; the new one goes on where it was."""
    code = re.search(r"^function follow.*?^}", (ROOT / "docs/http.md").read_text(), re.MULTILINE | re.DOTALL)
    assert code
    node = start(allowed_hosts=None)
    (first,) = post(node, "a", 1)
    post(node, "a", 2)
    with tab(browser, f"{node.url}/?channel=other") as evaluate:
        wait_for(lambda: evaluate(STATE) == "subscribed to other", "the page is there")
        evaluate(f"""{code.group()}
            const made = [], got = [];
            EventSource = class extends EventSource {{
                constructor(url) {{ super(made.length ? url : "{node.url}/a?_last=none"); made.push(url); }}
            }};
            follow("{node.url}/a", (event) => got.push(event.data), "{first}");""")
        wait_for(lambda: evaluate("got.join()") == "2", "a new one goes on behind the first message")
        assert evaluate("made.length") == 2
