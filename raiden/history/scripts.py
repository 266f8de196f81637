"""What the Redis server runs, in Lua: a script is one step for all who use the server. The first keys of each are the
hash and the stream of a channel; it answers with texts where it can, which cost the client less than lists."""

from __future__ import annotations

from raiden.history import PAGE_BYTES
from raiden.history.chain import MAX_PAST, OWN_DIGITS, ROOT_DIGITS
from raiden.message import PROOF_DIGITS, UNPROVED, Kind

# Numbers become text by `format`: Lua's own way keeps 14 digits. The proof of the last message is kept with its offset,
# for a node that knows no proofs may append, too.
_CHANNEL = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'retained', 'past', 'life', 'proof')
local epoch, next, retained = state[1], tonumber(state[2]), tonumber(state[3] or 0)
local past, life, proof = state[4] or '', state[5], ''
if state[6] then
    local at, known = string.match(state[6], '^(%d+):(%w+)$')
    if at and tonumber(at) == next - 1 then proof = known end
end
local function whole(number) return string.format('%.0f', number) end
local function offset_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
local function proof_of(entry) return entry[2][10] or '' end
local function visible(entry)
    return tonumber(entry[2][6]) > now or (retained > now and offset_of(entry) == next - 1)
end
"""

# The epochs of a channel, as `Lives` has them: which one an offset is of, and where one ends (0: it is not known).
_LIVES = """
local function epoch_of(offset)
    for name, fork in string.gmatch(past, '(%w+):(%d+)') do
        if offset < tonumber(fork) then return name end
    end
    return epoch
end
local function end_of(name)
    if name == epoch then return next end
    for known, fork in string.gmatch(past, '(%w+):(%d+)') do
        if known == name then return tonumber(fork) end
    end
    return 0
end
local function count_of(name) return tonumber(string.sub(name, ROOT + 1, -OWN - 1), 16) or 0 end
local function stand(name, offset, over)
    local fork = end_of(name)
    if fork == 0 and string.sub(name, 1, ROOT) == string.sub(epoch, 1, ROOT) then
        local count, begin, found = count_of(name), 1, false
        local function look(before)
            if begin <= offset and not found then
                fork, found = begin, count > 0 and count <= before
            end
        end
        for known, at in string.gmatch(past, '(%w+):(%d+)') do
            look(count_of(known))
            begin = tonumber(at)
        end
        look(count_of(epoch))
        begin = next
        if over then look(count_of(epoch) + 1) end
    end
    return math.max(0, math.min(offset, fork - 1))
end
""".replace("ROOT", str(ROOT_DIGITS)).replace("OWN", str(OWN_DIGITS))

# Up to `limit` visible entries between two offsets.
_FIND = """
local function find(low, high, limit, forward)
    local found, least = {}, 1
    while #found < limit and low <= high do
        local count, entries = math.max(limit - #found, least), nil
        least = 100  -- where some are hidden, many may be
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

# Where a durable goes on that stood before an offset of an epoch; whether that place is not in this history.
_GO_ON = """
local function go_on(begin, from)
    if (begin == epoch and from <= next) or from <= end_of(begin) or (begin == '0' and from == 1) then
        return from, false
    end
    return stand(begin, from - 1, false) + 1, true
end
"""

# Whether a durable of the channel has still to get a message acknowledged whose offset is below `below`.
_NEEDED = f"""{_GO_ON}
local function is_needed(below)
    local base, durables = string.sub(KEYS[1], 1, -5), {{}}
    for _, name in ipairs(redis.call('SMEMBERS', base .. 'durables')) do
        local key = base .. 'durable:' .. name
        local place = redis.call('HMGET', key, 'epoch', 'next')
        -- Below a channel's first message, nobody has had any.
        local from = place[1] and (epoch and go_on(place[1], tonumber(place[2])) or 1)
        if from then durables[#durables + 1] = {{key, from}} end
    end
    if #durables == 0 then return false end
    local low = 1
    while low < math.min(below, next) do
        local entries = redis.call('XRANGE', KEYS[2], whole(low), whole(below - 1), 'COUNT', 100)
        for _, entry in ipairs(entries) do
            low = offset_of(entry) + 1
            for _, each in ipairs(visible(entry) and durables or {{}}) do
                if low > each[2] or redis.call('HEXISTS', each[1], whole(low - 1)) == 1 then return true end
            end
        end
        if #entries < 100 then break end
    end
    return below > next  -- some of those that are to be appended
end
"""

# KEYS: the hash, the stream, and the publisher's key if there is one. ARGV: the epoch of a new channel, the server's
# life, and how the name of an epoch ends that begins in it; the channel's size, and in microseconds its messages' age,
# the last one's age while it is the last (0: no other), and the time after which the channel is forgotten; the seconds
# for which the key is kept; 1 where nothing is appended that would push out what a durable needs; then kind and payload
# of each message. The answer: the epoch, the first offset and the next, the proof before the first message and those of
# the messages, and "repeated" where that was done before; or "full".
_LOOK = f"""{_CHANNEL}{_LIVES}
if epoch and KEYS[3] then
    local done = redis.call('GET', KEYS[3])
    local name, first = string.match(done or '', '^(%w+) (%d+)')
    if name and epoch_of(tonumber(first)) == name then return done .. ' repeated' end
end
if ARGV[9] == '1' then
    {_NEEDED}
    next = next or 1
    local below = next + (#ARGV - 9) / 2 - ARGV[4]
    if below > 1 and is_needed(below) then return 'full' end
end
"""
_ADD = f"""
if not epoch then
    epoch, next = ARGV[1], 1
    redis.call('DEL', KEYS[2])
end
local first, count, expires = next, (#ARGV - 9) / 2, now + ARGV[5]
if count > 0 and life ~= ARGV[2] then
    if next > 1 then
        local kept = {{}}
        for each in string.gmatch(past .. ' ' .. epoch .. ':' .. whole(next), '%S+') do kept[#kept + 1] = each end
        past = table.concat(kept, ' ', math.max(1, #kept - {MAX_PAST} + 1))
        epoch = string.sub(epoch, 1, {ROOT_DIGITS}) .. string.format('%x', count_of(epoch) + 1) .. ARGV[3]
        redis.call('HSET', KEYS[1], 'past', past)
    end
    redis.call('HSET', KEYS[1], 'life', ARGV[2])
end
next = first + count
if count > 0 and ARGV[6] ~= '0' then
    retained = now + ARGV[6]
    redis.call('HSET', KEYS[1], 'retained', whole(retained))
elseif count > 0 and retained > 0 then
    retained = 0
    redis.call('HDEL', KEYS[1], 'retained')
end
local chain = {{proof == '' and '{UNPROVED}' or proof}}
for n = 0, count - 1 do
    local kind, published, payload = ARGV[10 + 2 * n], whole(now), ARGV[11 + 2 * n]
    -- As `chain.link` has it.
    proof = string.sub(redis.sha1hex(proof .. ' ' .. kind .. ' ' .. published .. ' ' .. payload), 1, {PROOF_DIGITS})
    chain[#chain + 1] = proof
    redis.call('XADD', KEYS[2], whole(first + n) .. '-0', 'kind', kind, 'published', published,
        'expires', whole(expires), 'payload', payload, 'proof', proof)
end
local done = table.concat({{epoch, whole(first), whole(next), table.concat(chain)}}, ' ')
redis.call('HSET', KEYS[1], 'epoch', epoch, 'next', whole(next), 'proof', whole(next - 1) .. ':' .. proof)
-- Looking at one more than came, again and again, finds all that are too old.
local keep = math.max(1, next - ARGV[4])
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', count + 1)) do
    if visible(entry) then break end
    keep = math.max(keep, offset_of(entry) + 1)
end
redis.call('XTRIM', KEYS[2], 'MINID', whole(keep))
local last = math.max(redis.call('PEXPIRETIME', KEYS[2]), math.ceil(math.max(expires, retained) / 1000))
redis.call('PEXPIREAT', KEYS[2], whole(last))
redis.call('PEXPIREAT', KEYS[1], whole(math.max(last, math.ceil((now + ARGV[7]) / 1000))))
if KEYS[3] then redis.call('SET', KEYS[3], done, 'EX', ARGV[8]) end
return done
"""
APPEND = _LOOK + _ADD

# Several appends as a whole or not at all. KEYS and ARGV: those of each, one after the other. ARGV begins with how many
# keys and arguments each has. The answer: that of each, or "full" and the number of the one that is.
APPEND_ALL = f"""
local function look(KEYS, ARGV) {_LOOK} end
local function append(KEYS, ARGV) {APPEND} end
local function part(list, first, count)
    local found = {{}}
    for n = first, first + count - 1 do found[#found + 1] = list[n] end
    return found
end
local calls, keys, arguments = {{}}, 1, 2 + 2 * ARGV[1]
for n = 1, tonumber(ARGV[1]) do
    local call = {{part(KEYS, keys, ARGV[2 * n]), part(ARGV, arguments, ARGV[2 * n + 1])}}
    keys, arguments = keys + ARGV[2 * n], arguments + ARGV[2 * n + 1]
    if look(call[1], call[2]) == 'full' then return 'full ' .. n end
    calls[n] = call
end
local done = {{}}
for n, call in ipairs(calls) do done[n] = append(call[1], call[2]) end
return done
"""

# KEYS: the hash and the stream. ARGV: 1 for forwards, how many, the server's life, and epoch and offset of the cursor
# if there is one; the place before all epochs is of epoch 0. The answer: epoch, the next offset, the epochs before, the
# last message's proof, that of the message at the cursor, and for each record a text of offset, kind, time and proof,
# and the payload.
PAGE = f"""{_CHANNEL}{_LIVES}{_FIND}
if not epoch then return {{}} end
local forward, name, offset = ARGV[1] == '1', ARGV[4], tonumber(ARGV[5])
local low, high, at = 1, next - 1, false
if name and forward then
    low = stand(name, offset, life ~= ARGV[3]) + 1
    local entry = redis.call('XRANGE', KEYS[2], ARGV[5], ARGV[5])[1]
    at = entry ~= nil and proof_of(entry)
elseif name and offset < end_of(name) then
    high = offset - 1
end
local found, size = {{}}, 0
for _, entry in ipairs(find(low, high, tonumber(ARGV[2]), forward)) do
    local at = whole(offset_of(entry))
    found[#found + 1] = table.concat({{at, entry[2][2], entry[2][4], proof_of(entry)}}, ' ')
    found[#found + 1] = entry[2][8]
    -- One more than the page has, which tells that there is more.
    if size > {PAGE_BYTES} then break end
    size = size + #entry[2][8]
end
return {{epoch, next, past, proof, at, found}}
"""

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
# milliseconds more that it may last, and epoch and offset of the place to begin at ('': none); how often a message is
# claimed (0: again and again), how dead letters begin, and what `APPEND` is told of their channel. The answer: epoch;
# epoch, first and last of the gap if there is one; for each record a text of offset, kind, time, attempt and proof, and
# the payload; the epochs before; and the dead letters, with where they were appended, if there are any.
CLAIM = f"""{_CHANNEL}{_LIVES}{_GO_ON}{_FIND}{_OVERDUE}
local limit, deadline = tonumber(ARGV[1]), now + ARGV[2]
local place = redis.call('HMGET', KEYS[3], 'epoch', 'next')
local known, changed = place[1], not place[1]
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
if changed then
    redis.call('HSET', KEYS[3], 'epoch', epoch, 'next', whole(from))
    redis.call('SADD', KEYS[5], string.sub(KEYS[3], #KEYS[1] + 5))
end
if changed or redis.call('PTTL', KEYS[3]) < tonumber(ARGV[4]) then
    for n = 3, 5 do redis.call('PEXPIRE', KEYS[n], ARGV[4] + ARGV[5]) end
end
return {{epoch, gap and {{gap, first or 0, last or 0}} or false, answer, past, letters}}
"""


def _of_held(action: str) -> str:
    """ARGV: the epoch, and each claim's offset and attempt; the action may have one more. The answer: the offsets of
    those that were in force."""
    return f"""{_CHANNEL}{_LIVES}{_OVERDUE}
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

# KEYS: what is kept under a name, and its holder, as a hash. ARGV: the holder, the value, and for how many milliseconds
# it is kept. The answer: 0 where another one holds it.
KEEP = """
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'value', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# ARGV: the next holder, and the one that it must be taken from, if there is one. The answer: the value, and who held
# it.
TAKE = """
local kept = redis.call('HMGET', KEYS[1], 'value', 'holder')
if not kept[2] or (ARGV[2] ~= '' and kept[2] ~= ARGV[2]) then return false end
redis.call('HSET', KEYS[1], 'holder', ARGV[1])
return kept
"""
