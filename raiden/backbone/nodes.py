"""The nodes of the cluster as a worker knows them. The worker hears each state of the roster, which has a serial
number, from the node's backbone process (`cluster.py`); and it reports its figures, with the state that it goes by.
"""

from __future__ import annotations

from typing import Any

from raiden.backbone import frames
from raiden.backbone.line import Line
from raiden.backbone.refusals import BackboneFull
from raiden.backbone.roster import InvalidBeat, State
from raiden.model.encoding import dumps


class Nodes:
    """The nodes that worker ``worker`` of the node ``own`` (its id) knows."""

    def __init__(self, line: Line, *, own: str, worker: int) -> None:
        self._line = line
        self._worker = worker
        # The worker's name in the cluster.
        self.name = f"{own}:{worker}"
        self._reports = frames.REPORTS + own.encode() + b"\0"
        self.own = own.encode()
        # The topic of the roster's states.
        self.topic = frames.ROSTER + self.own
        # The rows, this node's first; empty before the roster was heard. They belong to the state of this serial; 0:
        # none.
        self.rows: list[dict[str, Any]] = []
        self.serial = 0
        # The other nodes are connected: subscriptions that were in force there still are.
        self.settled = False
        self._goes_by = 0

    def hear(self, text: bytes) -> State | None:
        """Take a state of the roster; return it if it is another one than before."""
        try:
            state = State.from_bytes(text)
        except InvalidBeat:
            return None  # not from this node's roster
        self.rows = state.nodes
        self.settled = all(row["state"] in ("connected", "leaving") for row in state.nodes[1:])
        if state.serial == self.serial:
            return None
        self.serial = state.serial
        return state

    def go_by_newest(self) -> None:
        """Go by the newest state from now on, and report that."""
        self._goes_by = self.serial
        self.report({})

    def report(self, figures: dict[str, int]) -> None:
        """Tell the roster this worker's figures, and the state of the roster that it goes by."""
        try:
            self._line.send(self._reports + dumps({"worker": self._worker, "serial": self._goes_by, **figures}))
        except BackboneFull:
            return  # the next one comes soon

    def others(self, *states: str) -> dict[bytes, str]:
        """The addresses of the other nodes in one of these states, by id."""
        return {row["id"].encode(): row["address"] for row in self.rows[1:] if row["state"] in states}

    def all_workers(self) -> dict[str, bool]:
        """The names of all nodes' workers, and whether each is of a node that is not suspected."""
        return {
            f"{row['id']}:{number}": row["state"] != "suspected"
            for row in self.rows
            for number in range(row["workers"])
        }

    def workers_elsewhere(self) -> int:
        """The number of workers of the other nodes that are not suspected."""
        return sum(row["workers"] for row in self.rows[1:] if row["state"] != "suspected")
