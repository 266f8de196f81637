"""Random writers and readers of one stream on two nodes, which are killed meanwhile. A judge holds all that they were
told to what the protocol promises: each append is there once and in order, a place is resumed exactly, closed is final.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from tests.daemons import Daemon, wait_for
from tests.dialects.streams import JSON, Answer, read
from tests.multiplex import has_a_peer, kill, two_nodes
from tests.stores import RedisServer

WRITERS, READERS, KILLS = 3, 5, int(os.environ.get("TESTS_STREAM_KILLS", "2"))
APPENDS = 60 * KILLS
SETTINGS: dict[str, Any] = {"dialects": ["streams"], "streams_poll": 1.0, "streams_sse": 3.0, "keepalive": 1.0}
PATH = "/v1/stream/answer"
# Seconds for which a request may wait for its answer.
PATIENCE = 20.0


class Nodes:
    """Two nodes, of which one is killed at times and comes back, by another port."""

    def __init__(self, folder: Path, url: str, nodes: list[Daemon]) -> None:
        self._folder, self._url, self._nodes = folder, url, nodes
        self._live = list(nodes)
        self.kills = 0

    def any(self, random: Random) -> Daemon:
        return random.choice(self._live)

    def strike(self, random: Random) -> None:
        which = random.randrange(2)
        struck, other = self._live[which], self._live[1 - which]
        kill(struck)
        self.kills += 1
        address = other.json("/-/nodes")["nodes"][0]["address"]
        settings = {"store": self._url, "drain_window": 0, "peers": [address], **SETTINGS}
        back = Daemon(self._folder / f"back{self.kills}", **settings)
        self._nodes.append(back)
        wait_for(lambda: has_a_peer(back), "it is connected")
        self._live[which] = back


class Told:
    """What clients were told: how many values there are up to each place. All must be told the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: dict[str, int] = {}
        self.appended: list[tuple[str, list[Any]]] = []

    def place(self, place: str, count: int) -> None:
        with self._lock:
            assert self.counts.setdefault(place, count) == count, f"{place}: {count} values, or {self.counts[place]}"


def ask(node: Daemon, method: str, query: str = "", body: str | None = None, **fields: str) -> Answer:
    """A request on a connection of its own; raises OSError or HTTPException where that is cut."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=PATIENCE)
    try:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, PATH + query, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


CUT = (OSError, http.client.HTTPException)


def send_and_leave(node: Daemon, body: str, fields: dict[str, str]) -> None:
    """Send an append, and don't wait for the answer."""
    with node.connect(PATIENCE) as sock:
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


class Writer:
    """A producer, which sends each append until it is answered, perhaps more often, and begins new epochs."""

    def __init__(self, number: int, nodes: Nodes, told: Told, random: Random) -> None:
        self.name = f"p{number}"
        self.number, self._nodes, self._told, self._random = number, nodes, told, random
        self.epoch = self.seq = 0
        self.values = 0

    def run(self) -> None:
        for _ in range(APPENDS):
            self.append()
            if self._random.random() < 0.05:
                self.epoch, self.seq = self.epoch + 1, 0
            if self._random.random() < 0.1:
                self.misbehave()

    def append(self, **more: str) -> Answer:
        values = [[self.number, self.values + k] for k in range(self._random.choice([1, 1, 2, 5]))]
        fields = {
            "Content_Type": JSON, "Producer_Id": self.name, "Producer_Epoch": str(self.epoch),
            "Producer_Seq": str(self.seq), **more,
        }  # fmt: skip
        body, again = json.dumps(values), False
        deadline = time.monotonic() + 3 * PATIENCE
        while True:
            assert time.monotonic() < deadline, "it was never answered"
            try:
                if self._random.random() < 0.1:
                    send_and_leave(self._nodes.any(self._random), body, fields)
                    again = True
                found = ask(self._nodes.any(self._random), "POST", body=body, **fields)
            except CUT:
                again = True
                time.sleep(0.02)  # a client waits before it asks again
                continue
            if found.status == 503:  # nobody knows whether it was done
                again = True
                time.sleep(0.02)  # likewise
                continue
            assert found.status == 200 or (found.status == 204 and again), (found, fields)
            assert found.fields["producer-epoch"] == str(self.epoch)
            assert found.fields["producer-seq"] == str(self.seq)
            break
        if found.status == 200:
            self._told.appended.append((found.next, values))
        self.seq += 1
        self.values += len(values)
        self.last = fields, body
        return found

    def misbehave(self) -> None:
        """Send what must be refused, or is there already."""
        if not self.seq:
            return  # its epoch is not known yet
        kind = self._random.choice(["old epoch", "gap", "again", "type"])
        epoch, seq, content_type = self.epoch, self.seq, JSON
        if kind == "old epoch":
            epoch, allowed = epoch - 1, 403
        elif kind == "gap":
            seq, allowed = seq + 1, 409
        elif kind == "again":
            seq, allowed = seq - 1, 204
        else:
            content_type, allowed = "text/plain", 409
        if epoch < 0:
            return
        try:
            found = ask(
                self._nodes.any(self._random), "POST", body='["wrong"]', Content_Type=content_type,
                Producer_Id=self.name, Producer_Epoch=str(epoch), Producer_Seq=str(seq),
            )  # fmt: skip
        except CUT:
            return
        assert found.status in (allowed, 503), (kind, found)
        if found.status == 409 and kind == "gap":
            assert found.fields["producer-expected-seq"] == str(self.seq)


class Reader:
    """A reader from the stream's beginning to its end, by all ways in turns."""

    def __init__(self, nodes: Nodes, told: Told, random: Random) -> None:
        self._nodes, self._told, self._random = nodes, told, random
        self.values: list[Any] = []
        self.place = "-1"
        self.closed = False
        self.ways: dict[str, int] = {}

    def run(self) -> None:
        deadline = time.monotonic() + 240
        while not self.closed:
            assert time.monotonic() < deadline, f"the end did not come: {self.place}"
            way = self._random.choice(["sse", "sse", "long-poll", "long-poll", "page"])
            before = len(self.values)
            try:
                self._follow() if way == "sse" else self._poll() if way == "long-poll" else self._page()
            except CUT:
                time.sleep(0.02)
            self.ways[way] = self.ways.get(way, 0) + len(self.values) - before

    def _take(self, values: list[Any], place: str) -> None:
        self.values += values
        self.place = place
        self._told.place(place, len(self.values))

    def _page(self) -> None:
        found = ask(self._nodes.any(self._random), "GET", f"?offset={self.place}")
        if found.status == 503:
            return
        assert found.status == 200, found
        self._take(json.loads(found.body), found.next)
        self.closed = found.closed

    def _poll(self) -> None:
        for _ in range(self._random.randrange(1, 8)):
            found = ask(self._nodes.any(self._random), "GET", f"?offset={self.place}&live=long-poll")
            if found.status == 503:
                return
            assert found.status in (200, 204), found
            self._take(json.loads(found.body) if found.status == 200 else [], found.next)
            self.closed = found.closed
            if self.closed:
                return

    def _follow(self) -> None:
        """A stream of events; data count once the place behind them was told."""
        node, most = self._nodes.any(self._random), self._random.randrange(1, 60)
        connection = http.client.HTTPConnection(node.host, node.port, timeout=PATIENCE)
        try:
            connection.request("GET", f"{PATH}?offset={self.place}&live=sse")
            answer = connection.getresponse()
            if answer.status == 503:
                return
            assert answer.status == 200, answer.read()
            values: list[Any] = []
            for number, (name, data) in enumerate(_events(answer)):
                if name == "data":
                    assert not values, "two events with data, and no place between them"
                    values = json.loads(data)
                    continue
                control = json.loads(data)
                self._take(values, control["streamNextOffset"])
                values = []
                if control.get("streamClosed"):
                    self.closed = True
                    assert not answer.read(), "nothing comes behind the end"
                    return
                if number > most:
                    return
        finally:
            connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    name, data = "", ""
    while line := answer.readline().decode():
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif line == "\n" and name:
            yield name, data
            name = data = ""


def test_each_append_is_there_once_whatever_dies(redis_server: RedisServer, tmp_path: Path) -> None:
    seed = os.environ.get("TESTS_SEED") or str(Random().random())
    print(f"TESTS_SEED={seed}")
    random, told = Random(seed), Told()
    with two_nodes(tmp_path, redis_server.url, **SETTINGS) as all_nodes:
        nodes = Nodes(tmp_path, redis_server.url, all_nodes)
        # Uses of a stream with a ttl are told to the store, each time.
        life = {"Stream_TTL": "3600"} if random.random() < 0.5 else {}
        made = ask(nodes.any(random), "PUT", Content_Type=JSON, **life)
        assert made.status == 201
        writers = [Writer(number, nodes, told, Random(random.random())) for number in range(WRITERS)]
        readers = [Reader(nodes, told, Random(random.random())) for _ in range(READERS)]
        with ThreadPoolExecutor(WRITERS + READERS) as pool:
            reads = [pool.submit(reader.run) for reader in readers]
            writes = [pool.submit(writer.run) for writer in writers]
            for number in range(KILLS):
                goal = WRITERS * APPENDS * (number + 1) // (KILLS + 1)
                wait_for(
                    lambda goal=goal: len(told.appended) >= goal or any([each.done() for each in writes + reads]),  # type: ignore[misc]
                    "they have written", 200,
                )  # fmt: skip
                nodes.strike(random)
            for write in writes:
                write.result()
            closed = writers[0].append(Stream_Closed="true")
            for each in reads:
                each.result()
        _judge(all_nodes[-1], told, writers, readers, closed, random)


def _judge(
    node: Daemon, told: Told, writers: list[Writer], readers: list[Reader], closed: Answer, random: Random
) -> None:  # fmt: skip
    whole: list[Any] = []
    answer = read(node, "answer")
    while True:
        whole += json.loads(answer.body)
        told.place(answer.next, len(whole))
        if answer.closed:
            break
        answer = read(node, "answer", answer.next)
    for writer in writers:
        mine = [value for number, value in whole if number == writer.number]
        assert mine == list(range(writer.values)), "each once, and in order"
    for reader in readers:
        assert reader.values == whole
    for place, values in told.appended:
        if place in told.counts:
            count = told.counts[place]
            assert whole[count - len(values) : count] == values, "the place is behind its append, and nothing between"
    for place in random.sample(sorted(told.counts), min(20, len(told.counts))):
        found = read(node, "answer", place)
        assert json.loads(found.body) == whole[told.counts[place] :][: len(json.loads(found.body))]
    assert closed.closed and answer.next == closed.next
    fields, body = writers[0].last
    again = ask(node, "POST", body=body, **fields)
    assert again.status == 204 and again.closed and again.next == closed.next
    late = ask(node, "POST", body="[1]", Content_Type=JSON)
    assert late.status == 409 and late.closed and late.next == closed.next
    assert len({way for reader in readers for way, count in reader.ways.items() if count}) == 3
