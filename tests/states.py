"""States of a node's roster, as its workers hear them."""

from __future__ import annotations

from raiden.model.encoding import dumps


def state(serial: int, *, alone: bool) -> bytes:
    """A state in which nobody is there but the node itself."""
    row = {"id": "node", "address": "127.0.0.1:1", "state": "connected", "workers": 1}
    return dumps({"serial": serial, "alone": alone, "nodes": [row]})
