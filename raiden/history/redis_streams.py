"""Streams in the shared store.

A stream is a channel whose hash also has ``stream``: the kinds of its messages, and how long it lasts. Its other fields
have the rest of its state, and the hash ``raiden:{channel}:producers`` has epoch and number of each producer. Where a
stream's time is bounded its keys expire with it, all at once, so nobody needs to look at that time. A producer is known
for as long as its stream is there.

A fork is made of copies, in ``raiden:{channel}:copies`` until it is whole. ``raiden:{source}:forks`` has the forks of a
stream, and its presence without the stream means that this is deleted in name. A fork that expires tells nobody. So the
sorted set ``raiden:forks`` has the forks that may be gone, by the time from which on to look: those that are deleted,
and those whose time is bounded. Looking is one step for each, on any node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis

from raiden.history import redis_rows, stream_scripts
from raiden.history.conditions import Unmet
from raiden.history.store import Append, Appended
from raiden.history.streams import Make, Outcome, Stream, StreamPage, kinds, media_type
from raiden.model.chain import Lives, read_past
from raiden.model.message import EARLIEST, UNPROVED, Cursor

_FORKS = "raiden:forks"
# Forks that are looked at when a stream is deleted; the others are when the store is tidied.
_AT_ONCE = 100


def _keys(channel: str) -> list[str]:
    return [redis_rows.key_name(channel, what) for what in ("meta", "stream", "producers", "forks")]


def arguments_of(call: Sequence[Append], life: str) -> tuple[str, list[Any]]:
    """The script for a call whose first append has terms, and its number of keys, keys and arguments."""
    append, terms = call[0], call[0].terms
    keys = _keys(append.channel)
    arguments: list[Any]
    if isinstance(terms, Make):
        script, fork = stream_scripts.MAKE_STREAM, terms.fork
        source = append.channel if fork is None else fork.source
        own = [redis_rows.key_name(append.channel, what) for what in ("beginning", "copies")]
        keys += [_FORKS, *own, *[redis_rows.key_name(source, what) for what in ("meta", "stream", "forks")]]
        at = fork and fork.at
        arguments = [
            terms.content_type, media_type(terms.content_type), kinds(terms.content_type),
            terms.ttl, terms.expires, terms.expires_text,
            fork.source if fork else "", at.offset if at else "", at.proof if at else "", fork.sub if fork else 0,
            append.channel,
        ]  # fmt: skip
    else:
        assert terms is not None
        script = stream_scripts.ADD_TO_STREAM
        seq = "" if terms.seq is None else f"={terms.seq}"
        arguments = [media_type(terms.content_type), int(append.hollow), *(terms.producer or ("", 0, 0)), seq]
    own_keys, *others = redis_rows.arguments_of_all(call, life)
    keys += others[:own_keys]
    return script, [len(keys), *keys, *arguments, *others[own_keys:]]


def results(call: Sequence[Append], answer: Any) -> list[Appended]:
    """The results of a call's appends, from the answer of that script."""
    verdict, done, told, known = answer
    what = verdict.decode()
    stream = _stream(told)
    outcome = Outcome(stream, (int(known[0]), int(known[1])) if known else None, what == stream_scripts.MORE)
    unmet: Unmet | None = None
    if what not in ("", stream_scripts.REPEATED, stream_scripts.MORE):
        position = stream.tail if stream and not stream.deleted else EARLIEST
        unmet = Unmet(what, call[0].channel, call[0].limits()[0], position, outcome)
    elif not isinstance(done, list):
        unmet = redis_rows.unmet(call, done.decode())
    if unmet is not None:
        return [Appended("", range(0), unmet=unmet)] * len(call)
    found = [redis_rows.appended(*each.decode().split()) for each in done]
    found += [Appended("", range(0))] * (len(call) - len(found))
    found[0] = found[0]._replace(repeated=what == stream_scripts.REPEATED, outcome=outcome)
    return found


def _stream(told: Any) -> Stream | None:
    """A stream as the scripts tell it."""
    if not isinstance(told, list):
        return Stream("", EARLIEST, deleted=True) if told else None
    content_type, epoch, next_, proof, _, ended, tail, ttl, expires, text = told
    offset, digits = redis_rows.position(epoch, next_, proof)[1:]
    if tail:
        offset, digits = _place(tail)
    place = Cursor(_lives(told).epoch_of(offset), offset, digits if offset else "")
    return Stream(content_type.decode(), place, ended == b"1", int(ttl), int(expires), text.decode())


def _lives(told: list[Any]) -> Lives:
    _, epoch, next_, _, past, *_ = told
    return Lives(epoch.decode(), int(next_), read_past((past or b"").decode()))


def _place(text: bytes) -> tuple[int, str]:
    """An offset and a proof."""
    offset, _, proof = text.decode().partition(":")
    return int(offset), "" if proof == UNPROVED else proof


class RedisStreams:
    """The part of the store that is for streams only. ``guarded`` makes calls of the server's failures."""

    def __init__(self, client: redis.Redis, guarded: Callable[[Callable[[], Any]], Any]) -> None:
        self._redis = client
        self._guarded = guarded
        self._page_script = client.register_script(stream_scripts.STREAM_PAGE)
        self._delete_script = client.register_script(stream_scripts.DELETE)
        self._due_script = client.register_script(stream_scripts.DUE)
        self._release_script = client.register_script(stream_scripts.RELEASE)

    def page(self, channel: str, place: Cursor | None, limit: int, *, touch: bool) -> StreamPage:
        arguments = ("" if place is None else place.offset, place.proof if place else "", limit, int(touch))
        told, at, rows, more = self._guarded(lambda: self._page_script(_keys(channel), arguments))
        stream = _stream(told)
        if not at:
            return StreamPage(stream)
        offset, proof = int(at[0]), at[1].decode()
        found = Cursor(_lives(told).epoch_of(offset), offset, proof)
        return StreamPage(stream, found, redis_rows.records(rows), bool(more))

    def delete(self, channel: str, *, only_stream: bool) -> str:
        """Delete a stream, or any channel's history. Returns the epoch that ends with it."""
        keys = [*_keys(channel), _FORKS]
        epoch, member = self._guarded(lambda: self._delete_script(keys, [int(only_stream)]))
        for _ in range(_AT_ONCE):
            if not member:
                break
            member = self._release(member)
        return str(epoch.decode())

    def tidy(self, limit: int) -> int:
        """Look at up to ``limit`` forks that may be gone; their number."""
        due = self._guarded(lambda: self._due_script([_FORKS], [limit]))
        for member in due:
            self._release(member)
        return len(due)

    def _release(self, member: bytes) -> bytes:
        """Look whether a fork is gone; the member of the list of forks that has to be looked at next."""
        found = member.decode(errors="replace").split("\0")
        if len(found) != 3:  # nobody of Raiden's wrote it
            self._guarded(lambda: self._redis.zrem(_FORKS, member))
            return b""
        name, epoch, source = found
        keys = [redis_rows.key_name(each, what) for each in (name, source) for what in ("meta", "forks")]
        following: bytes = self._guarded(lambda: self._release_script([*keys, _FORKS], [member, name, epoch]))
        return following
