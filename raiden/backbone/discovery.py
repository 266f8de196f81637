"""Sources of the addresses of a cluster's nodes, other than the nodes themselves.

A `Source` is looked at again and again, and gives the addresses that it names at that moment: nothing is remembered
here between two looks, neither answers nor the resolver's configuration. A look that fails raises `NotFound` instead of
naming fewer nodes than there may be, so that the caller can keep what it knew.

All calls here but `in_a_thread` block, up to `TIMEOUT`: they are for a thread, not for an event loop.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gevent

TIMEOUT = 5.0  # seconds that a name's lookup may take, after which it is NotFound

# At most 253 characters, in labels of 1 to 63 (RFC 1035 section 2.3.4). \w, because services have underscores and
# names may be written in any script.
_NAME = r"(?![^:]{254})[\w-]{1,63}(?:\.[\w-]{1,63})*\.?"
_ADDRESS = re.compile(rf"(?:\[(?P<ipv6>[\w:.%-]+)\]|(?P<name>{_NAME}))(?::(?P<port>[0-9]{{1,5}}))?")


class NotFound(Exception):
    """The source names no address now; the text says why."""


class Address(NamedTuple):
    """The address of a node: a host's name or numeric address, and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Address:
        """Read ``host:port``, ``[::1]:port``, and with a default port also ``host`` and ``[::1]``.

        Raises ValueError with a sentence that says what to write.
        """
        try:
            match = _ADDRESS.fullmatch(text)
            if match is None:
                raise ValueError
            host = match["name"] or str(IPv6Address(match["ipv6"]))
            if host.rpartition(".")[2].isdigit():
                IPv4Address(host)  # no name ends in a number, and the resolver would take 9989 for 0.0.39.5
            port = int(match["port"] or default_port or 0)
            if not 0 < port < 65536:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{text[:300]!r} is no address: write it as host:port with a port of 1 to 65535, "
                "an IPv6 address in brackets, like 'node1.example:9989' or '[2001:db8::1]:9989'"
            ) from None
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Source(Protocol):
    """Something that names addresses."""

    @property
    def name(self) -> str:
        """The source as it was configured, for log lines."""

    def look(self) -> list[Address]:
        """The addresses that are named now, each once; hosts may be names, for `resolve`.

        Blocks. Raises NotFound, also where a part of the source can't be read.
        """


@dataclass(frozen=True)
class Static:
    """Addresses that are known from the start; there may be none."""

    addresses: Sequence[Address]
    name: str = "peers"

    def look(self) -> list[Address]:
        return list(dict.fromkeys(self.addresses))


@dataclass(frozen=True)
class Dns:
    """Every address of a host's name, with one port."""

    name: str
    address: Address

    def look(self) -> list[Address]:
        return resolve(self.address)


@dataclass(frozen=True)
class Srv:
    """The hosts and ports of a service's SRV records (RFC 2782), the most preferred first.

    All records count, whatever their weights. Hosts keep the final dot that makes them absolute: without it a wildcard
    in one of the resolver's search domains would answer for them.
    """

    name: str
    service: str

    def look(self) -> list[Address]:
        # Not at the top: the import takes 13 MB and 0.15 s, and most nodes need none of it.
        import dns.exception
        import dns.name
        import dns.resolver

        try:
            answer = dns.resolver.Resolver().resolve(self.service, "SRV", lifetime=TIMEOUT, search=True)
            records = sorted(answer, key=lambda record: record.priority)
            # "A Target of "." means that the service is decidedly not available at this domain."
            named = [Address.parse(f"{r.target}:{r.port}") for r in records if r.target != dns.name.root]
        except (dns.exception.DNSException, ValueError) as error:
            raise NotFound(f"no SRV records of {self.service}: {error}") from None
        if not named:
            raise NotFound(f"the SRV records of {self.service} say that there is no such service")
        return list(dict.fromkeys(named))


@dataclass(frozen=True)
class File:
    """A file with one address a line; ``#`` begins a comment, and blank lines count for nothing.

    The file is read whole at each look. Replace it by renaming a new one over it: a file that is being written may be
    read in the middle of a line.
    """

    name: str
    path: str
    default_port: int

    def look(self) -> list[Address]:
        try:
            lines = Path(self.path).read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError) as error:
            raise NotFound(f"{self.path} can't be read: {error}") from None
        named = []
        for number, line in enumerate(lines, 1):
            try:
                if text := line.partition("#")[0].strip():
                    named.append(Address.parse(text, self.default_port))
            except ValueError as error:
                raise NotFound(f"{self.path}, line {number}: {error}") from None
        if not named:
            raise NotFound(f"{self.path} has no address in it: write one a line")
        return list(dict.fromkeys(named))


def source(text: str, *, default_port: int) -> Source:
    """The source that a setting's text describes: ``dns:NAME``, ``dns:NAME:PORT``, ``srv:NAME`` or ``file:PATH``.

    Raises ValueError with a sentence that says what to write.
    """
    kind, _, rest = text.partition(":")
    if kind == "dns" and rest:
        return Dns(text, Address.parse(rest, default_port))
    if kind == "srv" and re.fullmatch(_NAME, rest):
        return Srv(text, rest)
    if kind == "file" and rest:
        return File(text, rest, default_port)
    raise ValueError(f"{text[:300]!r} is no source of addresses: write it as dns:NAME, srv:NAME or file:PATH")


def resolve(address: Address) -> list[Address]:
    """The numeric addresses of a host, IPv4 and IPv6, in the order that the system prefers.

    Blocks. Raises NotFound if the name does not resolve within `TIMEOUT`.
    """
    found: list[Address] = []
    reason: object = f"no answer within {TIMEOUT:g} s"

    def look() -> None:
        nonlocal reason
        try:
            sockets = [where for *_, where in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)]
            # Unlike the tuples themselves, getnameinfo keeps the zone of a link-local address.
            hosts = [socket.getnameinfo(where, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0] for where in sockets]
            found.extend([Address(host, address.port) for host in dict.fromkeys(hosts)])
        except (OSError, UnicodeError) as error:  # UnicodeError: no name by the rules of IDNA
            reason = getattr(error, "strerror", None) or error

    # getaddrinfo takes no timeout. A thread that is left behind ends when the resolver gives up, by resolv.conf's
    # options.
    thread = threading.Thread(target=look, name=f"resolve {address.host}", daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if not found:
        raise NotFound(f"{address.host} does not resolve: {reason}")
    return found


def in_a_thread(look: Callable[..., list[Address]], *args: Any) -> list[Address] | NotFound:
    """Do a blocking call in a thread; return its result, or the NotFound that it raises: the thread pool would print a
    traceback."""

    def run() -> list[Address] | NotFound:
        try:
            return look(*args)
        except NotFound as error:
            return error

    found: list[Address] | NotFound = gevent.get_hub().threadpool.apply(run)
    return found
