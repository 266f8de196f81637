"""The write-ahead log of the embedded store: who brings it into the file, and how large it becomes."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from raiden.history.sqlite import Sqlite
from raiden.history.wal import ENOUGH, MOST
from tests.daemons import ROOT, environment, wait_for
from tests.stores import append

# Appends what is asked for, one message a commit, and prints how large the WAL has been.
WRITER = """
import sys
from pathlib import Path
from raiden.history.store import Append
from raiden.history.sqlite import Sqlite
path, count, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store, wal, most = Sqlite(path), Path(sys.argv[1] + "-wal"), 0
for _ in range(count):
    store.append([Append("a", [(0, b"x" * size)], size=10_000)])
    most = max(most, wal.stat().st_size)
print(most, flush=True)
store.close()
"""
SIZE = 50_000


def write(path: Path, megabytes: int, *before: str) -> int:
    """Append so much in a process of its own, behind ``before``; how large the WAL was at most."""
    argv = [*before, sys.executable, "-c", WRITER, str(path), str(megabytes * 1_000_000 // SIZE), str(SIZE)]
    return int(
        subprocess.run(argv, cwd=ROOT, env=environment(), check=True, stdout=subprocess.PIPE, timeout=120).stdout
    )


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_commits_go_on_while_the_log_is_brought_into_the_file(tmp_path: Path) -> None:
    """It is another thread that writes it to the file than the one that commits."""
    path, trace = tmp_path / "history.db", tmp_path / "trace"
    strace = ("strace", "-f", "-y", "-o", str(trace), "-e", "trace=pwrite64,fdatasync,fsync")
    write(path, 20, *strace)
    commits, moved = Counter[str](), Counter[str]()
    for line in trace.read_text().splitlines():
        found = re.match(r"(\d+) +pwrite64\(\d+<.*/history\.db(-wal)?>, .* (\d+), \d+(\) =| <unfinished)", line)
        if found:
            (commits if found[2] else moved)[found[1]] += int(found[3])
    (committing,) = commits
    assert moved.total() - moved[committing] > ENOUGH // 2, (commits, moved)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_disk_that_cannot_keep_up_holds_commits_up(tmp_path: Path) -> None:
    """Where a flush takes long, the WAL does not grow on."""
    quick = write(tmp_path / "quick.db", 24)
    assert ENOUGH < quick <= MOST + 3 * SIZE
    slow = ("strace", "-f", "-o", str(tmp_path / "trace"), "-e", "inject=fdatasync,fsync:delay_enter=300000")
    assert ENOUGH < write(tmp_path / "slow.db", 24, *slow) <= MOST + 3 * SIZE


def test_it_begins_anew_when_whoever_read_it_is_gone(tmp_path: Path) -> None:
    """A reader keeps SQLite from beginning it anew; commits do not wait for that one."""
    store = Sqlite(tmp_path / "history.db")
    wal = tmp_path / "history.db-wal"
    append(store, "a", b"1")
    reader = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    while wal.stat().st_size < MOST + ENOUGH:
        append(store, "a", b"x" * 1_000_000, size=3)
    assert reader.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    reader.execute("COMMIT")
    reader.close()

    def begun_anew() -> bool:
        append(store, "a", b"2", size=3)
        return wal.stat().st_size <= ENOUGH

    wait_for(begun_anew, "it has begun anew")
    store.close()
    assert not wal.exists(), "all of it is in the file"
