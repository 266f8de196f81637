"""Terms of an append to a stream, judged by the state of that stream, as `raiden.history.streams` says. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from raiden.history.streams import (
    CLOSED,
    DIFFERENT,
    EARLY,
    MISSING,
    SEQUENCE,
    STALE,
    TYPE,
    Add,
    Fork,
    Make,
    Producer,
    Stream,
    media_type,
)

# The verdict where nothing has to be appended, because that was done before; and where all is well.
REPEATED: Final = "repeated"
GOOD: Final = ""


class State(NamedTuple):
    """The part of a stream's state that nobody reads: the last sequence, the producer that closed it, and the fork that
    it was made as."""

    seq: str | None = None
    closer: Producer | None = None
    fork: Fork | None = None


def of_add(terms: Add, stream: Stream, state: State, known: tuple[int, int] | None, *, hollow: bool) -> str:
    """The verdict on an append to a stream that is there; ``known`` is the epoch and the last number of its
    producer."""
    if stream.closed:
        return _of_closed(terms, state, known, hollow=hollow)
    if not hollow and media_type(terms.content_type) != media_type(stream.content_type):
        return TYPE
    if terms.producer is not None:
        verdict = _of_producer(terms.producer, known)
        if verdict:
            return verdict
    if terms.seq is not None and state.seq is not None and terms.seq.encode() <= state.seq.encode():
        return SEQUENCE
    return GOOD


def _of_closed(terms: Add, state: State, known: tuple[int, int] | None, *, hollow: bool) -> str:
    producer = terms.producer
    if producer is None:
        return REPEATED if hollow else CLOSED
    if producer == state.closer:
        return REPEATED
    return STALE if known is not None and producer.epoch < known[0] else CLOSED


def _of_producer(producer: Producer, known: tuple[int, int] | None) -> str:
    epoch, last = (producer.epoch, -1) if known is None else known
    if producer.epoch < epoch:
        return STALE
    if producer.epoch > epoch:
        return EARLY if producer.number else GOOD
    if producer.number <= last:
        return REPEATED
    return GOOD if producer.number == last + 1 else MISSING


def of_make(terms: Make, stream: Stream, state: State, *, closes: bool) -> str:
    """The verdict on an append that makes a stream of which there is one."""
    fork = terms.fork
    same = (
        closes == stream.closed
        and same_fork(fork, state.fork)
        and ((fork and not terms.content_type) or media_type(terms.content_type) == media_type(stream.content_type))
        and same_life(terms, stream.ttl, stream.expires)
    )
    return REPEATED if same else DIFFERENT


def same_life(terms: Make, ttl: int, expires: int) -> bool:
    """Whether a stream that has this life has the one that is asked for, which for a fork counts where it is given."""
    given = terms.ttl >= 0 or bool(terms.expires)
    return bool(terms.fork and not given) or (terms.ttl, terms.expires) == (ttl, expires)


def same_fork(fork: Fork | None, made: Fork | None) -> bool:
    """Whether a fork that is asked for is the one that was made; its place counts where it is given."""
    if fork is None or made is None:
        return fork is made
    at = fork.at is None or (made.at is not None and fork.at[1:] == made.at[1:])
    return at and (fork.source, fork.sub) == (made.source, made.sub)
