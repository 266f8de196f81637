"""The history process of a node, which alone has the store, and answers the workers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from pathlib import Path
from typing import Any

from raiden.backbone.addresses import Addresses
from raiden.history.server import Server
from raiden.history.sqlite import Sqlite
from raiden.history.store import Store, StoreFailed
from raiden.node.settings import Settings
from raiden.runtime import log
from raiden.runtime.private import open_private
from raiden.runtime.service import READY


def run(settings: Settings, addresses: Addresses, supervisor: socket.socket) -> None:
    """Be the history process of a node. Over the socket ``supervisor`` it says that it is ready, or why it can't start.
    When that closes, nobody will ask any more, and the process ends."""
    log.setup("history", form=settings.log_format, level=settings.log_level)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    lock = None
    try:
        if settings.store == "sqlite":
            lock = _claim(Path(settings.data_dir))
            store: Store = Sqlite(Path(settings.data_dir) / "history.sqlite", settings.max_data)
        else:
            from raiden.history.redis import Redis  # the settings' check has imported it

            store = Redis(settings.store)
    except StoreFailed as error:
        supervisor.sendall(f"history: {error}".encode())
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(addresses.history)  # of the process before this one
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(addresses.history)
    listener.listen(socket.SOMAXCONN)
    server = Server(store, listener)
    server.look()
    supervisor.sendall(READY)
    server.serve_until(supervisor)
    store.close()
    del lock  # held until here
    os._exit(0)


def _claim(data_dir: Path) -> Any:
    """Lock the data directory for as long as the returned object is kept; raises StoreFailed if another process holds
    the lock, or where there can be none."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open_private(data_dir / "history.lock")
    except OSError as error:
        raise StoreFailed(
            f"cannot write in {data_dir}: {error.strerror}; set data_dir to a directory of your own, or store = 'none'"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreFailed(
            f"another raiden keeps its history in {data_dir}: give this one another data_dir, or store = 'none'"
        ) from None
    return file
