"""Starts nodes as forks of a process that has imported raiden already: to import it takes most of the time that a node
takes to start. What runs is the same as with ``python -m raiden``, which `tests/test_daemon.py` starts.

    python -m tests.starter FD     serves requests that come by this socket
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

CLONE_NEWNET = 0x40000000
MAX_REQUEST = 1 << 20


class Started:
    """A process that was started; as `subprocess.Popen`, as far as tests need it."""

    def __init__(self, argv: Sequence[str], status: int) -> None:
        self.args = argv
        self.returncode: int | None = None
        self._status = status
        said = os.read(status, 32)
        assert said, "the starter has ended"
        self.pid = int(said)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or the negative number of the signal that has ended it; raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            said = os.read(self._status, 32)
            assert said, "the starter has ended"
            self.returncode = os.waitstatus_to_exitcode(int(said))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Starter:
    """The process whose forks are started; it ends with this one. ``root`` is the checkout that it imports."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self._root = root
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
        argv = [sys.executable, "-m", "tests.starter", str(theirs.fileno())]
        self._process = subprocess.Popen(
            argv, cwd=root, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._lock = threading.Lock()

    def start(
        self, arguments: Sequence[str], environment: dict[str, str], out: IO[bytes], err: IO[bytes], namespace: str = ""
    ) -> Started:
        """Start ``raiden`` with these arguments, in a network namespace if one is named."""
        reading, writing = os.pipe()
        asked = json.dumps([list(arguments), environment, namespace]).encode()
        with self._lock:
            socket.send_fds(self._control, [asked], [out.fileno(), err.fileno(), writing])
        os.close(writing)
        return Started(["raiden", *arguments], reading)


@functools.cache
def of(root: Path, environment: tuple[tuple[str, str], ...]) -> Starter:
    """The starter of a checkout, in this process."""
    return Starter(root, dict(environment))


def _serve(control: socket.socket) -> list[str] | None:
    """Fork for each request, until there are no more. Returns the arguments in each fork; None in this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    running: dict[int, int] = {}  # where the exit code goes, by pid
    while True:
        ready, _, _ = select.select([control.fileno(), waking], [], [])
        if waking in ready:
            os.read(waking, 4096)
            _tell_ends(running)
        if control.fileno() not in ready:
            continue
        asked, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST, 3)
        if not asked:
            return None
        arguments, environment, namespace = json.loads(asked)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            control.detach()
            _become(environment, namespace, *descriptors[:2])
            return list(arguments)
        out, err, status = descriptors
        os.close(out)
        os.close(err)
        running[pid] = status
        os.write(status, b"%d" % pid)


def _tell_ends(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(told, b"%d" % status)
        os.close(told)


def _become(environment: dict[str, str], namespace: str, out: int, err: int) -> None:
    """Be as a new process would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(environment)
    if namespace:
        there = os.open(namespace, os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        os.close(there)


if __name__ == "__main__":
    from raiden.cli import main

    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        sys.argv = ["raiden", *found]
        sys.exit(main(found))
