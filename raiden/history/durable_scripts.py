"""What the Redis server runs for durables, in Lua, as `raiden.history.scripts` has the rest."""

from __future__ import annotations

from raiden.history import PAGE_BYTES
from raiden.history.scripts import APPEND, CHANNEL, FIND, GO_ON, LIVES
from raiden.message import Kind

# A durable is a hash with its epoch, the first offset that was never claimed, and a field for each offset that is
# claimed: how often it was. A sorted set has the same offsets by the deadline of their claim. Where that has passed, it
# is the offset below zero instead, so that the first of these is the one to come again.
# Two more fields count what was claimed again, and what was given up.
# KEYS: the channel's hash and stream, the durable and its claims, and the names of the channel's durables.
_OVERDUE = "local function overdue(at) return whole(at - 9007199254740992) end\n"

# What a message becomes that is given up, as `encoding.dead_letter` has it; `named` is how all of them begin.
_LETTER = r"""
local function base64(data)
    local digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
    local found = {}
    for n = 1, #data, 3 do
        local one, two, three = string.byte(data, n, n + 2)
        local bits, text = one * 65536 + (two or 0) * 256 + (three or 0), ''
        for _ = 1, 4 do
            text = string.sub(digits, bits % 64 + 1, bits % 64 + 1) .. text
            bits = math.floor(bits / 64)
        end
        found[#found + 1] = string.sub(text, 1, three and 4 or two and 3 or 2) .. (three and '' or two and '=' or '==')
    end
    return table.concat(found)
end
local function letter(named, entry, attempts)
    local kind, value, proof = entry[2][2], entry[2][8], proof_of(entry)
    if kind == 'TEXT' then
        value = cjson.encode(value)
        -- As `encoding.dumps` does.
        for from, to in pairs({['\226\128\168'] = '2028', ['\226\128\169'] = '2029', ['\194\133'] = '0085'}) do
            value = string.gsub(value, from, '\\u' .. to)
        end
    elseif kind == 'BYTES' then
        value = '{"base64":"' .. base64(value) .. '"}'
    end
    local at = offset_of(entry)
    local cursor = epoch_of(at) .. ':' .. whole(at) .. (proof == '' and '' or ':' .. proof)
    return named .. cursor .. '","attempts":' .. attempts .. ',"data":' .. value .. '}'
end
""".replace("TEXT", str(Kind.TEXT)).replace("BYTES", str(Kind.BYTES))

# KEYS, besides: the hash and the stream of the dead-letter channel, if there is one.
# ARGV: how many, for how many microseconds, how many may be claimed, milliseconds after which the durable is forgotten,
# milliseconds more that it may last, and epoch and offset of the place to begin at ('': none; '-': the durable is not
# to be made, and the answer is empty where it is not there); how often a message is claimed (0: again and again), how
# dead letters begin, and what `APPEND` is told of their channel. The answer: epoch; epoch, first and last of the gap if
# there is one; for each record a text of offset, kind, time, attempt and proof, and the payload; the epochs before; the
# dead letters, with where they were appended, if there are any; and 1 where the durable may not be in the list of all.
CLAIM = f"""{CHANNEL}{LIVES}{GO_ON}{FIND}{_OVERDUE}
local limit, deadline = tonumber(ARGV[1]), now + ARGV[2]
local place = redis.call('HMGET', KEYS[3], 'epoch', 'next')
local known, changed = place[1], not place[1]
if not known and ARGV[6] == '-' then return {{}} end
-- A channel without a history has its next offset before it.
if not epoch then epoch, next = '0', 1 end
local begin, from = known or (ARGV[6] ~= '' and ARGV[6]) or epoch, tonumber(place[2])
if not known then from = ARGV[7] ~= '' and ARGV[7] + 1 or next end
local gap, first, last
local lost
from, lost = go_on(begin, from)
changed = changed or lost or begin ~= epoch
if lost then
    gap = begin
    for _, at in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
        if tonumber(at) >= from then
            redis.call('ZREM', KEYS[4], at)
            redis.call('HDEL', KEYS[3], at)
        end
    end
end
local function lose(low, high)
    if low <= high and (not gap or first) then
        first, last = math.min(first or low, low), math.max(last or high, high)
        gap = epoch_of(last)
    end
end
local answer, taken, size = {{}}, 0, 0
local most, again_count, dead = tonumber(ARGV[8]), 0, {{}}
local function done(at)
    redis.call('ZREM', KEYS[4], at)
    redis.call('HDEL', KEYS[3], at)
    changed = true
end
local function take(entry)
    local at = offset_of(entry)
    local attempt = redis.call('HINCRBY', KEYS[3], whole(at), 1)
    redis.call('ZADD', KEYS[4], whole(deadline), whole(at))
    taken, changed = taken + 1, true
    if attempt > 1 then again_count = again_count + 1 end
    answer[2 * taken - 1] = table.concat({{whole(at), entry[2][2], entry[2][4], attempt, proof_of(entry)}}, ' ')
    answer[2 * taken] = entry[2][8]
    size = size + #entry[2][8]
end
for _, at in ipairs(redis.call('ZRANGE', KEYS[4], 0, whole(now), 'BYSCORE')) do
    redis.call('ZADD', KEYS[4], overdue(at), at)
end
local again
repeat
    again = redis.call('ZRANGE', KEYS[4], '-inf', '(0', 'BYSCORE', 'LIMIT', 0, limit - taken)
    for _, at in ipairs(again) do
        local entry = find(tonumber(at), tonumber(at), 1, true)[1]
        local attempts = most > 0 and tonumber(redis.call('HGET', KEYS[3], at) or 0) or 0
        if not entry then
            done(at)
            lose(tonumber(at), tonumber(at))
        elseif most > 0 and attempts >= most then
            done(at)
            dead[#dead + 1] = {{entry, attempts}}
            size = size + #entry[2][8]
        else
            take(entry)
        end
        if size > {PAGE_BYTES} then break end
    end
until #again == 0 or taken >= limit or size > {PAGE_BYTES}
local room = math.min(limit - taken, ARGV[3] - redis.call('ZCARD', KEYS[4]))
if room > 0 and from < next and size <= {PAGE_BYTES} then
    local found = find(from, next - 1, room, true)
    for _, entry in ipairs(found) do
        lose(from, offset_of(entry) - 1)
        from = offset_of(entry) + 1
        take(entry)
        if size > {PAGE_BYTES} then break end
    end
    if #found < room and size <= {PAGE_BYTES} then
        lose(from, next - 1)
        from, changed = next, true
    end
end
if again_count > 0 then redis.call('HINCRBY', KEYS[3], 'redelivered', again_count) end
if #dead > 0 then redis.call('HINCRBY', KEYS[3], 'dead', #dead) end
local letters = {{}}
if #dead > 0 and KEYS[6] then
    {_LETTER}
    local function append(KEYS, ARGV) {APPEND} end
    local arguments = {{unpack(ARGV, 10, 18)}}
    -- The life that the client knows may be another server's.
    arguments[2] = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
    for n, each in ipairs(dead) do
        letters[n] = letter(ARGV[9], each[1], each[2])
        arguments[8 + 2 * n], arguments[9 + 2 * n] = '{Kind.JSON}', letters[n]
    end
    letters[#letters + 1] = append({{KEYS[6], KEYS[7]}}, arguments)
end
local touched = redis.call('PTTL', KEYS[3]) < tonumber(ARGV[4])
if changed then
    redis.call('HSET', KEYS[3], 'epoch', epoch, 'next', whole(from))
    touched = redis.call('SADD', KEYS[5], string.sub(KEYS[3], #KEYS[1] + 5)) == 1 or touched
end
if changed or touched then
    for n = 3, 5 do redis.call('PEXPIRE', KEYS[n], ARGV[4] + ARGV[5]) end
end
return {{epoch, gap and {{gap, first or 0, last or 0}} or false, answer, past, letters, touched}}
"""


def _of_held(action: str) -> str:
    """ARGV: the epoch, and each claim's offset and attempt; the action may have one more. The answer: the offsets of
    those that were in force."""
    return f"""{CHANNEL}{LIVES}{_OVERDUE}
local held, known = {{}}, redis.call('HGET', KEYS[3], 'epoch')
-- Without it, the history is another one, which the durable has not come to yet.
local present = known and epoch and end_of(known) > 0
for n = 2, #ARGV - 1, 2 do
    local at, attempt = ARGV[n], redis.call('HGET', KEYS[3], ARGV[n])
    local name = present and epoch_of(tonumber(at)) or known
    if name == ARGV[1] and attempt and (attempt == ARGV[n + 1] or ARGV[n + 1] == '0') then
        {action}
        held[#held + 1] = tonumber(at)
    end
end
return held
"""


ACKNOWLEDGE = _of_held("redis.call('HDEL', KEYS[3], at) redis.call('ZREM', KEYS[4], at)")
# ARGV, besides: for how many microseconds they can't be claimed.
RELEASE = _of_held("redis.call('ZADD', KEYS[4], ARGV[#ARGV] == '0' and overdue(at) or whole(now + ARGV[#ARGV]), at)")

# Nothing changes. The answer: how many messages are not acknowledged, the age of the oldest in microseconds, how many
# are claimed, how many claims were of messages that had been claimed before, and how many were given up; none where
# there is no such durable.
FIGURES = f"""{CHANNEL}{LIVES}{GO_ON}{FIND}
local place = redis.call('HMGET', KEYS[3], 'epoch', 'next', 'redelivered', 'dead')
if not place[1] then return {{}} end
local lag, oldest, claimed = 0, 0, 0
local alive = epoch and find(1, next - 1, 1, true)[1]
if alive then
    local from, first = go_on(place[1], tonumber(place[2])), offset_of(alive)
    local low = math.max(from, first)
    lag = next - low
    local function count(...)
        local found = 0
        for _, at in ipairs(redis.call('ZRANGE', KEYS[4], ...)) do
            local at = tonumber(at)
            if at >= first and at < from then found, low = found + 1, math.min(low, at) end
        end
        return found
    end
    claimed = count('(' .. whole(now), '+inf', 'BYSCORE')
    lag = lag + claimed + count('-inf', whole(now), 'BYSCORE')
    local entry = lag > 0 and find(low, next - 1, 1, true)[1]
    if entry then oldest = math.max(0, now - entry[2][4]) end
end
return {{lag, whole(oldest), claimed, place[3] or 0, place[4] or 0}}
"""
