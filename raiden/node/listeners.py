"""Listening sockets: one for each worker, all on one port."""

from __future__ import annotations

import errno
import socket
import time

from raiden.node.errors import StartError

# Connections that the kernel keeps until they are accepted, for each socket.
BACKLOG = 4096


def listen(kind: str, host: str, port: int, count: int = 1, *, setting: str = "http_port") -> list[socket.socket]:
    """Open ``count`` listening sockets on one port (SO_REUSEPORT). Raises StartError, which names the settings
    ``kind``_host and ``setting``, where that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise StartError(f"{kind}_host = {host!r}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    try:
        # SO_REUSEPORT would let a second node share the port unnoticed: a first socket without it must get the port.
        _bind(family, host, port, reuse_port=False).close()
        for _ in range(count):
            sock = _bind(family, host, port, reuse_port=True)
            sockets.append(sock)
            port = sock.getsockname()[1]
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} of {host} is in use: stop who uses it, or set another {setting}") from None
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return sockets


def _bind(family: int, host: str, port: int, *, reuse_port: bool) -> socket.socket:
    deadline = time.monotonic() + 1.0
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            return sock
        except OSError as error:
            sock.close()
            # The workers of a killed node need a moment to notice.
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def endpoint(listener: socket.socket) -> str:
    """The endpoint to which ZeroMQ clients connect."""
    host, port = listener.getsockname()[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
