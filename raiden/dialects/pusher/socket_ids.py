"""Socket ids: the form that ids of connections (`raiden.delivery.connection_ids`) have in the protocol. Pure.

An id has the form ``\\d+\\.\\d+``: the number of the worker's life, and that of its connection. So it leads to the
connection without a table, from any node.
"""

from __future__ import annotations

import re
from typing import Final

from raiden.delivery.connection_ids import OWN, WORKER
from raiden.model.refusals import Invalid

_FORM = re.compile(r"\d{1,40}\.\d{1,40}", re.ASCII)
# An id that no connection has.
NOBODY: Final = "0" * 2 * (WORKER + OWN)


def socket_id(connection_id: str) -> str:
    """The socket id of a connection."""
    return f"{int(connection_id[: 2 * WORKER], 16)}.{int(connection_id[2 * WORKER :], 16)}"


def connection_id(socket_id: object) -> str:
    """The id of the connection with a socket id, `NOBODY` where there can't be one. Raises Invalid."""
    if not isinstance(socket_id, str) or not _FORM.fullmatch(socket_id):
        raise Invalid("socket_id has the form of '1234.5678', as the client's connection has it")
    worker, own = map(int, socket_id.split("."))
    if worker >= 1 << (8 * WORKER) or own >= 1 << (8 * OWN):
        return NOBODY
    return f"{worker:0{2 * WORKER}x}{own:0{2 * OWN}x}"
