"""The Lua scripts that the Redis server runs for streams; `raiden.history.scripts` has the others.

The first keys of each are the hash and the stream of the channel, its producers and its forks."""

from __future__ import annotations

from raiden.history.scripts import ADD, APPEND, ARGUMENTS, CHANNEL, FIND, LAST, LOOK, READ
from raiden.history.streams import (
    ABSENT,
    CLOSED,
    DELETED,
    DIFFERENT,
    EARLY,
    IDLE_FORK,
    JSON,
    MISSING,
    NO_SOURCE,
    ORDINARY,
    POINT,
    RESERVED,
    SEQUENCE,
    SOURCE_DELETED,
    STALE,
    TYPE,
)
from raiden.model.attributes import ENVELOPE
from raiden.model.chain import ROOT_DIGITS
from raiden.model.message import Kind
from raiden.model.page import PAGE_BYTES

# The verdicts, besides the reasons for a refusal: nothing needs to be appended; a fork is not whole yet.
REPEATED, MORE = "repeated", "more"
# Messages of a fork that are copied at once, or up to the one that goes over a page; the milliseconds for which a fork
# that is not whole is kept, if nobody goes on making it, and those for which it then has that long yet when another one
# of its name takes its place.
_PIECE, _PATIENCE = 500, 60_000
_IDLE = _PATIENCE - int(IDLE_FORK * 1000)

# The state of a stream as it is told, and whether a name is that of a stream that is deleted in name: it has forks, and
# is not there.
_TOLD = f"""
local function told(KEYS)
    if redis.call('HEXISTS', KEYS[1], 'stream') == 1 then
        return redis.call('HMGET', KEYS[1], 'type', 'epoch', 'next', 'proof', 'past', 'ended', 'tail', 'ttl', 'expires',
            'expires_text')
    end
    return redis.call('EXISTS', KEYS[4]) == 1 and '{DELETED}'
end
"""

# The proof of the message at an offset of a stream, and its entry.
_ENTRY = """
local function entry_at(stream, offset)
    local at = string.format('%.0f', offset)
    local entry = redis.call('XRANGE', stream, at, at)[1]
    return entry and entry[2][10], entry
end
"""

# The appends of a call. Those behind the first one, which has terms, are as those of `APPEND_ALL`. Before them, the
# answers of `APPEND` where nothing is appended.
_CALL = f"""{LAST}
local function nothing() return stream and {{table.concat({{epoch, whole(next), whole(next)}}, ' ')}} or {{}} end
local function look(KEYS, ARGV) {LOOK} end
local function add(KEYS, ARGV) {READ}{ADD} end
local function append(KEYS, ARGV) {APPEND} end
local function part(list, first, count)
    local found = {{}}
    for n = first, first + count - 1 do found[#found + 1] = list[n] end
    return found
end
local function call_of(keys, arguments)
    local found, count = {{}}, tonumber(ARGV[arguments])
    local sizes = arguments + 1
    arguments = sizes + 2 * count
    for n = 1, count do
        local keys_size, size = tonumber(ARGV[sizes]), tonumber(ARGV[sizes + 1])
        found[n] = {{part(KEYS, keys, keys_size), part(ARGV, arguments, size)}}
        sizes, keys, arguments = sizes + 2, keys + keys_size, arguments + size
    end
    return found
end
local function unmet_of(call)
    for n = 2, #call do
        local answer = look(call[n][1], call[n][2])
        if answer and string.sub(answer, 1, 6) == 'unmet ' then return n .. ' ' .. answer end
    end
end
local function done_of(call)
    local done = {{add(call[1][1], call[1][2])}}
    for n = 2, #call do done[n] = append(call[n][1], call[n][2]) end
    return done
end
"""

# KEYS, besides: those of each append. ARGV: the content type as it is compared; 1 where the append is a hollow end; the
# producer's id ('': none), epoch and number; the sequence behind "=" ('': none); then the number of appends, the
# numbers of keys and arguments of each, and the arguments, as for `APPEND`. The answer: the verdict; the answers of
# `APPEND`, or else that of another append with a condition that does not hold, behind its number; the stream; and epoch
# and number of the producer.
ADD_TO_STREAM = f"""{CHANNEL}{_TOLD}{_CALL}
local media, hollow, id, name, number, seq = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- Lua's own way to compare goes by the language of the server.
local function is_behind(text, other)
    for n = 1, math.min(#text, #other) do
        local byte, another = string.byte(text, n), string.byte(other, n)
        if byte ~= another then return byte > another end
    end
    return #text > #other
end
local state = redis.call('HMGET', KEYS[1], 'media', 'seq', 'closer')
local known = id ~= '' and redis.call('HGET', KEYS[3], id)
local last_name, last_number
if known then last_name, last_number = string.match(known, '^(%d+) (%d+)$') end
local function of_closed()
    if id == '' then return hollow and '{REPEATED}' or '{CLOSED}' end
    if state[3] == table.concat({{name, number, id}}, ' ') then return '{REPEATED}' end
    return known and tonumber(name) < tonumber(last_name) and '{STALE}' or '{CLOSED}'
end
local function of_producer()
    if not known then return number ~= '0' and '{MISSING}' end
    local before, now = tonumber(last_name), tonumber(name)
    if now ~= before then return now < before and '{STALE}' or number ~= '0' and '{EARLY}' end
    local behind = tonumber(number) - tonumber(last_number)
    return behind <= 0 and '{REPEATED}' or behind > 1 and '{MISSING}'
end
local function verdict()
    if not stream then return redis.call('EXISTS', KEYS[4]) == 1 and '{DELETED}' or '{ABSENT}' end
    if ended then return of_closed() end
    if media ~= state[1] and not hollow then return '{TYPE}' end
    local found = id ~= '' and of_producer()
    if found then return found end
    return seq ~= '' and state[2] and not is_behind(string.sub(seq, 2), state[2]) and '{SEQUENCE}'
end
local found = verdict()
local function answer(done)
    return {{found or '', done, told(KEYS), last_name and {{last_name, last_number}} or false}}
end
local call = call_of(5, 7)
if found == '{REPEATED}' then last(KEYS, stream, now) end
if found or #call[1][2] == {ARGUMENTS} then return answer(nothing()) end
local unmet = unmet_of(call)
if unmet then return answer(unmet) end
if id ~= '' then
    redis.call('HSET', KEYS[3], id, name .. ' ' .. number)
    last_name, last_number = name, number
end
if seq ~= '' then redis.call('HSET', KEYS[1], 'seq', string.sub(seq, 2)) end
if id ~= '' and call[1][2][13] == '1' then
    redis.call('HSET', KEYS[1], 'closer', table.concat({{name, number, id}}, ' '))
end
return answer(done_of(call))
"""

# KEYS, besides: the list of forks, the hash and the stream of a fork that is not whole; hash, stream and forks
# of the source (of a stream that is no fork, its own); and those of each append. ARGV: the content type, and as it
# is compared; the kinds, as bits; the ttl, the time and its text; the source's name ('': none), the place (offset ''
# for its tail) and its proof, the sub-offset; the channel's name; then as for `ADD_TO_STREAM`. The answer, too.
MAKE_STREAM = f"""{CHANNEL}{_TOLD}{_ENTRY}{_CALL}
local content_type, media, kinds = ARGV[1], ARGV[2], ARGV[3]
local ttl, expires, expires_text = ARGV[4], ARGV[5], ARGV[6]
local source, at, at_proof, sub, name = ARGV[7], tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10]), ARGV[11]
local has_life, call = ttl ~= '-1' or expires ~= '0', call_of(11, 12)
local arguments = call[1][2]
local place, last_entry, beginning
local function is_same()
    local made = redis.call('HMGET', KEYS[1], 'media', 'ttl', 'expires', 'source', 'at', 'at_proof', 'sub')
    return ended == (arguments[13] == '1') and source == made[4]
        and ((source ~= '' and media == '') or media == made[1])
        and ((source ~= '' and not has_life) or (ttl == made[2] and expires == made[3]))
        and (source == '' or sub == tonumber(made[7]))
        and (not at or (at == tonumber(made[5]) and (at == 0 or at_proof == made[6])))
end
-- The last message of a fork may be the end of its source: as it is without that.
local function without_end(entry)
    local kind, payload = tonumber(entry[2][2]), entry[2][8]
    if kind >= {ENVELOPE} then
        local length = struct.unpack('>I4', payload)
        local said, rest = string.sub(payload, 5, 4 + length), string.sub(payload, 5 + length)
        if said == '{{"end":true}}' then
            kind, payload = kind - {ENVELOPE}, rest
        elseif string.sub(said, -12) == ',"end":true}}' then
            said = string.sub(said, 1, -13) .. '}}'
            payload = struct.pack('>I4', #said) .. said .. rest
        end
    end
    entry[2][2], entry[2][8] = whole(kind), payload
    return entry[2]
end
local function payload_of(entry)
    local payload = entry[2][8]
    if tonumber(entry[2][2]) < {ENVELOPE} then return payload end
    return string.sub(payload, 5 + struct.unpack('>I4', payload))
end
local function of_fork()
    local made = redis.call('HMGET', KEYS[8], 'media', 'next', 'tail', 'epoch')
    if not made[1] then return redis.call('EXISTS', KEYS[10]) == 1 and '{SOURCE_DELETED}' or '{NO_SOURCE}' end
    if media ~= '' and media ~= made[1] then return '{TYPE}' end
    local tail = tonumber(made[3] and string.match(made[3], '^%d+') or made[2] - 1)
    local root, of = string.sub(made[4], 1, {ROOT_DIGITS}), sub .. ' ' .. source
    local begun = redis.call('HMGET', KEYS[6], 'of', 'root', 'at', 'at_proof', 'ttl', 'expires', 'expires_text')
    if begun[1] == of and begun[2] ~= root then begun = {{}} end  -- of a source that is gone
    if begun[1] and (begun[1] ~= of or (at and (at ~= tonumber(begun[3]) or (at > 0 and at_proof ~= begun[4])))
            or (has_life and (ttl ~= begun[5] or expires ~= begun[6]))) then
        -- Others have to wait, unless nobody goes on making it: two that began anew in turns would never end.
        if redis.call('PTTL', KEYS[6]) > {_IDLE} then return '{DIFFERENT}' end
        begun = {{}}
    end
    if begun[5] then
        ttl, expires, expires_text = begun[5], begun[6], begun[7]
    elseif not has_life then
        local given = redis.call('HMGET', KEYS[8], 'ttl', 'expires', 'expires_text')
        ttl, expires, expires_text = given[1], given[2], given[3]
    end
    if begun[1] then
        at, at_proof = tonumber(begun[3]), begun[4]
    elseif not at then
        at, at_proof = tail, tail > 0 and entry_at(KEYS[9], tail) or ''
    end
    if at > tail or (at > 0 and entry_at(KEYS[9], at) ~= at_proof) then return '{POINT}' end
    place = at
    if sub > 0 and made[1] == '{JSON}' then
        place = at + sub
    elseif sub > 0 then
        local _, entry = entry_at(KEYS[9], at + 1)
        beginning = at < tail and entry and payload_of(entry) or ''
        if #beginning < sub then return '{POINT}' end
    end
    if place > tail then return '{POINT}' end
    -- Copy the next messages.
    if not begun[1] then redis.call('DEL', KEYS[6], KEYS[7]) end
    local low, size, count = tonumber(redis.call('HGET', KEYS[6], 'next') or 1), 0, 0
    while low <= place and size <= {PAGE_BYTES} and count < {_PIECE} do
        local entries = redis.call('XRANGE', KEYS[9], whole(low), whole(place), 'COUNT', 10)
        if #entries == 0 then low = place + 1 end
        for _, entry in ipairs(entries) do
            low = tonumber(string.match(entry[1], '^%d+'))
            if low == place then last_entry = without_end(entry) end
            redis.call('XADD', KEYS[7], entry[1], unpack(entry[2]))
            low, size, count = low + 1, size + #entry[2][8], count + 1
            if size > {PAGE_BYTES} then break end
        end
    end
    redis.call('HSET', KEYS[6], 'of', of, 'root', root, 'at', whole(at), 'at_proof', at_proof, 'next',
        whole(low), 'ttl', ttl, 'expires', expires, 'expires_text', expires_text)
    redis.call('PEXPIRE', KEYS[6], {_PATIENCE})
    if count > 0 then redis.call('PEXPIRE', KEYS[7], {_PATIENCE}) end
    return low <= place and '{MORE}'
end
local function verdict()
    if stream then return is_same() and '{REPEATED}' or '{DIFFERENT}' end
    if epoch then return '{ORDINARY}' end
    if redis.call('EXISTS', KEYS[4]) == 1 then return '{RESERVED}' end
    return source ~= '' and of_fork()
end
local found = verdict()
if found == '{REPEATED}' then last(KEYS, stream, now) end
if found then return {{found, nothing(), told(KEYS), false}} end
local unmet = unmet_of(call)
if unmet then return {{'', unmet, told(KEYS), false}} end
-- As `redis_rows.place_of_new` has it.
local begun = string.sub(KEYS[1], 1, -5) .. 'begun'
local facts = table.concat({{arguments[2], KEYS[1], whole(math.floor(time[1] / arguments[1])),
    redis.call('GET', begun) or ''}}, ' ')
epoch = string.sub(redis.sha1hex(facts), 1, {ROOT_DIGITS})
redis.call('SET', begun, arguments[3], 'EX', arguments[1])
redis.call('UNLINK', KEYS[2], KEYS[3])
local last_proof = last_entry and last_entry[10] or ''
if source ~= '' then
    local given = redis.call('HMGET', KEYS[8], 'type', 'media', 'stream', 'fork')
    if content_type == '' then content_type = given[1] end
    media, kinds = given[2], string.match(given[3], '^%d+')
    if place > 0 then
        -- The last piece may have been copied by an earlier call.
        last_proof = last_proof ~= '' and last_proof or entry_at(KEYS[7], place) or ''
        redis.call('RENAME', KEYS[7], KEYS[2])
        redis.call('PERSIST', KEYS[2])
    end
    redis.call('UNLINK', KEYS[6])
    local member = table.concat({{name, epoch, source}}, '\\0')
    redis.call('HSET', KEYS[1], 'fork', member, 'at', whole(at), 'at_proof', at_proof, 'sub', whole(sub))
    redis.call('HSET', KEYS[10], 'fork ' .. name .. '\\0' .. epoch, '1')
    if given[4] then redis.call('HSET', KEYS[10], 'self', given[4]) end
    if ttl ~= '-1' or expires ~= '0' then redis.call('ZADD', KEYS[5], time[1] * 1000, member) end
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'next', whole((place or 0) + 1), 'life', arguments[2],
    'proof', whole(place or 0) .. ':' .. last_proof, 'stream', kinds .. ' never', 'type', content_type,
    'media', media, 'ttl', ttl, 'expires', expires, 'expires_text', expires_text, 'source', source)
if beginning then
    local own = part(arguments, 1, {ARGUMENTS})
    own[13], own[14] = '0', '0'
    own[{ARGUMENTS} + 1], own[{ARGUMENTS} + 2] = '{Kind.BYTES}', string.sub(beginning, 1, sub)
    add(call[1][1], own)
end
local made = {{'', done_of(call), told(KEYS), false}}
-- Its time begins now, and may be over already.
if ttl ~= '-1' then
    stream = kinds .. ' ' .. whole(ttl * 1000)
    redis.call('HSET', KEYS[1], 'stream', stream)
    last(KEYS, stream, now)
elseif expires ~= '0' then
    redis.call('HSET', KEYS[1], 'stream', kinds .. ' fixed')
    for _, key in ipairs({{KEYS[2], KEYS[1]}}) do redis.call('PEXPIREAT', key, whole(math.ceil(expires / 1000))) end
end
return made
"""

# KEYS: only those of the channel. ARGV: the offset of a place ('': the tail) and its proof, how many messages, and 1
# where this is a use of the stream. The answer: the stream; offset and proof of the place (nothing where it is none);
# records as `PAGE` has them; and 1 where there are more.
STREAM_PAGE = f"""{CHANNEL}{FIND}{LAST}{_TOLD}{_ENTRY}
if not stream then return {{told(KEYS), false, {{}}, 0}} end
if ARGV[4] == '1' then last(KEYS, stream, now) end
local tail = redis.call('HGET', KEYS[1], 'tail')
local high = tonumber(tail and string.match(tail, '^%d+') or next - 1)
local offset = ARGV[1] == '' and high or tonumber(ARGV[1])
local known = offset > 0 and offset <= high and entry_at(KEYS[2], offset) or ''
if offset > high or (ARGV[1] ~= '' and offset > 0 and known ~= ARGV[2]) then return {{told(KEYS), false, {{}}, 0}} end
local found, size, reached = {{}}, 0, offset
for _, entry in ipairs(find(offset + 1, high, tonumber(ARGV[3]), true)) do
    if size > {PAGE_BYTES} then break end
    reached, size = offset_of(entry), size + #entry[2][8]
    found[#found + 1] = table.concat({{whole(reached), entry[2][2], entry[2][4], proof_of(entry)}}, ' ')
    found[#found + 1] = entry[2][8]
end
return {{told(KEYS), {{whole(offset), known}}, found, reached < high and 1 or 0}}
"""

# KEYS, besides: the list of forks. ARGV: 1 where only a stream is to be deleted. The answer: the epoch that ends ('':
# there was none), and where it was a fork, its member in the list.
DELETE = """
local made = redis.call('HMGET', KEYS[1], 'epoch', 'stream', 'fork')
if ARGV[1] == '1' and not made[2] then return {'', ''} end
redis.call('UNLINK', KEYS[1], KEYS[2])
if made[2] then redis.call('UNLINK', KEYS[3]) end
if made[3] then redis.call('ZADD', KEYS[5], 0, made[3]) end
return {made[1] or '', made[3] or ''}
"""

# The list of forks has those that may be gone, by the time in milliseconds from which on to look: a fork with its
# epoch and its source. ARGV: how many. The answer: those whose time has come.
DUE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
"""

# Look whether a fork is gone, and tell its source; a source that only this fork kept goes, too. KEYS: the fork's hash
# and forks, those of its source, and the list. ARGV: the fork's member of the list, its name and its epoch. The answer:
# the member of the source where that has to be looked at; else nothing.
RELEASE = f"""
local root = string.sub(redis.call('HGET', KEYS[1], 'epoch') or '', 1, {ROOT_DIGITS})
if root == ARGV[3] then
    local ends = redis.call('PEXPIRETIME', KEYS[1])
    if ends > 0 then redis.call('ZADD', KEYS[5], ends, ARGV[1]) else redis.call('ZREM', KEYS[5], ARGV[1]) end
    return ''
end
redis.call('ZREM', KEYS[5], ARGV[1])
-- Its own forks keep it; the last of them will bring it here again.
if redis.call('EXISTS', KEYS[2]) == 1 then return '' end
redis.call('HDEL', KEYS[4], 'fork ' .. ARGV[2] .. '\\0' .. ARGV[3])
local own = redis.call('HGET', KEYS[4], 'self')
if redis.call('HLEN', KEYS[4]) > (own and 1 or 0) then return '' end
redis.call('DEL', KEYS[4])
if not own or redis.call('HEXISTS', KEYS[3], 'stream') == 1 then return '' end
redis.call('ZADD', KEYS[5], 0, own)
return own
"""
