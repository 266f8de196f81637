"""Refusals: the same answer by every door, and what becomes of an exception that is none."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from raiden.model.refusals import Fault, Refusal, Unavailable, attempt
from tests.daemons import Daemon, running
from tests.multiplex import Client
from tests.zeromq import OPEN, Clients


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One whose channels keep a history, but for `none`."""
    channels = {"*": {"history_size": 10}, "none": {"history_size": 0}}
    yield from running(tmp_path_factory.mktemp("node"), **OPEN, store="sqlite", channels=channels, max_message=4096)


def test_a_result_is_passed_on() -> None:
    assert attempt("it", lambda one, two: one + two, 1, 2) == 3
    assert attempt("it", lambda: None) is None


def test_a_refusal_is_returned_without_what_its_frames_hold() -> None:
    def refuse() -> None:
        raise Unavailable("try again later")

    refusal = attempt("it", refuse)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.detail, str(refusal)) == (503, "try again later", "try again later")
    assert refusal.__traceback__ is None


def test_any_other_exception_is_logged_and_told_as_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        refusal = attempt("a request", lambda: 1 // 0, path="/a")
    assert isinstance(refusal, Fault)
    assert refusal.status == 500
    assert "ZeroDivisionError" in caplog.text
    assert caplog.records[0].getMessage() == "a request failed"
    assert caplog.records[0].__dict__["path"] == "/a"


LONG, LARGE = "x" * 300, json.dumps("x" * 4000)


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "command", "frames"),
    [
        (404, "GET", "/-/channels/none/history", None, {"cmd": "history", "channel": "none"}, [b"history", b"none"]),
        (400, "GET", "/-/channels/a*/history", None, {"cmd": "history", "channel": "a*"}, [b"history", b"a*"]),
        (
            400, "GET", "/-/channels/a/history?_before=bad", None,
            {"cmd": "history", "channel": "a", "before": "bad"}, [b"history", b"a", b"bad"],
        ),
        (
            400, "POST", f"/{LONG}", "1",
            {"cmd": "publish", "channel": LONG, "data": 1}, [b"publish", LONG.encode(), b"1"],
        ),
        (400, "POST", "/a*", "1", {"cmd": "publish", "channel": "a*", "data": 1}, [b"publish", b"a*", b"1"]),
        (
            413, "POST", "/a", LARGE,
            {"cmd": "publish", "channel": "a", "data": "x" * 4000}, [b"publish", b"a", LARGE.encode()],
        ),
    ],
    ids=["no-history", "page-of-a-pattern", "cursor", "long-name", "pattern", "large"],
)  # fmt: skip
def test_all_doors_refuse_alike(
    node: Daemon, status: int, method: str, path: str, body: str | None, command: dict[str, Any], frames: list[bytes]
) -> None:
    answered, _, problem = node.request(method, path, body, {"Content-Type": "application/json"})
    with Client(node) as client:
        error = client.ask(**command)["error"]
    with Clients(node) as clients:
        request = clients.socket("REQ", zmq.REQ)
        request.send_multipart(frames)
        code, own_problem = request.recv_multipart()
    assert (answered, error["code"], int(code)) == (status, status, status)
    assert json.loads(problem)["detail"] == error["message"] == json.loads(own_problem)["detail"]
