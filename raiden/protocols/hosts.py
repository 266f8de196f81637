"""Hosts: reading and comparing the name and port in ``Host``, in an origin or in a setting; and the hosts that a node
answers for. Pure.

A page of any site can make a browser resolve the site's own name to 127.0.0.1 (DNS rebinding). To the browser its
requests are then of one origin with the node, so no rule about origins stops them; but they name the site in ``Host``.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from raiden.protocols.http import HttpError
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# Characters of a name with its port, and the number of hosts, and of origins, that are remembered as they were read. A
# name in DNS has at most 253 (RFC 1035 section 2.3.4).
MAX_LENGTH, REMEMBERED = 300, 1000
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s,]+)(?::([0-9]{0,5}))?")


class Host(NamedTuple):
    """A host and perhaps a port. The name is in lower case, an IPv6 address in brackets and in its shortest form (RFC
    3986 sections 3.2.2 and 6.2.2.1, RFC 5952)."""

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Host:
        """Raise ValueError unless the text is a name or an address, and perhaps a port. An empty port is none."""
        found = _HOST.fullmatch(text)
        port = int(found[2]) if found and found[2] else None
        if found is None or (port or 0) > 65535:
            raise ValueError(
                f"{text[:100]!r} is no host: write a name or an address and perhaps a port, 'a.example:8088'"
            )
        name = found[1].lower()
        if name.startswith("["):
            name = f"[{ipaddress.IPv6Address(name[1:-1])}]"
        return cls(name, port)

    def covers(self, other: Host) -> bool:
        """Whether this entry of a setting stands for the host ``other``: ``*.a.example`` stands for each name below
        a.example, an entry without a port for each port."""
        if self.port is not None and self.port != other.port:
            return False
        return other.name.endswith(self.name[1:]) if self.name.startswith("*.") else self.name == other.name


def host(text: str) -> Host | None:
    """The host in a request's ``Host``; None where the text is no host."""
    return _known_host(text) if len(text) <= MAX_LENGTH else None


@functools.lru_cache(REMEMBERED)
def _known_host(text: str) -> Host | None:
    try:
        return Host.parse(text)
    except ValueError:
        return None


def is_loopback(name: str) -> bool:
    """Whether the name or address is this machine's loopback: localhost and names below it (RFC 6761 section 6.3),
    127.0.0.0/8 and ::1, the latter with or without brackets."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.removesuffix(".") == "localhost" or name.removesuffix(".").endswith(".localhost")


class Hosts:
    """The hosts that a node answers for: the loopback names and those that ``allowed`` lists, or any, if that has
    ``*``. Without a list, a node that is not ``guarded`` answers for any. ``guarded``: the node listens on loopback and
    its channels are open to anyone, so that only the name in ``Host`` keeps a browser's pages from it."""

    def __init__(self, allowed: Sequence[str] = (), *, guarded: bool = False) -> None:
        self._told = Seldom()
        self._any = "*" in allowed or not (allowed or guarded)
        self._allowed = [] if self._any else [Host.parse(text) for text in allowed]

    def check(self, fields: Mapping[str, str]) -> None:
        """Raise HttpError 421 for a request, by its header fields, to a host that this node does not answer for (RFC
        9110 section 7.4). A request without Host does not come from a browser."""
        text = fields.get("host")
        if self._any or not text:
            return
        found = host(text)
        if found is None or not (is_loopback(found.name) or any(entry.covers(found) for entry in self._allowed)):
            if self._told.may_say(text[:100]):
                log.warning(
                    "refused a request to a host that is not this node's: if it is, list it in allowed_hosts",
                    extra={"host": text[:100], "origin": fields.get("origin", "")[:100]},
                )
            raise HttpError(421, f"this node does not answer for {text[:100]}: list it in allowed_hosts")


def check_allowed(text: str) -> None:
    """Raise ValueError, which says how to write it, for an entry of `allowed_hosts` that stands for no host."""
    if text == "*":
        return
    try:
        found = Host.parse(text)
    except ValueError:
        found = None
    if found is None or "*" in found.name.removeprefix("*."):
        raise ValueError(f"{text!r} is no host: write it like 'a.example', 'a.example:8088', '*.a.example', or '*'")
