"""What the systems are measured with: who subscribes, what is published and how fast, and which figures tell of it.

A `Workload` is one table of docs/benchmarks.md, with a row for each system and door that can do it; a `Curve` is a
family of workloads that differ in one number. Messages are of 128 bytes unless a workload says otherwise, and each
begins with the time and its number, which the load generator finds again whatever stands around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.peers import BY_NAME, Door, System, words

SIZE = 128
SECONDS = 3.0  # that messages are published for
QUICK_SECONDS = 1.0

BROKERS = ("redis", "nats", "mosquitto")
SERVERS = ("nchan", "centrifugo", "pushpin")
LIBRARIES = ("ws", "socketio", "websockets")
WITHOUT_HISTORY = ("raiden", "raiden-2", *SERVERS, *BROKERS, *LIBRARIES)
WITH_HISTORY = ("raiden-history", "nchan-history", "centrifugo-history")
ALL = (*WITHOUT_HISTORY, *WITH_HISTORY)
# Pushpin and Socket.IO would take minutes for what the others do in seconds.
FOR_MANY = ("raiden", "raiden-2", "nchan", "centrifugo", *BROKERS, "ws", "websockets", *WITH_HISTORY)
WS_OR_TCP = ("ws", "tcp")
# Raiden by the protocol of another server, beside that server.
DIALECTS = ("raiden-dialects", "raiden-dialects-source", "actioncable", "centrifugo", "soketi", "sockudo")
PROTOCOLS = ("cable", "centrifuge", "pusher")

Result = Mapping[str, Any]  # what the load generator says


class Figure(NamedTuple):
    """A column: what of a run's result it has, how it is written, whether less of it is better, and what of the
    rounds is told."""

    title: str
    form: str
    of: Callable[[Result], float]
    less_is_better: bool = True
    of_rounds: Callable[[Sequence[float]], float] = median


def per(amount: str, count: str, factor: float) -> Callable[[Result], float]:
    def of(result: Result) -> float:
        return float(result[amount]) / result[count] * factor if result[count] else float("nan")

    return of


def latency(quantile: str) -> Callable[[Result], float]:
    return lambda result: float(result["latency_us"][quantile]) / 1000


def field(name: str, factor: float = 1.0) -> Callable[[Result], float]:
    return lambda result: float(result[name]) * factor


FIGURES = {
    "cpu": Figure("CPU, µs/delivery", "{:.2f}", per("server_cpu_s", "delivered", 1e6)),
    "cpu_publish": Figure("CPU, µs/publish", "{:,.1f}", per("server_cpu_s", "published", 1e6)),
    "cpu_offered": Figure("CPU, µs/delivery", "{:.2f}", per("server_cpu_s", "expected", 1e6)),
    "deliveries": Figure("deliveries/s", "{:,.0f}", per("delivered", "elapsed_s", 1), less_is_better=False),
    "publishes": Figure("publishes/s", "{:,.0f}", field("pub_per_s"), less_is_better=False),
    "p50": Figure("p50, ms", "{:.2f}", latency("p50")),
    "p99": Figure("p99, ms", "{:.2f}", latency("p99")),
    "p999": Figure("p99.9, ms", "{:.2f}", latency("p999")),
    "lost": Figure("lost, %", "{:.3g}", per("lost", "expected", 100), of_rounds=max),
    "memory": Figure("KB/connection", "{:.1f}", field("bytes_per_conn", 1 / 1024)),
    "connects": Figure("connects/s", "{:,.0f}", field("connects_per_s"), less_is_better=False),
    "connect_cpu": Figure("CPU, µs/connect", "{:.0f}", field("connect_cpu_us")),
    "changes": Figure("changes/s", "{:,.0f}", field("changes_per_s"), less_is_better=False),
    "change_cpu": Figure("CPU, µs/change", "{:.1f}", field("change_cpu_us")),
    "wire": Figure("bytes/delivery", "{:.0f}", per("bytes_in", "expected", 1)),
    "growth": Figure("growth, MB", "{:.1f}", lambda result: (result["pss_end_kb"] - result["pss_after_kb"]) / 1024),
}


class Workload(NamedTuple):
    name: str
    title: str
    about: str
    systems: Sequence[str]
    figures: Sequence[str]  # the first is what systems are compared by
    load: Callable[[Door, float], list[str]]  # the load generator's options, for so many seconds
    doors: Sequence[str] = WS_OR_TCP
    subscribers: int = 0
    rate: int = 0
    size: int = SIZE
    limit: bool = False  # sendloop does the same
    by_door: bool = False  # in its table, the rows of a door stand together
    x: int = 0  # on its curve

    def rows(self) -> list[tuple[System, str]]:
        """The systems and doors that it is for."""
        return [(BY_NAME[name], door) for name in self.systems for door in BY_NAME[name].doors if door in self.doors]


class Curve(NamedTuple):
    name: str
    title: str
    about: str
    axis: str
    figures: Sequence[str]
    points: Sequence[Workload]


PACED = ("cpu", "deliveries", "p50", "p99", "p999", "lost")


def paced(
    name: str, title: str, about: str, systems: Sequence[str], subscribers: int, rate: int, *,
    channels: int = 1, size: int = SIZE, figures: Sequence[str] = PACED, extra: Sequence[str] = (), **fields: Any,
) -> Workload:  # fmt: skip
    """So many messages a second."""

    def load(door: Door, seconds: float) -> list[str]:
        messages = max(int(rate * seconds), 1)
        numbers = words(subs=subscribers, channels=channels, rate=rate, size=size, msgs=messages, seconds=2 * seconds)
        # With fewer publishes under way, a system that answers late would be asked for less.
        return [*numbers, *door.outstanding(16, 4), *extra]

    return Workload(name, title, about, systems, figures, load, subscribers=subscribers, rate=rate, size=size, **fields)


def full_speed(
    name: str, title: str, about: str, systems: Sequence[str], subscribers: int, outstanding: int, *,
    connections: int = 0, channels: int = 1, figures: Sequence[str], size: int = SIZE, **fields: Any,
) -> Workload:  # fmt: skip
    """As many messages as can be published for so long, with so many under way: until all subscribers have a message,
    or if the connections are given, until a publish is acknowledged."""

    def load(door: Door, seconds: float) -> list[str]:
        numbers = words(subs=subscribers, channels=channels, size=size, msgs=10_000_000, seconds=seconds)
        delivered = [] if connections else words(inflight=outstanding)
        return [*numbers, *door.outstanding(outstanding, connections or 1), *delivered]

    return Workload(name, title, about, systems, figures, load, subscribers=subscribers, size=size, **fields)


def storm(door: Door, seconds: float) -> list[str]:
    return words(subs=200, connect_cap=50, storm=seconds, pub="none")


def churn(door: Door, seconds: float) -> list[str]:
    return [*door.churn, *words(subs=50, churn_seconds=seconds, pub="none")]


WORKLOADS = (
    paced(
        "fan-out", "One channel, 1,000 subscribers, 200 messages/s",
        "Every message goes to all: 200,000 deliveries a second, near what two cores can do with the load beside it.",
        ALL, 1000, 200, doors=("ws", "sse", "tcp"), limit=True,
    ),
    paced(
        "fan-out-20", "One channel, 1,000 subscribers, 20 messages/s",
        "The same, well below saturation.",
        (*ALL, "raiden-source"), 1000, 20, limit=True,
    ),
    full_speed(
        "fan-out-full", "One channel, 1,000 subscribers, full speed",
        "64 messages are on their way at a time. Servers that can join waiting messages of a subscriber into one send "
        "do so here.",
        ALL, 1000, 64, figures=("deliveries", "cpu", "p50", "p99", "p999", "lost"),
    ),
    paced(
        "fan-out-10k", "One channel, 10,000 subscribers, 20 messages/s",
        "As many deliveries as in the first table, to ten times as many connections.",
        FOR_MANY, 10_000, 20, limit=True,
    ),
    paced(
        "many-channels", "5,000 channels, 10,000 subscribers, 2,000 messages/s",
        "Two subscribers a channel: the cost of a message itself weighs more than that of a delivery.",
        FOR_MANY, 10_000, 2000, channels=5000,
    ),
    full_speed(
        "publish", "Publishing: 10 subscribers, 16 connections",
        "One publish is under way on each connection. Mosquitto acknowledges none, and has 16 messages on their way.",
        (*ALL, "raiden-source"), 10, 16, connections=16,
        figures=("publishes", "cpu_publish", "p50", "p99", "p999", "lost"),
    ),
    paced(
        "large", "16 KiB: 200 subscribers, 50 messages/s",
        "10,000 deliveries a second are 164 MB/s.",
        WITHOUT_HISTORY, 200, 50, size=16_384, limit=True,
    ),
    paced(
        "poll", "Long-poll: 1,000 subscribers, 5 messages/s",
        "Every delivery is an answer, and a new request. Pushpin keeps nothing by itself: messages published while a "
        "client is between two requests are lost there.",
        ("raiden-history", "nchan-history", "pushpin"), 1000, 5, doors=("poll",),
    ),
    Workload(
        "storm", "Connection storm",
        "Clients connect and subscribe, are cut off, and come again, 50 at a time.",
        (*WITHOUT_HISTORY, "raiden-source"), ("connects", "connect_cpu"), storm, doors=("ws", "sse", "tcp"),
    ),
    Workload(
        "churn", "Subscriptions that come and go",
        "50 connections subscribe to a channel nobody else has, wait until that is confirmed, unsubscribe, and again.",
        ("raiden", "raiden-2", "redis", "nats", "centrifugo"), ("changes", "change_cpu"), churn, doors=("commands",),
    ),
    paced(
        "idle", "Idle subscribers: 10,000",
        "Memory of the server's processes (PSS) for each connection, without that of the kernel.",
        ("raiden", *SERVERS, *BROKERS, *LIBRARIES), 10_000, 1, doors=("ws", "sse", "tcp"),
        figures=("memory", "connects", "connect_cpu"), extra=words(settle=1000, msgs=1),
    ),
    paced(
        "slow", "Slow consumers: 100 subscribers, 10 of which don't read",
        "4 KiB, 500 messages/s, 12 MB for each: more than the kernel keeps for a client that does not read. The others "
        "should not notice, and the server's memory should not grow.",
        WITHOUT_HISTORY, 100, 500, size=4096, extra=words(stall=10, msgs=3000),
        figures=("p99", "cpu", "lost", "growth"),
    ),
    paced(
        "filters", "Filters: 1,000 subscribers, 100 messages/s",
        "Messages are JSON objects of two fields; subscribers filter by one of them, or don't. Each message passes.",
        ("raiden",), 1000, 100, doors=("fields", "filter"),
    ),
    paced(
        "deflate", "Compression: 1,000 subscribers, 20 messages/s of 1 KiB",
        "Clients offer permessage-deflate. The load counts the bytes that they get, and does not look into them.",
        ("raiden", "centrifugo", "nats", "ws", "websockets"), 1000, 20, size=1024, doors=("deflate",),
        figures=("cpu_offered", "wire"), extra=words(drain=1000),
    ),
    paced(
        "dialects", "Protocols of other servers: 1,000 subscribers, 20 messages/s",
        "Clients subscribe, and messages are published, as the other server has it: by its WebSocket and its HTTP API.",
        DIALECTS, 1000, 20, figures=("cpu", "p50", "p99", "p999", "lost"), doors=PROTOCOLS, by_door=True,
    ),
    full_speed(
        "dialects-full", "Protocols of other servers: 1,000 subscribers, full speed",
        "64 messages are on their way at a time.",
        DIALECTS, 1000, 64, figures=("deliveries", "cpu", "p50", "p99", "p999", "lost"), doors=PROTOCOLS, by_door=True,
    ),
    paced(
        "dialects-idle", "Protocols of other servers: 2,000 idle subscribers",
        "Memory of the server's processes (PSS) for each connection, without that of the kernel.",
        DIALECTS, 2000, 1, doors=PROTOCOLS, by_door=True,
        figures=("memory", "connects", "connect_cpu"), extra=words(settle=1000, msgs=1),
    ),
    full_speed(
        "push", "PUSH to SUB: 10 subscribers, full speed",
        "ZeroMQ clients, beside libzmq's own proxy, and NATS's unacknowledged publishes; 1,000 messages on their way.",
        ("raiden-zmq", "zmq-proxy", "nats"), 10, 1000, doors=("push",),
        figures=("deliveries", "cpu", "p50", "p99", "p999", "lost"),
    ),
)  # fmt: skip

OTHERS = ("redis", "nchan", "nats")
DELIVERIES = 20_000  # a second


def curve(
    name: str, title: str, about: str, axis: str, figures: Sequence[str], points: Mapping[int, Workload]
) -> Curve:
    named = [point._replace(name=f"{name}-{x}", x=x) for x, point in points.items()]
    return Curve(name, title, about, axis, figures, named)


CURVES = (
    curve(
        "subscribers", "Subscribers of one channel", "20,000 deliveries/s: the more subscribers, the fewer messages.",
        "subscribers", ("cpu", "p99"),
        {
            count: paced("", "", "", ("raiden", *OTHERS), count, DELIVERIES // count)
            for count in (10, 100, 1000, 10_000)
        },
    ),
    curve(
        "channels", "Channels", "Publishes at full speed, 16 under way, to each channel in turn; 10 subscribers.",
        "channels", ("cpu_publish", "publishes"),
        {
            count: full_speed(
                "", "", "", ("raiden", "raiden-history"), 10, 16, channels=count, figures=("cpu_publish",)
            )
            for count in (1, 10, 100, 1000, 10_000, 100_000)
        },
    ),
    curve(
        "payload", "Payload", "100 subscribers, 100 messages/s.", "bytes", ("cpu", "p99"),
        {
            size: paced("", "", "", ("raiden", *OTHERS), 100, 100, size=size)
            for size in (16, 128, 1024, 4096, 16_384, 65_536)
        },
    ),
    curve(
        "workers", "Workers", "1,000 subscribers, full speed.", "workers", ("deliveries", "cpu", "p99"),
        {
            count: full_speed("", "", "", (name,), 1000, 64, figures=("deliveries",))
            for count, name in ((1, "raiden"), (2, "raiden-2"))
        },
    ),
    curve(
        "nodes", "Nodes", "1,000 subscribers, spread over all nodes; 20 messages/s, published at the first.", "nodes",
        ("cpu", "p99"),
        {
            count: paced("", "", "", ("raiden" if count == 1 else f"raiden-{count}-nodes",), 1000, 20)
            for count in range(1, 6)
        },
    ),
)  # fmt: skip

NAMES = [workload.name for workload in WORKLOADS] + [curve.name for curve in CURVES]
