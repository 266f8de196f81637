"""Stores that go back a few times with one seed, each way at the same time: nobody is told that all is well where it is
not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.network import requires_network
from tests.daemons import wait_for
from tests.independent.trial_of_returns import KINDS, trial

TIMES, STAY = 2, 4.0


@requires_network
def test_stores_that_go_back(installed_redis: None, tmp_path: Path) -> None:
    threads = threading.active_count()
    with ThreadPoolExecutor(len(KINDS)) as pool:
        outcomes = list(pool.map(lambda kind: trial(kind, TIMES, 1, tmp_path / kind, stay=STAY), KINDS))
    for outcome in outcomes:
        assert not outcome.violations, (outcome.kind, "\n".join(map(str, outcome.violations[:20])))
        assert outcome.counts["acknowledged, and lost by the store"] and outcome.counts["gaps told"], outcome.kind
        assert outcome.counts["resumes"] and outcome.counts["handed out"], outcome.kind
    wait_for(lambda: threading.active_count() <= threads, "its threads have ended")
