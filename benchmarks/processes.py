"""The processes that a benchmark starts and measures: servers of its own on loopback, and the CPU that they take."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.tools import Failed
from tests.daemons import Daemon, wait_for

PATIENCE = 20.0  # seconds, and what was to end is killed
SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))


def cpu_of(*pids: int) -> float:
    """Seconds of user and system time that these processes have taken, with all their threads."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Meter:
    """The CPU that groups of processes take from now on; this process is ``client``."""

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = groups
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {"client": time.process_time(), **{name: cpu_of(*pids) for name, pids in self._groups.items()}}

    def taken(self) -> dict[str, float]:
        return {name: seconds - self._before[name] for name, seconds in self._now().items()}


class Target(NamedTuple):
    """A running system: where it listens, and the process of its `server` and of the `redis` that is its store."""

    port: int
    processes: dict[str, int]
    daemon: Daemon | None = None

    def meter(self) -> Meter:
        """The CPU that it takes from now on, with the processes that its processes have started."""
        return Meter({name: tree(pid) for name, pid in self.processes.items()})


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            pids += map(int, children.read_text().split())
    return pids


def free_port() -> int:
    """A port of the kernel's choice that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def server(folder: Path, command: Callable[[int], list[str]]) -> Iterator[Target]:
    """A server on a port that it is told, from when it accepts connections; its output is for who asks what went
    wrong."""
    log, port = folder / "output", free_port()
    words = command(port)
    with open(log, "wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        wait_for(lambda: accepts(port) or process.poll() is not None, f"{words[0]} is up")
        if process.poll() is not None:
            raise Failed(f"{words[0]} did not start: {log.read_text()}")
        yield Target(port, {"server": process.pid})
    finally:
        end(process)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        for pid in reversed(tree(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCHED)
    if not found:
        raise Failed(f"there is no {name}")
    return found


def stop_all(nodes: list[Daemon]) -> list[int]:
    """Stop nodes, and return their exit codes."""
    for node in nodes:
        node.hang_up()
        node.signal(signal.SIGTERM)
    codes = []
    for node in nodes:
        try:
            codes.append(node.process.wait(PATIENCE))
        except subprocess.TimeoutExpired:
            node.signal_all(signal.SIGKILL)
            codes.append(node.process.wait())
    return codes
