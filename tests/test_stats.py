"""What a worker counts, as Prometheus reads it."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families

from raiden.runtime.stats import BUCKETS, COUNTERS, TRANSPORTS, Histogram, Stats, exposition
from tests.daemons import Daemon, wait_for
from tests.multiplex import Client

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(*workers: Stats) -> Samples:
    """Every sample by its name and labels; none may come twice."""
    samples: Samples = {}
    for family in text_string_to_metric_families(exposition([worker.snapshot() for worker in workers]).decode()):
        assert family.documentation and family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_counters_of_several_workers() -> None:
    one, other = Stats(1), Stats(0)
    for number, name in enumerate(COUNTERS, 1):
        setattr(one, name, number)
    samples = read(one, other)
    for number, name in enumerate(COUNTERS, 1):
        assert value(samples, f"raiden_{name}_total", worker="1") == number
        assert value(samples, f"raiden_{name}_total", worker="0") == 0


def test_connections_and_gauges() -> None:
    one, other = Stats(0), Stats(1)
    one.connections["poll"] = 3
    one.gauges = lambda: {"channels": 5, "backbone_depth": 0.5}
    other.gauges = lambda: {"channels": 6, "backbone_depth": 0}
    samples = read(one, other)
    assert value(samples, "raiden_connections", worker="0", transport="poll") == 3
    assert all(value(samples, "raiden_connections", worker="1", transport=name) == 0 for name in TRANSPORTS)
    assert value(samples, "raiden_channels", worker="1") == 6
    assert value(samples, "raiden_backbone_depth", worker="0") == 0.5


def test_a_bucket_holds_its_bound() -> None:
    histogram = Histogram()
    for seconds in (0, BUCKETS[0], BUCKETS[0] * 1.01, BUCKETS[-1], BUCKETS[-1] + 1):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1] + [0] * (len(BUCKETS) - 3) + [1, 1]


def test_buckets_are_cumulative() -> None:
    one, other = Stats(0), Stats(1)
    for seconds in (0.0001, 0.003, 0.003, 60):
        one.publish_latency.observe(seconds)
    other.publish_latency.observe(0.003)
    samples = read(one, other)
    bounds = [*map(str, BUCKETS), "+Inf"]
    counts = [value(samples, "raiden_publish_seconds_bucket", worker="0", le=bound) for bound in bounds]
    assert counts == [1] * 5 + [3] * 10 + [4]
    assert value(samples, "raiden_publish_seconds_count", worker="0") == 4
    assert value(samples, "raiden_publish_seconds_sum", worker="0") == 60.0061
    assert value(samples, "raiden_publish_seconds_count", worker="1") == 1
    assert value(samples, "raiden_delivery_seconds_bucket", worker="0", le="+Inf") == 0


def test_deliveries_are_measured_from_publication() -> None:
    stats = Stats()
    now = time.time_ns() // 1000
    ages = (-3_600_000_000, 3_600_000_000)  # published by another node's clock, and an hour ago
    stats.observe_deliveries([(now - age, 1) for age in ages])
    assert stats.delivery_latency.counts[0] == stats.delivery_latency.counts[-1] == 1
    assert 3600 <= stats.delivery_latency.total < 3700


def test_no_workers() -> None:
    assert [name for name, _ in read()] == ["raiden_build_info"]


def test_greenlets_and_orders_go_with_the_subscription(daemon: Daemon, channel: str) -> None:
    """There are enough consumers that a greenlet of another test, which ends meanwhile, does not count."""
    names, many = ("raiden_greenlets", "raiden_orders"), 10

    def more() -> list[float]:
        return [daemon.metric(name) - first for name, first in zip(names, before, strict=True)]

    before = [daemon.metric(name) for name in names]
    with Client(daemon) as client:
        for number in range(many):
            client.ask(cmd="subscribe", channel=f"{channel}.{number}", durable="d", ack=True)
        # Each consumer has one, however many messages it waits for.
        wait_for(lambda: more()[0] > many / 2 and more()[1] == many, "all are counted")
    wait_for(lambda: more()[0] < many / 2 and more()[1] == 0, "all are gone")
