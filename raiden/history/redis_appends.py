"""Appends to the shared store: the command for each call, and what its answer says."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from raiden.history import redis_rows, redis_streams, scripts
from raiden.history.store import Append, Appended


def commands(calls: Sequence[Sequence[Append]], life: str) -> Iterator[list[Any]]:
    """The command of each call. The first one with a script brings it along for the others, so that nobody needs to ask
    whether the server has it."""
    brought: dict[str, str] = {}
    for call in calls:
        if call[0].terms is not None:
            script, arguments = redis_streams.arguments_of(call, life)
        elif len(call) > 1:
            script, arguments = scripts.APPEND_ALL, redis_rows.arguments_of_all(call, life)
        else:
            keys, values = redis_rows.append_arguments(call[0], life)
            script, arguments = scripts.APPEND, [len(keys), *keys, *values]
        if script in brought:
            yield ["EVALSHA", brought[script], *arguments]
        else:
            brought[script] = _sha(script)
            yield ["EVAL", script, *arguments]


def results(call: Sequence[Append], answer: Any) -> list[Appended]:
    """The results of a call's appends."""
    if call[0].terms is not None:
        return redis_streams.results(call, answer)
    told = [each.decode() for each in (answer if isinstance(answer, list) else [answer])]
    unmet = redis_rows.unmet(call, told[0])
    if unmet is not None:
        return [Appended("", range(0), unmet=unmet)] * len(call)
    return [redis_rows.appended(*each.split()) for each in told]


@functools.cache
def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
