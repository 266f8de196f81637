"""The letters by which workers exchange requests and answers; `docs/architecture.md` draws their ways. Pure.

A worker is called by its place and the name of its life, ``NODE:NUMBER.LIFE``: one that takes the place of another one
has another life. A request has a number at the worker of the client that asks, another one for each server that is
tried. Times that travel are seconds that are left, because no two clocks are compared.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import msgspec

_LIFE: Final = re.compile("[0-9a-f]{16}")


class Report(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The servers of a channel on a ``worker``: how many there are, the number of open requests of those that have the
    fewest (``least``), how many have so few and room for more (``idle``), and how many requests more all may have. Of
    two reports of a worker the one with the higher ``serial`` is newer."""

    worker: str
    serial: int
    channel: str
    servers: int
    least: int = 0
    idle: int = 0
    room: int = 0


class Asked(msgspec.Struct, array_like=True, tag=1, gc=False):
    """A request, for one of the servers of its channel. ``called``: there is room for it, as `Called` has said."""

    asker: str
    number: int
    channel: str
    kind: int
    payload: bytes
    left: float
    called: bool


class Answered(msgspec.Struct, array_like=True, tag=2, gc=False):
    """The answer to a request."""

    number: int
    kind: int
    payload: bytes
    report: Report


class Failed(msgspec.Struct, array_like=True, tag=3, gc=False):
    """The error with which the server has answered."""

    number: int
    code: int
    message: str
    report: Report


class Dropped(msgspec.Struct, array_like=True, tag=4, gc=False):
    """The server that had the request has gone."""

    number: int
    report: Report


class Returned(msgspec.Struct, array_like=True, tag=5, gc=False):
    """No server here has taken the request."""

    number: int
    report: Report


class Withdrawn(msgspec.Struct, array_like=True, tag=6, gc=False):
    """The client that has asked has gone."""

    asker: str
    number: int


class Told(msgspec.Struct, array_like=True, tag=7, gc=False):
    """The servers of a channel, for a worker that has asked about them."""

    report: Report


class Waits(msgspec.Struct, array_like=True, tag=8, gc=False):
    """Requests wait at the asker's worker for a server that has room."""

    asker: str
    channel: str


class Called(msgspec.Struct, array_like=True, tag=9, gc=False):
    """There is room for one request of the worker that waits, for a moment."""

    report: Report


class Passed(msgspec.Struct, array_like=True, tag=10, gc=False):
    """The worker that was called has no request any more."""

    asker: str
    channel: str


class Settle(msgspec.Struct, array_like=True, tag=11, gc=False):
    """An answer by ``holder`` that came in at another worker (``asker``) than its request went out from. ``message`` is
    that of an error; None: it is no error, and ``code`` means nothing."""

    asker: str
    number: int
    request: str
    holder: str
    kind: int
    payload: bytes
    code: int
    message: str | None


class Settled(msgspec.Struct, array_like=True, tag=12, gc=False):
    """The answer to `Settle`: its status, and for a refusal its text."""

    number: int
    status: int
    detail: str


class Ping(msgspec.Struct, array_like=True, tag=13, gc=False):
    """Ask for a sign of life."""

    asker: str


class Pong(msgspec.Struct, array_like=True, tag=14, gc=False):
    """A sign of life."""

    worker: str


Letter: TypeAlias = (
    Asked | Answered | Failed | Dropped | Returned | Withdrawn | Told | Waits | Called | Passed | Settle | Settled
    | Ping | Pong
)  # fmt: skip

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Letter).decode


def to_bytes(letter: Letter) -> bytes:
    return _encode(letter)


def from_bytes(data: bytes) -> Letter | None:
    """Read a letter; None where the bytes are none of this release."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def to_row(report: Report) -> list[object]:
    """The report, as JSON can have it."""
    return list(msgspec.structs.astuple(report))


def report_of(value: object) -> Report | None:
    """The report of a row; None where it is none."""
    try:
        return msgspec.convert(value, Report)
    except msgspec.MsgspecError:
        return None


def life_of(worker: str) -> str:
    """The name of a worker's life."""
    return worker.rpartition(".")[2]


def place_of(worker: str) -> str:
    """The place of a worker, which another one takes when it ends."""
    return worker.rpartition(".")[0]


def node_of(worker: str) -> str:
    """The id of a worker's node."""
    return worker.partition(":")[0]


def life_in(request: str) -> str | None:
    """The life of the worker that has given a request its id; None: it is no id."""
    life = request.partition("-")[0]
    return life if _LIFE.fullmatch(life) else None
