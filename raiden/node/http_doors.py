"""The HTTP doors of a worker, and what the settings say of each: the public one, the one for those who look after the
node, and the one that leads to https. They are called by the names of the settings of their ports."""

from __future__ import annotations

import logging

from raiden.connections import tls
from raiden.connections.tls import InvalidCertificate, Tls
from raiden.http.door import HttpDoor
from raiden.node import permits
from raiden.node.settings import Settings
from raiden.protocols.hosts import Hosts, is_loopback
from raiden.protocols.proxies import Proxies

logger = logging.getLogger(__name__)

PUBLIC, CONTROL, REDIRECT = "http_port", "control_port", "http_redirect_port"


def furnish(door: HttpDoor, name: str, settings: Settings) -> None:
    """Give a door what the settings say; a reload does it again. A certificate that can't be used leaves the one before
    in its place; raises InvalidCertificate where there is none."""
    door.access_log.on = settings.access_log
    door.hosts = hosts(settings, name)
    door.proxies = None
    if settings.trusted_proxies:
        door.proxies = Proxies(settings.trusted_proxies, settings.proxy_header)
    door.is_introduced = name in settings.proxy_protocol
    if name == PUBLIC:
        _load_certificate(door, settings)


def hosts(settings: Settings, name: str) -> Hosts:
    """The hosts that a door answers for. Those who look after a node reach it by any name of its own."""
    host = settings.control_host if name == CONTROL else settings.http_host
    guarded = is_loopback(host) and permits.policy(settings).has_open
    return Hosts(settings.allowed_hosts if guarded or name != CONTROL else (), guarded=guarded)


def _load_certificate(door: HttpDoor, settings: Settings) -> None:
    """Read the certificate's files, which may be others under the same names. (The supervisor has just read them.)"""
    if settings.tls_cert is None:
        door.tls = None
        return
    stats = door.stats

    def failed() -> None:
        stats.refused_handshakes += 1

    try:
        made = tls.context(
            settings.tls_cert, settings.tls_key, settings.tls_client_ca, required=settings.tls_client_required
        )
    except InvalidCertificate as error:
        if door.tls is None:
            raise
        logger.error("the certificate before stays", extra={"reason": str(error)})
    else:
        door.tls = Tls(made, failed, lambda: door.limits.max_unfinished)
