"""``raiden nodes``: a table of the cluster, as one of its running nodes sees it."""

from __future__ import annotations

import http.client
import ssl
from typing import Any

import ujson

from raiden.cli.source import Source
from raiden.node.settings import ServiceBuilder, Settings

HELP = "show the nodes of the cluster as the running node sees them"

TIMEOUT = 10.0
HEADER = ("ADDRESS", "STATE", "VERSION", "UPTIME", "WORKERS", "CONNECTIONS", "CHANNELS", "IN", "OUT", "LAG", "ID")


class NoAnswer(Exception):
    """The node could not be asked; the text says why and what to do."""


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    print(table(fetch(settings)))
    return 0


def fetch(settings: Settings) -> list[dict[str, Any]]:
    """Fetch the rows of ``/-/nodes`` from the node with these settings; raises NoAnswer."""
    name, host, port = "http_port", settings.http_host, settings.http_port
    if settings.control_port is not None:
        name, host, port = "control_port", settings.control_host, settings.control_port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    if name == "http_port" and settings.tls_cert is not None:
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=_trust(settings.tls_cert))
    try:
        connection.request("GET", "/-/nodes")
        response = connection.getresponse()
        nodes: list[dict[str, Any]] = ujson.loads(response.read())["nodes"]
        return nodes
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise NoAnswer(f"no node answers at {host}:{port}: {error}; name it with -X '{name} = ...' or -C") from None
    finally:
        connection.close()


def _trust(cert: str) -> ssl.SSLContext:
    """Trust the node that has this very certificate, whatever its name is."""
    made = ssl.create_default_context(cafile=cert)
    made.check_hostname = False
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return made


def table(nodes: list[dict[str, Any]]) -> str:
    """The rows as a table for people."""
    rows = [HEADER, *map(_cells, nodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _cells(node: dict[str, Any]) -> tuple[str, ...]:
    lag = "-" if node["lag"] is None else f"{node['lag'] * 1000:.1f} ms"
    counts = [str(node[name]) for name in ("workers", "connections", "channels", "messages_in", "messages_out")]
    return (node["address"], node["state"], node["version"], _duration(node["uptime"]), *counts, lag, node["id"])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
