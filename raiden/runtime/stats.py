"""The figures of a worker: plain numbers on the hot path, which become Prometheus metrics when somebody asks."""

from __future__ import annotations

import platform
import resource
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from raiden import __version__

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

COUNTERS = {
    "published": "messages accepted from clients",
    "delivered": "messages put before subscribers, one for each",
    "bytes_in": "payload bytes accepted from clients",
    "bytes_out": "bytes handed to the kernel for clients",
    "slow_consumers": "connections closed because their outbox was full",
    "refused_connections": "connections refused for a limit",
    "rate_limited": "requests, commands and connections refused by rates",
    "bad_frames": "backbone frames that could not be read",
    "repaired": "messages fetched from the history because the backbone did not bring them",
    "gaps": "gaps that could not be filled",
    "dropped": "messages not sent to ZeroMQ subscribers that were too slow, one for each",
    "bad_messages": "messages of ZeroMQ clients that could not be published or understood",
    "refused_subscriptions": "topics of ZeroMQ clients that bring nothing",
    "refused_handshakes": "handshakes of ZeroMQ clients, and of TLS, that failed",
}
DURABLE_FIGURES = {
    "lag": "messages that a durable subscription has not had acknowledged",
    "oldest_seconds": "the age of the oldest of them",
    "in_flight": "those of them that are handed out, or put off",
    "redelivered": "messages handed out again",
    "dead": "messages given up",
}
WEBHOOK_FIGURES = {
    "sent": "events that a webhook's endpoint has taken",
    "failed": "attempts to send it one that failed",
    "retried": "attempts that were not the first of their event",
    "dead": "events that were given up",
    "lost": "events that were pushed out of its queue, or were too old",
    "waiting": "events that wait, or are under way",
}
TRANSPORTS = (
    "http", "stream", "event", "poll", "request", "serve", "websocket", "cable", "centrifuge", "pusher",
    "streams", "sub", "push", "req",
)  # fmt: skip


class Histogram:
    """Counts of durations in seconds, in `BUCKETS` and one more for all longer ones."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += count
        self.total += seconds * count


class Stats:
    """The numbers of one worker since it started."""

    __slots__ = (
        *COUNTERS, "connections", "delivery_latency", "durables", "gauges", "publish_latency", "responses", "webhooks",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: int = 0) -> None:
        self.worker = worker
        self.published = self.delivered = self.bytes_in = self.bytes_out = 0
        self.slow_consumers = self.refused_connections = self.rate_limited = self.bad_frames = 0
        self.repaired = self.gaps = 0
        self.dropped = self.bad_messages = self.refused_subscriptions = self.refused_handshakes = 0
        self.connections = dict.fromkeys(TRANSPORTS, 0)
        self.responses: defaultdict[int, int] = defaultdict(int)
        self.publish_latency = Histogram()
        self.delivery_latency = Histogram()
        self.gauges: Callable[[], dict[str, float]] = dict
        # The figures of durable subscriptions, where this worker tells them for its node.
        self.durables: list[dict[str, Any]] = []
        # The figures of webhooks, where this worker sends them.
        self.webhooks: list[dict[str, Any]] = []

    def observe_deliveries(self, came: Iterable[tuple[int, int]]) -> None:
        """Record the deliveries of a turn, which the kernel has taken now: pairs of a time of publishing (microseconds
        since 1970) and the number of deliveries."""
        now = time.time_ns() // 1000
        for published, count in came:
            self.delivery_latency.observe(max(0, now - published) / 1e6, count)

    def snapshot(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "connections": self.connections,
            "responses": {str(status): count for status, count in self.responses.items()},
            "process": _process(),
            "gauges": self.gauges(),
            "durables": self.durables,
            "webhooks": self.webhooks,
            "publish": [self.publish_latency.counts, self.publish_latency.total],
            "delivery": [self.delivery_latency.counts, self.delivery_latency.total],
        }


class _Snapshots:
    """A Prometheus collector over the snapshots of a node's workers; every sample names the worker that counted it."""

    def __init__(self, snapshots: list[dict[str, Any]]) -> None:
        self._snapshots = sorted(snapshots, key=lambda snapshot: snapshot["worker"])

    def collect(self) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"raiden_{name}", text, labels=["worker"])
            for snapshot in self._snapshots:
                counter.add_metric([str(snapshot["worker"])], snapshot["counters"][name])
            yield counter
        yield from self._answers_and_processes()
        build = GaugeMetricFamily("raiden_build_info", "what runs; always 1", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        connections = GaugeMetricFamily("raiden_connections", "open connections", labels=["worker", "transport"])
        for snapshot in self._snapshots:
            for transport, count in snapshot["connections"].items():
                connections.add_metric([str(snapshot["worker"]), transport], count)
        yield connections
        for name in sorted({name for snapshot in self._snapshots for name in snapshot["gauges"]}):
            gauge = GaugeMetricFamily(f"raiden_{name}", name.replace("_", " "), labels=["worker"])
            for snapshot in self._snapshots:
                if name in snapshot["gauges"]:
                    gauge.add_metric([str(snapshot["worker"])], snapshot["gauges"][name])
            yield gauge
        yield from self._durables()
        yield from self._webhooks()
        for name in ("publish", "delivery"):
            histogram = HistogramMetricFamily(f"raiden_{name}_seconds", f"{name} latency", labels=["worker"])
            for snapshot in self._snapshots:
                counts, total = snapshot[name]
                histogram.add_metric([str(snapshot["worker"])], _cumulative(counts), total)
            yield histogram

    def _durables(self) -> Iterator[Metric]:
        for name, text in DURABLE_FIGURES.items():
            family = CounterMetricFamily if name in ("redelivered", "dead") else GaugeMetricFamily
            metric = family(f"raiden_durable_{name}", text, labels=["worker", "channel", "durable"])
            for snapshot in self._snapshots:
                for row in snapshot["durables"]:
                    metric.add_metric([str(snapshot["worker"]), row["channel"], row["durable"]], row[name])
            yield metric

    def _webhooks(self) -> Iterator[Metric]:
        for name, text in WEBHOOK_FIGURES.items():
            family = GaugeMetricFamily if name == "waiting" else CounterMetricFamily
            metric = family(f"raiden_webhook_{name}", text, labels=["worker", "webhook"])
            for snapshot in self._snapshots:
                for row in snapshot["webhooks"]:
                    metric.add_metric([str(snapshot["worker"]), row["webhook"]], row[name])
            yield metric

    def _answers_and_processes(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("raiden_requests", "HTTP requests answered, handshakes too", labels=["worker"])
        responses = CounterMetricFamily("raiden_responses", "the same, by status", labels=["worker", "status"])
        memory = GaugeMetricFamily("raiden_resident_memory_bytes", "memory of the process", labels=["worker"])
        cpu = CounterMetricFamily("raiden_cpu_seconds", "user and system time of the process", labels=["worker"])
        for snapshot in self._snapshots:
            worker = str(snapshot["worker"])
            requests.add_metric([worker], sum(snapshot["responses"].values()))
            for status, count in sorted(snapshot["responses"].items()):
                responses.add_metric([worker, status], count)
            memory.add_metric([worker], snapshot["process"]["memory"])
            cpu.add_metric([worker], snapshot["process"]["cpu"])
        return iter((requests, responses, memory, cpu))


def _process() -> dict[str, float]:
    """The resident memory of this process, in bytes, and its CPU time, in seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"memory": pages * resource.getpagesize(), "cpu": time.process_time()}


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    return [(bound, sum(counts[: i + 1])) for i, bound in enumerate(bounds)]


def exposition(snapshots: list[dict[str, Any]]) -> bytes:
    """The snapshots in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Snapshots(snapshots))
    return generate_latest(registry)
