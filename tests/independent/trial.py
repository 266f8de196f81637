"""One trial: a cluster, its clients and its faults for a while, then peace, a last message everywhere, the judge."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.cluster.network import Network
from tests.daemons import wait_for
from tests.independent.clients import Client, Poll, Stream, Subscriber, WebSocket, World
from tests.independent.events import (
    Bad,
    Began,
    Event,
    Fault,
    Got,
    Handed,
    Kept,
    Missed,
    Published,
    Resumed,
    Violation,
)
from tests.independent.faults import NODES, Cluster, Faults
from tests.independent.joiners import Door, Session
from tests.independent.judge import judge
from tests.independent.publishers import Consumer, Publisher, Reader, by_http, read_all
from tests.independent.truth import Place, place

LONG = Kept(100_000, 3600)
CHANNELS = {
    "long.a": LONG, "long.b": LONG, "side.x": LONG, "jobs": LONG,
    "size": Kept(20, 3600), "ttl": Kept(10_000, 2), "plain": Kept(0, 0),
}  # fmt: skip
HISTORY = [name for name, kept in CHANNELS.items() if kept.size]
PEACE = 60.0  # seconds for the cluster to be whole again, and for the last messages to arrive


class Outcome(NamedTuple):
    seed: int
    counts: Counter[str]
    faults: Counter[str]
    outages: dict[str, float]  # by kind of fault, the longest time in which a publisher had no success
    violations: list[Violation]
    events: list[Event]
    logs: str


def publishers(world: World) -> list[Publisher]:
    return [
        Publisher(world, "http1", "http", ["long.a", "size", "ttl"], batch=5),
        Publisher(world, "http2", "http", ["long.b", "jobs", "side.x"], batch=3),
        Publisher(world, "several", "several", ["long.a long.b"], pace=0.8),
        Publisher(world, "socket", "websocket", ["long.a", "size", "jobs"]),
        Publisher(world, "zmq", "zmq", ["long.b", "ttl", "side.x"]),
        *[Publisher(world, f"plain{n}", "http", ["plain"], batch=3, pace=0.3, keys=0) for n in (1, 2)],
    ]


def subscribers(world: World) -> list[Subscriber]:
    each = [
        made
        for channel in ("long.a", "size", "ttl")
        for made in (
            Stream(world, f"events {channel}", channel, events=True),
            Stream(world, f"lines {channel}", channel, events=False),
            WebSocket(world, f"websocket {channel}", channel),
            Poll(world, f"poll {channel}", channel),
            Door(world, f"door {channel}", channel),
        )
    ]
    return [
        *each,
        Stream(world, "filtered events", "long.b", events=True, filtered=True),
        WebSocket(world, "filtered websocket", "long.b", filtered=True),
        Stream(world, "pattern", "long.*", events=False, pattern=True, history=False),
        WebSocket(world, "pattern websocket", "long.*", pattern=True, history=False),
        Session(world, "session1", {"long.a": True, "size": True, "side.*": False, "long.b": True, "plain": False}),
        Session(world, "session2", {"ttl": True, "jobs": True, "long.b": True, "long.a": True, "size": True}),
        Stream(world, "plain events", "plain", events=True, history=False),
        Stream(world, "plain lines", "plain", events=False, history=False),
        WebSocket(world, "plain websocket", "plain", history=False),
    ]


def trial(seconds: float, seed: int, folder: Path) -> Outcome:
    with Network(hosts=4) as network:
        cluster = Cluster(network, folder, CHANNELS)
        world = World(cluster.hosts, seed)
        try:
            for number in NODES:
                cluster.start(number)
            wait_for(lambda: all(map(cluster.well, NODES)), "all nodes are connected", timeout=60)
            faults = run(world, cluster, seconds)
        finally:
            world.over.set()
            cluster.close()
        logs = cluster.logs()
    if "Traceback" in logs:
        world.log(Bad(time.monotonic(), "log", "", "a node's log has a traceback"))
    if world.errors:
        raise AssertionError("\n".join(world.errors))
    violations = judge(CHANNELS, world.events)
    return Outcome(seed, count(world.events), faults, outages(world.events), violations, world.events, logs)


def run(world: World, cluster: Cluster, seconds: float) -> Counter[str]:
    begun = time.monotonic()
    busy: tuple[threading.Lock, set[int]] = (threading.Lock(), set())
    feeding, following = publishers(world), subscribers(world)
    consumers = [Consumer(world, f"consumer{n}", "jobs", poll=n > 2) for n in range(1, 5)]
    reader = Reader(world, "reader", HISTORY)
    striking = [Faults(world, cluster, busy, f"faults{n}") for n in (1, 2)]
    clients: list[Client] = [*following, *consumers, *feeding, reader]
    started: list[threading.Thread] = []
    try:
        for thread in [*clients, *striking]:
            thread.start()
            started.append(thread)
        wait_for(lambda: time.monotonic() > begun + seconds or world.errors, "its time is over", seconds + 10)
        for each in striking:
            each.end()
        for each in striking:
            each.join()
        settle(world, lambda: all(map(cluster.well, NODES)), [*feeding, reader], following, HISTORY)
    finally:
        for each in striking:
            each.end()
        world.over.set()
        for thread in started:
            thread.join()
    for channel in HISTORY:
        read_all(world, 1, channel)
    return sum((each.counts for each in striking), Counter())


def patient(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it comes true in time."""
    try:
        wait_for(condition, "", seconds)
    except AssertionError:
        return False
    return True


def settle(
    world: World, is_well: Callable[[], bool], ending: Sequence[Client], following: Sequence[Subscriber],
    channels: Sequence[str],
) -> None:  # fmt: skip
    """Wait until all is well and ``ending`` have ended; then until all others have a last message of each channel."""
    if not patient(is_well, PEACE):
        world.log(Bad(time.monotonic(), "cluster", "", "it does not come together again"))
    settled = world.settled_at = time.monotonic()
    for each in ending:
        each.join()
    patterns = [each for each in following if each.pattern]
    patient(lambda: all(each.begun > settled for each in patterns), PEACE)
    targets = {channel: mark(world, channel) for channel in channels}
    world.targets.update(targets)

    def arrived() -> bool:
        handed = {place(each.cursor) for each in world.events if isinstance(each, Handed)}
        return not any(each.wanted() and not each.finished() for each in following) and all(
            place(cursor) in handed for cursor in jobs
        )

    jobs = [cursor for cursor, _ in read_all(world, 1, "jobs").messages]
    end = time.monotonic() + PEACE
    while time.monotonic() < end and not arrived():
        world.pause(0.5)
    for each in following:
        if each.wanted() and not each.finished():
            text = f"did not get the last messages: {each.reached} of {targets}"
            world.log(Bad(time.monotonic(), each.name, each.channel, text))


def mark(world: World, channel: str, publisher: str = "last") -> Place:
    """Publish a message of nobody else's to a channel."""
    message, begun = f"{publisher}-{channel}.1", time.monotonic()

    def stored() -> Place | None:
        try:
            with world.http(1) as connection:
                status, answer = by_http(connection, channel, [{"id": message, "odd": 1}], message)
        except (OSError, HTTPException, json.JSONDecodeError):
            return None
        if status != 200:
            return None
        world.log(Published(begun, time.monotonic(), channel, (message,), "stored", tuple(answer), 1))
        return place(answer[0])

    found = wait_for(stored, f"the last message of {channel} is stored", PEACE)
    assert found is not None
    return found


def count(events: Sequence[Event]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for event in events:
        match event:
            case Published():
                counts[f"published: {event.outcome}"] += len(event.ids)
            case Got():
                counts["deliveries"] += 1
            case Began(asked=None):
                counts["subscriptions"] += 1
            case Began():
                counts["resumes"] += 1
            case Resumed():
                counts["sessions resumed"] += 1
            case Missed():
                counts["gaps told"] += 1
            case Handed():
                counts["handed out"] += 1
    return counts


def outages(events: Sequence[Event]) -> dict[str, float]:
    successes: dict[str, list[float]] = defaultdict(list)
    longest: dict[str, float] = defaultdict(float)
    for event in events:
        if isinstance(event, Published) and event.outcome in ("stored", "taken"):
            successes[event.ids[0].partition("-")[0]].append(event.at)
    for fault in events:
        if isinstance(fault, Fault):
            for times in successes.values():
                for before, after in pairwise(times):
                    if before < fault.at and after > fault.begun:
                        longest[fault.kind] = max(longest[fault.kind], after - before)
    return dict(longest)
