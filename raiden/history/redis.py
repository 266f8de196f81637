"""The shared store: a Redis (7 or later) or Valkey server that all nodes of a cluster use.

A channel has a hash, ``raiden:{channel}:meta``, with its epoch and the offset that comes next, and a stream,
``raiden:{channel}:stream``, whose entry ``41-0`` is the message at offset 41. Who appends runs one script, which takes
the next offsets, adds the messages and trims the stream: the server runs one script at a time, so whoever asks, offsets
come in one order. A key of a publisher's is ``raiden:{channel}:key:KEY``; it counts in the epoch that it was used in. A
script uses the keys of its own channel only, and the braces put these into one slot.

The server's clock counts, nobody else's. Messages beyond a channel's size are removed by the append that makes them so,
those beyond their age are hidden at once and removed by later appends; what nobody appends to expires by itself, so
there is nothing to tidy.

What an acknowledged message survives is the server's configuration, whatever its `Durability` asks: with ``appendonly
yes`` and ``appendfsync always`` it survives the end of the server's machine; with ``everysec`` that may lose the last
second; without a file, a restart loses all. Where the last messages were lost, so too in a failover to a replica that
was behind, their offsets are given out again in the same epoch: use ``always``, and fail over only to replicas that
have all. ``maxmemory-policy`` should be ``noeviction``; what is evicted is a gap or the end of the epoch.

A group is one transaction in one round trip. Commands are not sent twice: where the connection ends before the answer
came, `StoreFailed` can't say whether the group was appended, and a publisher's key makes it safe to ask again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from raiden.history import FORGET, KEY_WINDOW, Append, Appended, Page, Record, StoreFailed
from raiden.message import Cursor

# Numbers become text by `format`: Lua's own way keeps 14 digits.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next')
local epoch, next = state[1], tonumber(state[2])
local function whole(number) return string.format('%.0f', number) end
"""

# KEYS: the hash, the stream, and the publisher's key if there is one. ARGV: the epoch of a new channel, its size, and
# in microseconds its messages' age and the time after which it is forgotten; the seconds for which the key is kept;
# then kind, time and payload of each message. The answer is a text, which costs the client less than a list.
_APPEND = f"""{_NOW}
if not epoch then
    epoch, next = ARGV[1], 1
    redis.call('DEL', KEYS[2])
elseif KEYS[3] then
    local done = redis.call('GET', KEYS[3])
    if done and string.match(done, '^%w+') == epoch then return done .. ' repeated' end
end
local first, count, expires = next, (#ARGV - 5) / 3, now + ARGV[3]
next = first + count
redis.call('HSET', KEYS[1], 'epoch', epoch, 'next', whole(next))
for n = 0, count - 1 do
    redis.call('XADD', KEYS[2], whole(first + n) .. '-0', 'kind', ARGV[6 + 3 * n], 'published', ARGV[7 + 3 * n],
        'expires', whole(expires), 'payload', ARGV[8 + 3 * n])
end
-- Looking at one more than came, again and again, finds all that are too old.
local keep = math.max(1, next - ARGV[2])
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', count + 1)) do
    if tonumber(entry[2][6]) > now then break end
    keep = math.max(keep, tonumber(string.match(entry[1], '^%d+')) + 1)
end
redis.call('XTRIM', KEYS[2], 'MINID', whole(keep))
local last = math.max(redis.call('PEXPIRETIME', KEYS[2]), math.ceil(expires / 1000))
redis.call('PEXPIREAT', KEYS[2], whole(last))
redis.call('PEXPIREAT', KEYS[1], whole(math.max(last, math.ceil((now + ARGV[4]) / 1000))))
local done = epoch .. ' ' .. whole(first) .. ' ' .. whole(next)
if KEYS[3] then redis.call('SET', KEYS[3], done, 'EX', ARGV[5]) end
return done
"""

# KEYS: the hash and the stream. ARGV: 1 for forwards, how many, and epoch and offset of the cursor if there is one.
# The answer: epoch, the next offset, and for each record a text of offset, kind and time, and the payload.
_PAGE = f"""{_NOW}
if not epoch then return {{}} end
local forward, limit, offset = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[4])
local known = epoch == ARGV[3] and offset < next
local low, high = 1, next - 1
if known and forward then low = offset + 1 elseif known then high = offset - 1 end
local found = {{}}
while #found < 2 * limit and low <= high do
    local count = math.max(limit - #found / 2, 100)
    local entries
    if forward then
        entries = redis.call('XRANGE', KEYS[2], whole(low), whole(high), 'COUNT', count)
    else
        entries = redis.call('XREVRANGE', KEYS[2], whole(high), whole(low), 'COUNT', count)
    end
    for _, entry in ipairs(entries) do
        local at = tonumber(string.match(entry[1], '^%d+'))
        if forward then low = at + 1 else high = at - 1 end
        if tonumber(entry[2][6]) > now and #found < 2 * limit then
            found[#found + 1] = whole(at) .. ' ' .. entry[2][2] .. ' ' .. entry[2][4]
            found[#found + 1] = entry[2][8]
        end
    end
    if #entries < count then break end
end
return {{epoch, next, found}}
"""

_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()

T = TypeVar("T")


class Redis:
    """The store on the server at ``url``: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it. The server
    is first asked by the first call, and again by the next one after it failed; ``timeout`` seconds bound connecting
    and each answer."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        # Without the password.
        self._where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        # redis-py would send an append again that may have been done.
        never = Retry(NoBackoff(), 0)
        self._redis = self._guarded(
            lambda: redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=never)
        )

    # What `Store` promises.

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        if not appends:
            return []

        def append() -> list[Any]:
            pipeline = self._redis.pipeline(transaction=True)
            # The first brings the script along for all of them: whether the server had it, nobody needs to ask.
            script = ("EVAL", _APPEND)
            for append in appends:
                pipeline.execute_command(*script, *_append_arguments(append))
                script = ("EVALSHA", _APPEND_SHA)
            answers = pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

        return [
            Appended(epoch, range(int(first), int(next_)), bool(repeated))
            for epoch, first, next_, *repeated in (answer.decode().split() for answer in self._guarded(append))
        ]

    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page(channel, cursor, limit, forward=True)

    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page(channel, cursor, limit, forward=False)

    def positions(self, channels: Sequence[str]) -> dict[str, Cursor]:
        def positions() -> list[Any]:
            pipeline = self._redis.pipeline(transaction=False)
            for channel in channels:
                pipeline.hmget(_name(channel, "meta"), "epoch", "next")
            return pipeline.execute()

        found = zip(channels, self._guarded(positions), strict=True)
        return {channel: Cursor(epoch.decode(), int(next_) - 1) for channel, (epoch, next_) in found if epoch}

    def clear(self, channel: str) -> None:
        self._guarded(lambda: self._redis.unlink(_name(channel, "meta"), _name(channel, "stream")))

    def tidy(self, limit: int) -> int:
        return 0

    def close(self) -> None:
        self._redis.close()

    def _page(self, channel: str, cursor: Cursor | None, limit: int, *, forward: bool) -> Page:
        keys = (_name(channel, "meta"), _name(channel, "stream"))
        arguments = (int(forward), limit + 1, *(cursor or ()))
        answer = self._guarded(lambda: self._redis.eval(_PAGE, 2, *keys, *arguments))
        if not answer:
            return Page.nothing(cursor, forward=forward)
        epoch, next_, rows = answer
        records = []
        for head, payload in zip(rows[::2], rows[1::2], strict=True):
            offset, kind, published = map(int, head.split())
            records.append(Record(offset, kind, payload, published))
        return Page.found(records, epoch.decode(), next_, cursor, limit, forward=forward)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (redis.RedisError, OSError, ValueError) as error:
            # In a transaction, redis-py puts the whole command before what the server said.
            why = str(error).rpartition("caused error: ")[2]
            raise StoreFailed(f"the history at {self._where} fails: {why}") from error


def _name(channel: str, what: str) -> str:
    """A key's name. Its first closing brace ends the channel, so that no two names are the same."""
    return f"raiden:{{{channel.replace('%', '%25').replace('}', '%7D')}}}:{what}"


def _append_arguments(append: Append) -> list[Any]:
    keys = [_name(append.channel, "meta"), _name(append.channel, "stream")]
    if append.key is not None:
        keys.append(_name(append.channel, f"key:{append.key}"))
    ttl, forget = int(append.ttl * 1_000_000), int(FORGET * 1_000_000)
    arguments: list[Any] = [len(keys), *keys, secrets.token_hex(4), append.size, ttl, forget, int(KEY_WINDOW)]
    for kind, payload, published in append.messages:
        arguments += (int(kind), published, payload)
    return arguments
