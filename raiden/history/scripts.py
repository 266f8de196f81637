"""What the Redis server runs: a script is one step for all who use the server. Each begins with the hash and the stream of
a channel as its first keys, and answers with texts, which cost the client less than lists."""

from __future__ import annotations

# Numbers become text by `format`: Lua's own way keeps 14 digits.
_CHANNEL = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'retained')
local epoch, next, retained = state[1], tonumber(state[2]), tonumber(state[3] or 0)
local function whole(number) return string.format('%.0f', number) end
local function offset_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
local function visible(entry)
    return tonumber(entry[2][6]) > now or (retained > now and offset_of(entry) == next - 1)
end
"""

# Up to `limit` visible entries between two offsets.
_FIND = """
local function find(low, high, limit, forward)
    local found = {}
    while #found < limit and low <= high do
        local count, entries = math.max(limit - #found, 100), nil
        if forward then
            entries = redis.call('XRANGE', KEYS[2], whole(low), whole(high), 'COUNT', count)
        else
            entries = redis.call('XREVRANGE', KEYS[2], whole(high), whole(low), 'COUNT', count)
        end
        for _, entry in ipairs(entries) do
            local at = offset_of(entry)
            if forward then low = at + 1 else high = at - 1 end
            if visible(entry) and #found < limit then found[#found + 1] = entry end
        end
        if #entries < count then break end
    end
    return found
end
"""

# KEYS: the hash, the stream, and the publisher's key if there is one. ARGV: the epoch of a new channel, its size, and
# in microseconds its messages' age, the last one's age while it is the last (0: no other), and the time after which the
# channel is forgotten; the seconds for which the key is kept; then kind, time and payload of each message.
APPEND = f"""{_CHANNEL}
if not epoch then
    epoch, next = ARGV[1], 1
    redis.call('DEL', KEYS[2])
elseif KEYS[3] then
    local done = redis.call('GET', KEYS[3])
    if done and string.match(done, '^%w+') == epoch then return done .. ' repeated' end
end
local first, count, expires = next, (#ARGV - 6) / 3, now + ARGV[3]
next = first + count
redis.call('HSET', KEYS[1], 'epoch', epoch, 'next', whole(next))
if count > 0 and ARGV[4] ~= '0' then
    retained = now + ARGV[4]
    redis.call('HSET', KEYS[1], 'retained', whole(retained))
elseif count > 0 and retained > 0 then
    retained = 0
    redis.call('HDEL', KEYS[1], 'retained')
end
for n = 0, count - 1 do
    redis.call('XADD', KEYS[2], whole(first + n) .. '-0', 'kind', ARGV[7 + 3 * n], 'published', ARGV[8 + 3 * n],
        'expires', whole(expires), 'payload', ARGV[9 + 3 * n])
end
-- Looking at one more than came, again and again, finds all that are too old.
local keep = math.max(1, next - ARGV[2])
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', count + 1)) do
    if visible(entry) then break end
    keep = math.max(keep, offset_of(entry) + 1)
end
redis.call('XTRIM', KEYS[2], 'MINID', whole(keep))
local last = math.max(redis.call('PEXPIRETIME', KEYS[2]), math.ceil(math.max(expires, retained) / 1000))
redis.call('PEXPIREAT', KEYS[2], whole(last))
redis.call('PEXPIREAT', KEYS[1], whole(math.max(last, math.ceil((now + ARGV[5]) / 1000))))
local done = epoch .. ' ' .. whole(first) .. ' ' .. whole(next)
if KEYS[3] then redis.call('SET', KEYS[3], done, 'EX', ARGV[6]) end
return done
"""

# KEYS: the hash and the stream. ARGV: 1 for forwards, how many, and epoch and offset of the cursor if there is one; the
# place before all epochs is of epoch 0. The answer: epoch, the next offset, and for each record a text of offset, kind
# and time, and the payload.
PAGE = f"""{_CHANNEL}{_FIND}
if not epoch then return {{}} end
local forward, offset = ARGV[1] == '1', tonumber(ARGV[4])
local known = epoch == ARGV[3] and offset < next or ARGV[3] == '0' and offset == 0
local low, high = 1, next - 1
if known and forward then low = offset + 1 elseif known then high = offset - 1 end
local found = {{}}
for _, entry in ipairs(find(low, high, tonumber(ARGV[2]), forward)) do
    found[#found + 1] = whole(offset_of(entry)) .. ' ' .. entry[2][2] .. ' ' .. entry[2][4]
    found[#found + 1] = entry[2][8]
end
return {{epoch, next, found}}
"""
