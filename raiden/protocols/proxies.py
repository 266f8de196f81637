"""Proxies between clients and the server: which are trusted, and what they tell of the client. Pure.

Anyone may send ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239). So these fields count only where the connection comes
from a trusted proxy, and of their addresses only those that trusted proxies have written. Each proxy appends the
address that it was reached from. Read from the right, the first address that is no trusted proxy's is the client's;
what stands left of it was written by the client.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from raiden.model.fields import parse, split

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

HEADERS: Final = ("X-Forwarded-For", "Forwarded")
# Proxies behind each other that are looked at.
MOST: Final = 32
# Characters of the fields of a request whose client is remembered, and the number of these.
_MAX_LENGTH, _REMEMBERED = 300, 1000
# An address, in brackets or not, perhaps with a port: a node of RFC 7239 section 6 that is no obfuscated one.
_NODE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?|([0-9A-Fa-f:]+(?::[0-9.]+)?)")
_SCHEMES = ("http", "https")


class Source(NamedTuple):
    """The origin of a request: the client's address, and the scheme by which it came; None: nobody knows."""

    address: str
    scheme: str | None = None


class Proxies:
    """The trusted proxies, by their ``networks``: addresses or CIDR, like ``10.0.0.0/8``. They set the field ``header``
    on each request. Another field of that kind may come from the client itself, through a proxy that does not know it.
    Raises ValueError for a text that is no network, and for another header than `HEADERS`."""

    def __init__(self, networks: Sequence[str], header: str = HEADERS[0]) -> None:
        self._networks = [network(text) for text in networks]
        if header not in HEADERS:
            raise ValueError(f"{header!r} is no field that tells addresses: write 'X-Forwarded-For' or 'Forwarded'")
        self._read = _forwarded if header == "Forwarded" else _x_forwarded
        self._field = "HTTP_FORWARDED" if header == "Forwarded" else "HTTP_X_FORWARDED_FOR"
        self._known = functools.lru_cache(_REMEMBERED)(self._source)

    def trusts(self, address: str) -> bool:
        """Whether this is the address of a trusted proxy."""
        found = _address(address)
        return found is not None and self._has(found)

    def source(self, remote: str, environ: Mapping[str, Any]) -> Source | None:
        """The source of a request that came from the address ``remote`` with these fields (PEP 3333); None where that
        is no trusted proxy."""
        if not self.trusts(remote):
            return None
        told, scheme = environ.get(self._field, ""), environ.get("HTTP_X_FORWARDED_PROTO", "")
        if len(told) + len(scheme) > _MAX_LENGTH:
            return self._source(remote, told, scheme)
        return self._known(remote, told, scheme)

    def _source(self, remote: str, told: str, scheme: str) -> Source:
        found = Source(remote)
        for hop in self._read(told, scheme)[-1 : -MOST - 1 : -1]:
            address = _node(hop.address)
            if address is None:  # the proxy hides the client, or does not know it
                return Source(found.address, hop.scheme)
            found = Source(str(address), hop.scheme)
            if not self._has(address):
                break
        return found

    def _has(self, address: Address) -> bool:
        return any([address.version == each.version and address in each for each in self._networks])


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read a network; raises ValueError, which says how to write it."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}: write an address or a network, like '10.0.0.0/8'") from None


def plain(address: Address) -> Address:
    """The address itself; of an IPv4 address in IPv6's form (RFC 4291 section 2.5.5.2) that one."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@functools.lru_cache(_REMEMBERED)
def _address(text: str) -> Address | None:
    try:
        return plain(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def _node(text: str) -> Address | None:
    found = _NODE.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    return None if found is None else _address(found[1] or found[2] or found[3])


def _x_forwarded(told: str, schemes: str) -> list[Source]:
    """The hops of ``X-Forwarded-For``, and of ``X-Forwarded-Proto``, which has a scheme for each hop, or for all."""
    hops = [hop.strip() for hop in told.split(",")]
    given = [_scheme(scheme) for scheme in schemes.split(",")]
    ahead = len(given) - len(hops)
    return [Source(hop, given[max(0, ahead + at)]) for at, hop in enumerate(hops)]


def _forwarded(told: str, _: str) -> list[Source]:
    """The hops of ``Forwarded`` (RFC 7239 section 4); a malformed one has no address."""
    try:
        return [_hop(member) for member in split(told)]
    except ValueError:
        return []


def _hop(member: str) -> Source:
    try:
        _, pairs = parse(f";{member}")
    except ValueError:
        return Source("")
    return Source(pairs.get("for", ""), _scheme(pairs.get("proto", "")))


def _scheme(text: str) -> str | None:
    scheme = text.strip().lower()
    return scheme if scheme in _SCHEMES else None
