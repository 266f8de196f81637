"""Starts nodes as forks of a process that has imported raiden already: to import it takes most of the time that a node
takes to start. What runs is the same as with ``python -m raiden``, which `tests/test_daemon.py` starts.

    python -m tests.starter FD     serves requests that come by this socket
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

CLONE_NEWNET = 0x40000000
MAX_REQUEST = 1 << 20


class Started:
    """A process that was started; as `subprocess.Popen`, as far as tests need it."""

    def __init__(self, starter: Starter, argv: Sequence[str], pid: int) -> None:
        self.args = argv
        self.pid = pid
        self.returncode: int | None = None
        self._starter = starter
        # The starter can be asked for the end of a process only once.
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                said = self._starter.ask(self.pid)
                if said:
                    self.returncode = os.waitstatus_to_exitcode(int(said))
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or the negative number of the signal that has ended it; raises TimeoutExpired."""
        begun = time.monotonic()
        pause = threading.Event()
        while (code := self.poll()) is None:
            waited = time.monotonic() - begun
            if timeout is not None and waited > timeout:
                raise subprocess.TimeoutExpired(self.args, timeout)
            pause.wait(max(0.01, min(waited / 10, 0.1)))
        return code

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
        pid = int(self.ask([list(arguments), environment, namespace], out.fileno(), err.fileno()))
        return Started(self, ["raiden", *arguments], pid)

    def ask(self, what: object, *descriptors: int) -> bytes:
        """The answer to a request: a pid, or for a pid the status that it has ended with (empty: it has not)."""
        with self._lock:
            socket.send_fds(self._control, [json.dumps(what).encode()], descriptors)
            said = self._control.recv(64)
        assert said, "the starter has ended"
        return said[1:]


@functools.cache
def of(root: Path) -> Starter:
    """The starter of a checkout, in this process."""
    return Starter(root, {**os.environ, "PYTHONPATH": str(root)})


def _serve(control: socket.socket) -> list[str] | None:
    """Answer requests, until there are no more. Returns the arguments in each fork; None in this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        asked, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST, 2)
        if not asked:
            return None
        what = json.loads(asked)
        if isinstance(what, int):
            ended, status = os.waitpid(what, os.WNOHANG)
            control.send(b":%d" % status if ended else b":")
            continue
        arguments, environment, namespace = what
        pid = os.fork()
        if not pid:
            control.detach()
            _become(environment, namespace, *descriptors)
            return list(arguments)
        for each in descriptors:
            os.close(each)
        control.send(b":%d" % pid)


def _become(environment: dict[str, str], namespace: str, out: int, err: int) -> None:
    """Be as a new process would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
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

    # A fork would copy most of the memory that it shares with this process, were the garbage collector to look at it.
    gc.collect()
    gc.freeze()
    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        sys.argv = ["raiden", *found]
        code = main(found)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # to take the interpreter down, object by object, would copy that memory, too
