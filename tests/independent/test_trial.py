"""Two minutes of faults with one seed: the cluster keeps what the documents promise."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.cluster.network import requires_network
from tests.daemons import wait_for
from tests.independent.trial import trial

SECONDS = 60.0  # of faults: the cluster's begin, and the wait for the last messages, take about as long again


@requires_network
def test_a_cluster_keeps_its_promises_under_faults(installed_redis: None, tmp_path: Path) -> None:
    threads = threading.active_count()
    outcome = trial(SECONDS, 1, tmp_path)
    assert not outcome.violations, "\n".join(map(str, outcome.violations[:20]))
    assert outcome.counts["deliveries"] and outcome.counts["handed out"] and outcome.counts["sessions resumed"]
    wait_for(lambda: threading.active_count() <= threads, "its threads have ended")
