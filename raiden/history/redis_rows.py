"""Input and output of the shared store's scripts: names of keys, arguments, and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raiden.history.conditions import Unmet
from raiden.history.store import FORGET, KEY_WINDOW, Append, Appended
from raiden.history.streams import Outcome, Stream
from raiden.model.chain import first_epoch, new_digits
from raiden.model.message import Cursor
from raiden.model.page import Record


def key_name(channel: str, what: str) -> str:
    """A key's name. Its first closing brace ends the channel, so that no two names are the same."""
    return f"raiden:{{{channel.replace('%', '%25').replace('}', '%7D')}}}:{what}"


def place_of_new(channel: str, life: str, now: int, begun: bytes | None) -> Cursor:
    """The place of a channel that has no history: its epoch is of the server's life, of a span of time (``now`` in
    seconds) in which no history can be both begun and forgotten, and of the last history that was ``begun``."""
    facts = (life, key_name(channel, "meta"), now // int(FORGET), (begun or b"").decode())
    return Cursor(first_epoch(*facts), 0)


def member(channel: str, durable: str) -> str:
    """The member for a durable in the list of all. Neither name has a NUL, which sorts before all other characters."""
    return f"{channel}\0{durable}"


def durable_names(channel: str, durable: str) -> list[str]:
    own = [f"{what}:{durable}" for what in ("durable", "pending", "claimed")]
    return [key_name(channel, what) for what in ("meta", "stream", *own[:2], "durables", own[2])]


def records(rows: Sequence[bytes]) -> list[Record]:
    """Records from the answer of `scripts.PAGE`."""
    found = []
    for head, payload in zip(rows[::2], rows[1::2], strict=True):
        offset, kind, published, *proof = head.decode().split()
        found.append(Record(int(offset), int(kind), payload, int(published), *proof))
    return found


def claims(rows: Sequence[bytes]) -> list[tuple[Record, int]]:
    """Records, each with its attempt, from the answer of `durable_scripts.CLAIM`."""
    found = []
    for head, payload in zip(rows[::2], rows[1::2], strict=True):
        offset, kind, published, attempt, *proof = head.decode().split()
        found.append((Record(int(offset), int(kind), payload, int(published), *proof), int(attempt)))
    return found


def together(appends: Sequence[Append], calls: Sequence[int] | None) -> list[Sequence[Append]]:
    """The appends of each script: a call is one script, because it may be refused as a whole."""
    found: list[Sequence[Append]] = []
    at = 0
    for count in calls or [1] * len(appends):
        found.append(appends[at : at + count])
        at += count
    return found


def append_arguments(append: Append, life: str) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `scripts.APPEND`."""
    keys = [key_name(append.channel, "meta"), key_name(append.channel, "stream")]
    if append.key is not None:
        keys.append(key_name(append.channel, f"key:{append.key}"))
    size, ttl, retain = append.limits()
    times = [int(seconds * 1_000_000) for seconds in (ttl, retain if retain > ttl else 0, FORGET)]
    epochs = (int(FORGET), life, new_digits())
    place = ("", "", "") if append.at is None else append.at
    arguments: list[Any] = [
        *epochs, size, *times, int(KEY_WINDOW), int(append.discard_new), *place, int(append.ends), int(append.hollow),
    ]  # fmt: skip
    for kind, payload in append.messages:
        arguments += (int(kind), payload)
    return keys, arguments


def arguments_of_all(call: Sequence[Append], life: str) -> list[Any]:
    """Numbers of keys, keys and arguments of `scripts.APPEND_ALL`, as EVAL takes them."""
    each = [append_arguments(append, life) for append in call]
    sizes = [size for keys, arguments in each for size in (len(keys), len(arguments))]
    keys = [key for keys, _ in each for key in keys]
    return [len(keys), *keys, len(call), *sizes, *[value for _, arguments in each for value in arguments]]


def appended(epoch: str, first: str, next_: str, chain: str = "", repeated: str = "") -> Appended:
    if chain == "repeated":  # from a release that knew no proofs
        chain, repeated = "", chain
    return Appended(epoch, range(int(first), int(next_)), bool(repeated), chain)


def unmet(call: Sequence[Append], answer: str) -> Unmet | None:
    """The condition that a script names because of which it did not do a call; None: it did."""
    number, found, rest = answer.partition("unmet ")
    if not found:
        return None
    append = call[int(number or 1) - 1]
    rest, *stream = rest.split("\n")
    what, epoch, offset, *proof = rest.split()
    position = Cursor(epoch, int(offset), *proof)
    outcome = None
    if stream:
        content_type, ttl, expires, text = stream
        outcome = Outcome(Stream(content_type, position, False, int(ttl), int(expires), text))
    return Unmet(what, append.channel, append.limits()[0], position, outcome)


def position(epoch: bytes, next_: bytes, proof: bytes | None) -> Cursor:
    last = int(next_) - 1
    at, _, digits = (proof or b"").decode().partition(":")
    return Cursor(epoch.decode(), last, digits if at == str(last) else "")
