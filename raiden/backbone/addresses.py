"""Addresses at which the processes of a node meet: the paths of its Unix sockets. Pure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

# Bytes of a Unix socket's path, with its last NUL (unix(7)).
MAX_SOCKET_PATH = 108


class Addresses(NamedTuple):
    """The addresses of a node's forwarders, as ``ipc://`` endpoints, and of its history, as a path of a Unix socket; in
    a folder that only the node's user may enter. ``node`` is the id of the node's life."""

    node: str
    publish: str
    uplink: str
    downlink: str
    roster: str
    history: str

    @classmethod
    def within(cls, folder: str | Path, node: str) -> Addresses:
        endpoints = [f"ipc://{folder}/{name}" for name in cls._fields[1:-1]]
        return cls._make([node, *endpoints, f"{folder}/history"])

    @classmethod
    def fit(cls, folder: str | Path) -> bool:
        """Whether the paths within the folder are short enough for Unix sockets."""
        return all(len(os.fsencode(f"{folder}/{name}")) < MAX_SOCKET_PATH for name in cls._fields[1:])
