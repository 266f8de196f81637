"""The history process and a worker's line to it: when it stands still, dies, or can't be reached."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raiden.history.client import TIMEOUT
from tests.daemons import Daemon, Stream, post, wait_for


def descriptors(pid: int) -> list[int]:
    return sorted(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())


def test_what_is_refused_is_not_done(start: Callable[..., Daemon]) -> None:
    """The process stands still for longer than a publish waits: 503, and nothing was published, then or later."""
    node = start()
    [first] = post(node, "a", "first")
    history = node.workers()["history"]
    with Stream(node, "/a") as stream, ThreadPoolExecutor(1) as pool:
        os.kill(history, signal.SIGSTOP)
        try:
            asked = time.monotonic()
            publish = pool.submit(node.post_json, "/a", "refused")
            wait_for(lambda: time.monotonic() - asked > TIMEOUT + 0.5, "its time is over")
        finally:
            os.kill(history, signal.SIGCONT)
        status, headers, body = publish.result()
        assert status == 503 and "retry-after" in headers and b"nothing was done" in body, body
        [last] = post(node, "a", "last")
        assert stream.value() == "last"
    found = node.json("/-/channels/a/history")["messages"]
    assert [(message["data"], message["cursor"]) for message in found] == [("first", first), ("last", last)]


def test_nobody_knows_what_became_of_it(start: Callable[..., Daemon]) -> None:
    """The process dies before it answers: the publisher is told that nobody knows, and what makes it safe."""
    node = start()
    post(node, "a", "first")
    history = node.workers()["history"]
    with ThreadPoolExecutor(1) as pool:
        os.kill(history, signal.SIGSTOP)
        publish = pool.submit(node.post_json, "/a", "lost")
        wait_for(lambda: node.metric("raiden_history_waiting") > 0 or publish.done(), "it waits for the answer")
        os.kill(history, signal.SIGKILL)
        status, _, body = publish.result()
    assert status == 503 and b"nobody knows" in body and b"Idempotency-Key" in body, body
    wait_for(lambda: node.post_json("/a", "again")[0] == 200, "publishes work again")


def test_it_is_reached_again_once_there_is_a_descriptor(start: Callable[..., Daemon]) -> None:
    node = start()
    post(node, "a", 1)
    pids = node.workers()
    worker = pids["worker 0"]
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    with Stream(node, "/a") as stream:
        # Not even the descriptor that the dead process leaves behind can be had again.
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(pids["history"], signal.SIGKILL)
        wait_for(lambda: "history replaced" in node.log(), "it is replaced")
        held = descriptors(worker)
        wait_for(lambda: len(descriptors(worker)) <= len(held), "the worker has noticed")
        resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
        wait_for(lambda: node.post_json("/a", 2)[0] == 200, "publishes work again")
        assert stream.value() == 2
    assert node.request("GET", "/-/ready")[0] == 200


def test_clients_leave_descriptors_to_the_node(start: Callable[..., Daemon]) -> None:
    """However many come, a worker can reach a new history process; and it takes clients again when some have left."""
    node = start()
    post(node, "a", 1)
    pids = node.workers()
    worker = pids["worker 0"]
    publisher = node.open()
    limit = 160
    _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, hard))
    clients = [node.connect() for _ in range(200)]
    try:
        wait_for(lambda: "too few descriptors are left" in node.log(), "no more are taken")
        clients[-1].settimeout(20)
        assert clients[-1].recv(100).startswith(b"HTTP/1.1 503 "), "the others are refused"
        wait_for(lambda: limit - len(descriptors(worker)) >= 16, "the last one that was refused is closed")
        os.kill(pids["history"], signal.SIGKILL)
        wait_for(lambda: "history replaced" in node.log(), "it is replaced")

        def published() -> bool:
            publisher.request("POST", "/a", "2", {"Content-Type": "application/json"})
            response = publisher.getresponse()
            response.read()
            return response.status == 200

        wait_for(published, "those that are in can publish")
    finally:
        publisher.close()
        for client in clients:
            client.close()
    wait_for(lambda: node.request("GET", "/-/ready")[0] == 200, "others are taken again")


def test_a_file_that_is_moved_away(start: Callable[..., Daemon]) -> None:
    """Nothing is acknowledged that only a file has which nobody will find; when it is back, all is as before."""
    node = start()
    post(node, "a", 1)
    file = node.folder / "history.sqlite"
    file.rename(node.folder / "elsewhere")
    status, headers, body = node.post_json("/a", 2)
    assert status == 503 and "retry-after" in headers and b"moved or replaced" in body and b"put it back" in body
    (node.folder / "elsewhere").rename(file)
    assert node.post_json("/a", 3)[0] == 200
    assert [message["data"] for message in node.json("/-/channels/a/history")["messages"]] == [1, 3]


def test_channels_that_are_too_many_leave_room_for_others(start: Callable[..., Daemon]) -> None:
    """Whoever makes channels fills no more than their part of the file: they are refused, and others are served, also
    those whose publishes come at the same time."""
    node = start(max_data=2 << 20, channels={"*": {"history_ttl": 0.5}, "old": {"history_ttl": 3600}})
    post(node, "old", "before")
    made = 0

    def refused() -> bool:
        nonlocal made
        names = [f"{made + number:04}" + "x" * 200 for number in range(100)]
        status, _, body = node.post_json("/-/publish", {"channels": names, "data": 1})
        made += 100
        assert status == 200 or b"too many channels" in body, body
        return status == 503

    wait_for(refused, "there are too many")
    with ThreadPoolExecutor(20) as pool:
        paths = [f"/new{number}" + "x" * 200 if number % 2 else "/old" for number in range(200)]
        answers = list(pool.map(lambda path: (path, node.post_json(path, "x" * 500)), paths))
    failed = [answer for path, answer in answers if path == "/old" and answer[0] != 200]
    assert not failed, failed[0]
    assert node.request("GET", "/-/ready")[0] == 200
    wait_for(lambda: node.post_json("/another", 1)[0] == 200, "those without messages are forgotten")
    assert node.stop() == 0 and "Traceback" not in node.log()
