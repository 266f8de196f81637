"""The shared store: a Redis (7 or later) or Valkey server that all nodes of a cluster use.

A channel has a hash, ``raiden:{channel}:meta``, with its epochs, the offset that comes next and the proof of the last
message, and a stream, ``raiden:{channel}:stream``, whose entry ``41-0`` is the message at offset 41. The random text
``raiden:{channel}:begun`` was written when the history began, so that the next one is another. An append runs one
script, which takes the next offsets, adds the messages and trims the stream: the server runs one script at a time, so
offsets come in one order. A publisher's key is ``raiden:{channel}:key:KEY``; it counts in the history that it was used
in. A script uses the keys of its own channel only, and the braces put these into one slot; but a script that appends to
several channels as a whole or not at all (`scripts.APPEND_ALL`), gives messages up to a dead-letter channel
(`durable_scripts.GIVE_UP`), or is about a fork and its source (`stream_scripts`), has the keys of all of them.

The server's clock counts, nobody else's. Messages beyond a channel's size are removed by the append that makes them so.
Messages beyond their age are hidden at once and removed by later appends. A channel without appends expires by itself,
with the last message that is retained. `raiden.history.redis_streams` tells how streams are kept.

The server's configuration decides what an acknowledged message survives, whatever its `Durability` asks: with
``appendonly yes`` and ``appendfsync always`` it survives the end of the server's machine; with ``everysec`` that may
lose the last second; without a file, a restart loses all. A failover to a replica that was behind loses the messages
that it had not got. So each run of a server is a life of its own (`raiden.model.chain`), named by the ``run_id`` that
it says when a connection begins: the user must be allowed INFO. A server that was killed amid a write may keep the
beginning of that transaction in its file, and take what follows for a part of it when it starts once more (valkey pull
request 4342): run ``redis-check-aof --fix`` before it starts after a crash. ``maxmemory-policy`` should be
``noeviction``; an evicted key is a gap or the end of the history.

A durable is ``raiden:{channel}:durable:NAME``, with the sorted sets ``raiden:{channel}:pending:NAME`` and
``raiden:{channel}:claimed:NAME``; it, too, expires by itself. Its name is one of the set ``raiden:{channel}:durables``
and, with the channel's, of the sorted set ``raiden:durables``; both may have some that are over. The hash
``raiden:kept:NAME`` has a kept value, with its holder.

A group is one transaction in one round trip. Commands are not sent twice: where the connection ends before the answer
came, `StoreFailed` can't say whether the group was appended, and a publisher's key makes it safe to ask again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import redis

from raiden.history import durable_scripts, figures, redis_appends, redis_rows, redis_url, scripts
from raiden.history.figures import Place
from raiden.history.redis_streams import RedisStreams
from raiden.history.store import (
    FORGET,
    MAX_PENDING,
    NEVER,
    NOBODY_KNOWS,
    TOUCH,
    Append,
    Appended,
    Claimed,
    Figures,
    FiguresAsked,
    FiguresPage,
    GiveUp,
    Letters,
    StoreFailed,
)
from raiden.history.streams import StreamPage
from raiden.model import encoding
from raiden.model.chain import Lives, read_past
from raiden.model.message import EARLIEST, Cursor, Message
from raiden.model.page import Gap, Page, Record, Stand

# The texts for clients; the server's words, and its address, are for the log.
AWAY = "the store of the history does not answer: try again later"
REFUSES = "the store of the history refuses what it is asked: this node's log says why"

# The key of all durables, in their order; those that are over may be among them.
_ALL_DURABLES = "raiden:durables"
_FIGURES_SHA = hashlib.sha1(durable_scripts.FIGURES.encode(), usedforsecurity=False).hexdigest()

T = TypeVar("T")
P = ParamSpec("P")


def _reads(call: Callable[P, T]) -> Callable[P, T]:
    """Let a call fail (StoreFailed) where this program did not write what it reads; nothing else fails."""

    @functools.wraps(call)
    def read(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise StoreFailed(
                f"the history holds what is not its own, in keys that begin with raiden: {error}"
            ) from error

    return read


def _with_proofs(claims: Sequence[tuple[int, int]], proofs: Sequence[str]) -> Iterator[int | str]:
    for claim, proof in itertools.zip_longest(claims, proofs, fillvalue=""):
        yield from (*claim, proof)


class Redis:
    """The store on the server at ``url``: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://`` (see
    `redis_url`); raises ValueError for any other, so making one judges a configuration. The server is first asked by
    the first call, and again by the next one after it failed; ``timeout`` seconds bound connecting and each answer."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self._redis, *self._sentinels = redis_url.clients(url, timeout)
        self._where = redis_url.without_password(url)
        self.life = ""
        self._redis.connection_pool.connection_kwargs["redis_connect_func"] = self._begin
        self._page_script = self._redis.register_script(scripts.PAGE)
        self._claim_script = self._redis.register_script(durable_scripts.CLAIM)
        self._give_up_script = self._redis.register_script(durable_scripts.GIVE_UP)
        self._acknowledge_script = self._redis.register_script(durable_scripts.ACKNOWLEDGE)
        self._release_script = self._redis.register_script(durable_scripts.RELEASE)
        self._keep_script = self._redis.register_script(scripts.KEEP)
        self._take_script = self._redis.register_script(scripts.TAKE)
        self._streams = RedisStreams(self._redis, self._guarded)

    # The methods of `Store`.

    @_reads
    def append(self, appends: Sequence[Append], calls: Sequence[int] | None = None) -> list[Appended]:
        if not appends:
            return []
        together = redis_rows.together(appends, calls)

        def append() -> list[Any]:
            pipeline = self._redis.pipeline(transaction=True)
            # The connection is taken first: `life` is then that of the server that it goes to.
            pipeline.connection = self._redis.connection_pool.get_connection()
            for command in redis_appends.commands(together, self.life):
                pipeline.execute_command(*command)
            try:
                answers = pipeline.execute(raise_on_error=False)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                # The server may have done it, for all of it may have been sent.
                raise StoreFailed(
                    f"the history at {self._where} fails ({error}): {NOBODY_KNOWS}",
                    f"the store of the history did not answer: {NOBODY_KNOWS}",
                ) from error
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

        results: list[Appended] = []
        for call, answer in zip(together, self._guarded(append), strict=True):
            results += redis_appends.results(call, answer)
        return results

    def refused(self, channels: Sequence[str]) -> dict[str, str]:
        return {}

    @_reads
    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page(channel, cursor, limit, forward=True)

    @_reads
    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page(channel, cursor, limit, forward=False)

    @_reads
    def positions(self, channels: Sequence[str]) -> dict[str, Stand]:
        def positions() -> list[Any]:
            pipeline = self._redis.pipeline(transaction=False)
            for channel in channels:
                pipeline.hmget(redis_rows.key_name(channel, "meta"), "epoch", "next", "proof", "ended")
            return pipeline.execute()

        found = zip(channels, self._guarded(positions), strict=True)
        return {
            channel: Stand(redis_rows.position(*state), ended == b"1") for channel, (*state, ended) in found if state[0]
        }

    @_reads
    def begin(self, channels: Sequence[str]) -> dict[str, Cursor]:
        def begin() -> list[Any]:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.time()
            for channel in channels:
                pipeline.get(redis_rows.key_name(channel, "begun"))
                # Behind it: with its first message a channel gets another one.
                pipeline.hexists(redis_rows.key_name(channel, "meta"), "epoch")
            return pipeline.execute()

        (now, _), *said = self._guarded(begin)
        found = zip(channels, said[::2], said[1::2], strict=True)
        return {
            name: redis_rows.place_of_new(name, self.life, int(now), each)
            for name, each, has_begun in found
            if not has_begun
        }

    @_reads
    def clear(self, channel: str) -> str:
        return self._streams.delete(channel, only_stream=False)

    @_reads
    def stream(self, channel: str, place: Cursor | None = None, limit: int = 0, *, touch: bool = False) -> StreamPage:
        return self._streams.page(channel, place, limit, touch=touch)

    @_reads
    def delete(self, channel: str) -> str:
        return self._streams.delete(channel, only_stream=True)

    @_reads
    def claim(
        self, channel: str, durable: str, limit: int, wait: float, since: Cursor | None = None,
        give_up: GiveUp = NEVER, *, make: bool = True,
    ) -> Claimed:  # fmt: skip
        begin: tuple[Any, Any] = ("-", "") if not make else since.place if since else ("", "")
        times = (int(FORGET * 1000), int(TOUCH * 1000))
        arguments = [limit, int(wait * 1_000_000), MAX_PENDING, *times, *begin]
        arguments += (give_up.attempts, int(give_up.letters is not None))
        answer = self._guarded(lambda: self._claim_script(redis_rows.durable_names(channel, durable), arguments))
        if not answer:
            return Claimed([], EARLIEST.epoch, ended=True)
        epoch, gap, rows, past, dead, touched, more = answer
        if touched:
            # This is a step of its own, because the list of all is no key of the channel's. Where that fails, the
            # messages are claimed all the same; the next time that the durable's end is put off, it is listed.
            with contextlib.suppress(StoreFailed):
                self._guarded(lambda: self._redis.zadd(_ALL_DURABLES, {redis_rows.member(channel, durable): 0}))
        lost = gap and Gap(gap[0].decode(), *gap[1:])
        claimed = Claimed(redis_rows.claims(rows), epoch.decode(), lost, read_past(past.decode()), more=bool(more))
        if dead and give_up.letters is not None:
            over = claimed._replace(records=redis_rows.claims(dead)).messages(channel)
            try:
                return claimed._replace(letters=self._give_up(channel, durable, give_up.letters, over))
            except StoreFailed:
                # The claimed messages are the caller's all the same; the others wait for a later claim.
                if not claimed.records and claimed.gap is None:
                    raise
                return claimed._replace(more=False)
        return claimed

    def _give_up(
        self, channel: str, durable: str, letters: Append, over: Sequence[tuple[Message, int]]
    ) -> Letters | None:
        """Append the dead letters of messages, each with its attempts, that nobody has claimed meanwhile."""
        keys, arguments = redis_rows.append_arguments(letters, self.life)
        written = {}
        for message, attempts in over:
            assert message.cursor is not None
            epoch, offset = message.cursor.place
            written[offset] = encoding.dead_letter(durable, message, attempts)
            arguments += (offset, attempts, epoch, written[offset])
        keys = [*redis_rows.durable_names(channel, durable), *keys]
        answer = self._guarded(lambda: self._give_up_script(keys, arguments))
        if not answer:
            return None
        appended, offsets = answer
        return Letters(redis_rows.appended(*appended.decode().split()), [written[int(offset)] for offset in offsets])

    @_reads
    def acknowledge(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]],
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        arguments = (epoch, *_with_proofs(claims, proofs))
        return self._guarded(lambda: self._acknowledge_script(redis_rows.durable_names(channel, durable), arguments))

    @_reads
    def release(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]], delay: float = 0.0,
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        arguments = (epoch, *_with_proofs(claims, proofs), int(delay * 1_000_000))
        return self._guarded(lambda: self._release_script(redis_rows.durable_names(channel, durable), arguments))

    def forget(self, channel: str, durable: str) -> None:
        def forget() -> None:
            _, _, place, pending, names, claimed = redis_rows.durable_names(channel, durable)
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.unlink(place, pending, claimed)
            pipeline.srem(names, durable)
            pipeline.zrem(_ALL_DURABLES, redis_rows.member(channel, durable))
            pipeline.execute()

        self._guarded(forget)

    @_reads
    def figures(self, asked: FiguresAsked) -> FiguresPage:
        begin = f"({redis_rows.member(*figures.begin(asked))}"
        members = self._guarded(lambda: self._redis.zrangebylex(_ALL_DURABLES, begin, "+", 0, figures.LOOKED))
        looked = [(channel, name) for channel, _, name in [member.decode().partition("\0") for member in members]]
        found, more = figures.wanted(asked, looked)
        rows, gone = [], []
        for place, told in zip(found, self._figures_of(found), strict=True):
            if told:
                lag, oldest, in_flight, redelivered, dead = map(int, told)
                rows.append(Figures(*place, lag, oldest / 1e6, in_flight, redelivered, dead))
            else:
                gone.append(redis_rows.member(*place))
        if gone:
            self._guarded(lambda: self._redis.zrem(_ALL_DURABLES, *gone))
        return FiguresPage(rows, more)

    def _figures_of(self, places: Sequence[Place]) -> list[Any]:
        """The answer of `durable_scripts.FIGURES` for each durable."""
        pipeline = self._redis.pipeline(transaction=False)
        script = ("EVAL", durable_scripts.FIGURES)
        for place in places:
            names = redis_rows.durable_names(*place)
            pipeline.execute_command(*script, len(names), *names)
            script = ("EVALSHA", _FIGURES_SHA)
        return self._guarded(pipeline.execute)

    def keep(self, name: str, value: bytes, ttl: float, holder: str) -> bool:
        arguments = (holder, value, max(1, int(ttl * 1000)))
        return bool(self._guarded(lambda: self._keep_script([f"raiden:kept:{name}"], arguments)))

    @_reads
    def take(self, name: str, holder: str, only_from: str = "") -> tuple[bytes, str] | None:
        found = self._guarded(lambda: self._take_script([f"raiden:kept:{name}"], (holder, only_from)))
        return (found[0], found[1].decode()) if found else None

    @_reads
    def tidy(self, limit: int) -> int:
        return self._streams.tidy(limit)

    @_reads
    def now(self) -> int:
        seconds, microseconds = self._guarded(self._redis.time)
        return int(seconds) * 1_000_000 + int(microseconds)

    def check(self) -> None:
        # Only a write shows that the server has room, a disk, and is no replica.
        self._guarded(lambda: self._redis.set("raiden:check", b"", px=1000))

    def size(self) -> int:
        return 0

    def close(self) -> None:
        for client in (self._redis, *self._sentinels):
            client.close()

    def _page(self, channel: str, cursor: Cursor | None, limit: int, *, forward: bool) -> Page:
        found = self._ask_page(channel, cursor, limit, forward=forward)
        if found is None:
            known = cursor is not None and not cursor.offset and cursor == self.begin([channel]).get(channel)
            found = None if known else self._ask_page(channel, cursor, limit, forward=forward)  # it may have begun
            if found is None:
                return Page() if known else Page.nothing(cursor, forward=forward)
        lives, proof, at, records, ended = found
        page = Page.found(records, lives, proof, cursor, limit, forward=forward)
        if forward and cursor is not None and not page.is_proved(cursor, at):
            found = self._ask_page(channel, None, limit, forward=True)
            if found is None:
                return Page.nothing(cursor, forward=True)
            lives, proof, _, records, ended = found
            page = Page.disproved(records, lives, proof, cursor, limit)
        page.ended = ended
        return page

    def _ask_page(
        self, channel: str, cursor: Cursor | None, limit: int, *, forward: bool
    ) -> tuple[Lives, str, str | None, list[Record], bool] | None:
        """The channel's epochs, the last message's proof, the proof of the message at the cursor, the records that were
        found, and whether the channel has come to its end."""
        keys = (redis_rows.key_name(channel, "meta"), redis_rows.key_name(channel, "stream"))
        arguments = (int(forward), limit + 1, self.life, *(cursor.place if cursor else ()))
        answer = self._guarded(lambda: self._page_script(keys, arguments))
        if not answer:
            return None
        epoch, next_, past, proof, at, rows, ended = answer
        lives = Lives(epoch.decode(), next_, read_past(past.decode()))
        return lives, proof.decode(), None if at is None else at.decode(), redis_rows.records(rows), bool(ended)

    def _begin(self, connection: Any) -> None:
        """Begin a connection: find out the server's life. A replica is refused: its data may be old, and a Sentinel may
        name it for a while, where it was the master and was started again."""
        connection.on_connect()
        connection.send_command("INFO", "server", "replication")
        said = connection.read_response()
        if b"role:master" not in said.split():
            raise redis.ConnectionError("the server is a replica")
        self.life = said.partition(b"run_id:")[2].split()[0].decode()

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (redis.RedisError, OSError, ValueError) as error:
            if isinstance(error, redis.exceptions.ReadOnlyError):
                self._redis.connection_pool.disconnect()  # it became a replica, which `_begin` will find
            # In a transaction, redis-py puts the whole command before what the server said.
            why = str(error).rpartition("caused error: ")[2]
            away = isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError))
            raise StoreFailed(f"the history at {self._where} fails: {why}", AWAY if away else REFUSES) from error
