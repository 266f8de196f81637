"""The log of requests, and what the metrics tell of their answers and of the processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.daemons import Daemon, Stream, wait_for


def entries(node: Daemon) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in node.log().splitlines()]
    return [entry for entry in found if entry["event"] == "request"]


def test_each_answer_is_logged_once_with_its_status(start: Callable[..., Daemon]) -> None:
    node = start(access_log=True, log_format="json", channels={"*": {"history_size": 0}})
    agent = {"User-Agent": "probe/1", "Content-Type": "application/json"}
    stream = Stream(node, "/a?team=red")
    for _ in range(3):  # the second and the third have heads that are known
        assert node.request("POST", "/a", b'{"team": "red"}', headers=agent)[0] == 202
        assert json.loads(stream.line()) == {"team": "red"}
    assert node.request("POST", "/a", b"{", headers=agent)[0] == 400
    assert node.request("GET", "/a?_wait=0.01")[0] == 204
    assert node.request("GET", "/a?_token=secret&team=red&_wait=0.01")[0] == 204
    wait_for(lambda: len(entries(node)) == 7, "all are logged")
    found = [(entry["method"], entry["target"], entry["status"]) for entry in entries(node)]
    assert found == [
        ("GET", "/a?team=red", 200),
        *[("POST", "/a", 202)] * 3,
        ("POST", "/a", 400),
        ("GET", "/a?_wait=0.01", 204),
        ("GET", "/a?_token=...&team=red&_wait=0.01", 204),
    ]
    assert {(entry["agent"], entry["size"]) for entry in entries(node)[1:4]} == {("probe/1", 15)}
    assert all(entry["remote"] == "127.0.0.1" for entry in entries(node))
    assert "secret" not in node.log()


def test_nothing_is_logged_unless_it_is_wanted(start: Callable[..., Daemon]) -> None:
    node = start(log_format="json")
    assert node.request("GET", "/-/health")[0] == 200
    node.stop()
    assert entries(node) == []


def test_metrics_tell_of_statuses_and_processes(start: Callable[..., Daemon]) -> None:
    node = start(channels={"*": {"history_size": 0}})
    for status in (202, 202, 400):
        body = b"1" if status == 202 else b"{"
        assert node.request("POST", "/a", body, headers={"Content-Type": "application/json"})[0] == status
    text = node.request("GET", "/-/metrics")[2].decode()
    assert 'raiden_responses_total{status="202",worker="0"} 2.0' in text
    assert 'raiden_responses_total{status="400",worker="0"} 1.0' in text
    assert 'raiden_requests_total{worker="0"} 3.0' in text
    assert 'raiden_build_info{python="3.' in text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert 1e7 < float(lines['raiden_resident_memory_bytes{worker="0"}']) < 1e9
    assert 0 < float(lines['raiden_cpu_seconds_total{worker="0"}']) < 60
