"""A server that answers POSTs as it is told, byte for byte, on connections that it counts; and certificates for it."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Scripted:
    """Each request is kept in ``requests``, head and body, and ``act(sock, number)`` answers the one with this number,
    from 0; it returns whether the connection is kept. ``port``: where it listens; 0: the kernel's choice."""

    def __init__(
        self, act: Callable[[socket.socket, int], bool], context: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.act = act
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.over = threading.Event()
        self._context = context
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.port}/hook?secret=hidden"
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            self._begin(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        plain = sock
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as source:
                while line := source.readline():
                    head = line
                    while (line := source.readline()) not in (b"\r\n", b""):
                        head += line
                    size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    body = source.read(size)
                    with self._lock:
                        number = len(self.requests)
                        self.requests.append((head, body))
                    if not self.act(sock, number):
                        return
        except (OSError, ValueError, IndexError):
            pass  # the client has left, or this server was closed
        finally:
            plain.close()
            with self._lock:
                self._open.discard(plain)

    def close(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for sock in left:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def says(data: bytes, *, keep: bool = True) -> Callable[[socket.socket, int], bool]:
    """Answers each request with these bytes."""

    def act(sock: socket.socket, _: int) -> bool:
        sock.sendall(data)
        return keep

    return act


def certificate(folder: Path, name: str = "127.0.0.1", *, expired: bool = False) -> Path:
    """A file with a certificate for ``name`` that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    try:
        known: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        known = x509.DNSName(name)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - 3 * day)
        .not_valid_after(now - day if expired else now + day)
        .add_extension(x509.SubjectAlternativeName([known]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / f"{name}{'-expired' * expired}.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + made.public_bytes(serialization.Encoding.PEM)
    )  # fmt: skip
    return file


def server_context(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
