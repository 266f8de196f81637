"""The Lua scripts that the Redis server runs: a script is one step for all users of the server. The first keys of each
are the hash and the stream of a channel; it answers with texts where it can, which cost the client less than lists."""

from __future__ import annotations

from raiden.history.conditions import ELSEWHERE, ENDED, FULL
from raiden.history.streams import KIND
from raiden.model.attributes import ENVELOPE
from raiden.model.chain import MAX_PAST, OWN_DIGITS, ROOT_DIGITS
from raiden.model.message import PROOF_DIGITS, UNPROVED
from raiden.model.page import PAGE_BYTES

# Numbers become text by `format`: Lua's own way keeps 14 digits. The proof of the last message is kept with its offset,
# because a node that knows no proofs may append, too. Where the channel is a stream, `stream` has the kinds of its
# messages, as bits, and the milliseconds of its ttl (or "fixed", or "never").
CHANNEL = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'retained', 'past', 'life', 'proof', 'ended', 'stream')
local epoch, next, retained = state[1], tonumber(state[2]), tonumber(state[3] or 0)
local past, life, proof, ended, stream = state[4] or '', state[5], '', state[7] == '1', state[8]
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

# The epochs of a channel, as `Lives` has them: the epoch of an offset, and the end of an epoch (0: it is not known).
LIVES = """
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

# Up to `limit` visible entries between two offsets, or up to one more than go over a page; about `most` are looked at
# (nil: all). Also, the next offset to look at. The portion that is read at once grows while it is small.
FIND = """
local function find(low, high, limit, forward, most)
    local found, looked, size, last, portion, hidden = {}, 0, 0, 0, 10, false
    while #found < limit and low <= high and size <= PAGE_BYTES and looked < (most or math.huge) do
        local count, entries, bytes = math.min(hidden and 1000 or limit - #found, portion), nil, 0
        if forward then
            entries = redis.call('XRANGE', KEYS[2], whole(low), whole(high), 'COUNT', count)
        else
            entries = redis.call('XREVRANGE', KEYS[2], whole(high), whole(low), 'COUNT', count)
        end
        for _, entry in ipairs(entries) do
            if #found >= limit then break end
            local at = offset_of(entry)
            if forward then low = at + 1 else high = at - 1 end
            if visible(entry) then
                found[#found + 1] = entry
                size, last = size + last, #entry[2][8]
            else
                hidden = true
            end
            bytes = bytes + #entry[2][8]
        end
        looked = looked + #entries
        if #entries < count then
            if forward then low = high + 1 else high = low - 1 end
        end
        portion = bytes < 65536 and math.min(2 * portion, 1000) or math.max(10, math.floor(portion / 2))
    end
    return found, forward and low or high
end
""".replace("PAGE_BYTES", str(PAGE_BYTES))

# The claims of a durable are in a sorted set by their offsets, too. Where that set has not as many as the set by
# deadlines, a release that knew only the latter has written.
CLAIMED = """
local function portions(list, call)
    for n = 1, #list, 1000 do call(unpack(list, n, math.min(n + 999, #list))) end
end
local function compare(pending, claimed)
    if redis.call('ZCARD', pending) == redis.call('ZCARD', claimed) then return end
    local found = {}
    for _, at in ipairs(redis.call('ZRANGE', pending, 0, -1)) do
        found[#found + 1], found[#found + 2] = at, at
    end
    redis.call('DEL', claimed)
    portions(found, function(...) redis.call('ZADD', claimed, ...) end)
    redis.call('PEXPIRE', claimed, math.max(1, redis.call('PTTL', pending)))
end
"""

# The offset at which a durable goes on that stood before an offset of an epoch, and whether that place is not in this
# history.
GO_ON = """
local function go_on(begin, from)
    if (begin == epoch and from <= next) or from <= end_of(begin) or (begin == '0' and from == 1) then
        return from, false
    end
    return stand(begin, from - 1, false) + 1, true
end
"""

# The offset behind those of the first messages, up to `most`, that are too old.
_TOO_OLD = """
local function too_old(most)
    local low, looked, count = 1, 0, 1
    while looked < most do
        local entries = redis.call('XRANGE', KEYS[2], whole(low), '+', 'COUNT', count)
        for _, entry in ipairs(entries) do
            if visible(entry) then return low end
            low = offset_of(entry) + 1
        end
        if #entries < count then break end
        looked, count = looked + count, math.min(most - looked - count, 10)
    end
    return low
end
"""

# Messages, and claims of a durable, that are looked at to find out whether one is needed.
_LOOKED = 1000

# Whether a durable of the channel still needs an acknowledgement for a message with an offset below `below`. The newest
# is looked at first, because it is there for the longest. After `_LOOKED` messages that are too old, the others are
# taken for needed; each time some of the old ones go, so the next look takes less.
_NEEDED = f"""{GO_ON}{FIND}{CLAIMED}
local function is_needed(below)
    local base, durables = string.sub(KEYS[1], 1, -5), {{}}
    for _, name in ipairs(redis.call('SMEMBERS', base .. 'durables')) do
        local place = redis.call('HMGET', base .. 'durable:' .. name, 'epoch', 'next')
        -- Below a channel's first message, nobody has had any.
        local from = place[1] and (epoch and go_on(place[1], tonumber(place[2])) or 1)
        if from then durables[#durables + 1] = {{name, from}} end
    end
    if #durables == 0 then return false end
    if below > next then return true end  -- some of those that are to be appended
    local low = too_old({_LOOKED})
    if low > 1 then redis.call('XTRIM', KEYS[2], 'MINID', whole(low)) end
    for _, each in ipairs(durables) do
        local from = math.max(low, each[2])
        local found, reached = find(from, below - 1, 1, false, {_LOOKED})
        if found[1] or reached >= from then return true end
        local claimed = base .. 'claimed:' .. each[1]
        compare(base .. 'pending:' .. each[1], claimed)
        local held = redis.call('ZRANGE', claimed, '(' .. whole(math.min(each[2], below)), whole(low), 'BYSCORE', 'REV',
            'LIMIT', 0, {_LOOKED})
        for _, at in ipairs(held) do
            if find(tonumber(at), tonumber(at), 1, true)[1] then return true end
        end
        if #held == {_LOOKED} then return true end
    end
    return false
end
"""

# The number of arguments of an append before its messages.
ARGUMENTS = 14

# The time of a message of a stream, which does not expire.
_NEVER = (1 << 53) - 1

# The time when the keys of a stream expire, which is put off where its ttl begins anew. So that not each use must do
# that, it is put off by a twentieth of the ttl more, and by a minute at most.
LAST = """
local function last(KEYS, stream, now)
    local life = string.match(stream, '%w+$')
    if life == 'never' then return end
    local ends, ttl = redis.call('PEXPIRETIME', KEYS[1]), tonumber(life)
    if ttl and ends < now / 1000 + ttl then
        ends = math.ceil(now / 1000 + ttl + math.min(ttl / 20, 60000))
    end
    if ends < 0 then return end
    local base = string.sub(KEYS[1], 1, -5)
    for _, key in ipairs({base .. 'stream', base .. 'producers', KEYS[1]}) do
        redis.call('PEXPIREAT', key, string.format('%.0f', ends))
    end
end
"""

# KEYS: the hash, the stream, and the publisher's key if there is one. ARGV: the seconds after which the first epoch
# of a channel is another one, the server's life, and the end of the name of an epoch that begins in it; the channel's
# size, and in microseconds its messages' age, the last one's age while it is the last (0: no other), and the time
# after which the channel is forgotten; the seconds for which the key is kept; 1 where nothing may be appended that
# would push out a message that a durable needs; epoch, offset and proof of the place where the channel must stand
# ('': anywhere); 1 where the last message is the channel's end, and 1 where that is hollow; then kind and payload of
# each message. The answer: the epoch, the first offset and the next, the proof before the first message and those of
# the messages, and "repeated" where that was done before; or "unmet", the condition, and epoch, offset and proof of the
# channel's position. Where the condition is the kind of a stream, the lines that follow tell of that.
READ = f"""{CHANNEL}{LIVES}{_TOO_OLD}
local first_epoch
if not epoch then
    -- As `redis_rows.place_of_new` has it.
    local begun = redis.call('GET', string.sub(KEYS[1], 1, -5) .. 'begun') or ''
    local facts = table.concat({{ARGV[2], KEYS[1], whole(math.floor(time[1] / ARGV[1])), begun}}, ' ')
    first_epoch = string.sub(redis.sha1hex(facts), 1, {ROOT_DIGITS})
end
"""
LOOK = f"""{READ}
if epoch and KEYS[3] then
    local done = redis.call('GET', KEYS[3])
    local name, first = string.match(done or '', '^(%w+) (%d+)')
    if name and epoch_of(tonumber(first)) == name then return done .. ' repeated' end
end
local function unmet(what)
    return table.concat({{'unmet', what, epoch or first_epoch, whole((next or 1) - 1), proof}}, ' ')
end
local function is_other_kind()
    local kinds = tonumber(string.match(stream, '^%d+'))
    for n = {ARGUMENTS} + 1, #ARGV - (ARGV[14] == '1' and 2 or 0), 2 do
        -- As in an envelope, or without one.
        if math.floor(kinds / 2 ^ (ARGV[n] % {ENVELOPE})) % 2 == 0 then return true end
    end
end
-- As `conditions.stands_at` has it.
local function stands_elsewhere()
    local at, offset = ARGV[10], tonumber(ARGV[11])
    if at == '0' and offset == 0 then return epoch and next > 1 end
    if at ~= (epoch or first_epoch) or offset ~= (next or 1) - 1 then return true end
    return ARGV[12] ~= '' and proof ~= '' and ARGV[12] ~= proof
end
if ended then return unmet('{ENDED}') end
if ARGV[10] ~= '' and stands_elsewhere() then return unmet('{ELSEWHERE}') end
if stream and is_other_kind() then
    local told = redis.call('HMGET', KEYS[1], 'type', 'ttl', 'expires', 'expires_text')
    return unmet('{KIND}') .. '\\n' .. table.concat(told, '\\n')
end
if ARGV[9] == '1' and not stream then
    {_NEEDED}
    next = next or 1
    local below = next + (#ARGV - {ARGUMENTS}) / 2 - ARGV[4]
    if below > 1 and is_needed(below) then return unmet('{FULL}') end
end
"""
ADD = f"""{LAST}
if not epoch then
    epoch, next = first_epoch, 1
    redis.call('DEL', KEYS[2])
    redis.call('SET', string.sub(KEYS[1], 1, -5) .. 'begun', ARGV[3], 'EX', ARGV[1])
end
local first, count, expires = next, (#ARGV - {ARGUMENTS}) / 2, stream and {_NEVER} or now + ARGV[5]
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
if count > 0 and ARGV[6] ~= '0' and not stream then
    retained = now + ARGV[6]
    redis.call('HSET', KEYS[1], 'retained', whole(retained))
elseif count > 0 and retained > 0 then
    retained = 0
    redis.call('HDEL', KEYS[1], 'retained')
end
local chain, published, expiry = {{proof == '' and '{UNPROVED}' or proof}}, whole(now), whole(expires)
for n = 0, count - 1 do
    local at = {ARGUMENTS} + 2 * n
    local kind, payload = ARGV[at + 1], ARGV[at + 2]
    -- As `chain.link` has it.
    proof = string.sub(redis.sha1hex(proof .. ' ' .. kind .. ' ' .. published .. ' ' .. payload), 1, {PROOF_DIGITS})
    chain[#chain + 1] = proof
    redis.call('XADD', KEYS[2], whole(first + n) .. '-0', 'kind', kind, 'published', published,
        'expires', expiry, 'payload', payload, 'proof', proof)
end
local done = table.concat({{epoch, whole(first), whole(next), table.concat(chain)}}, ' ')
redis.call('HSET', KEYS[1], 'epoch', epoch, 'next', whole(next), 'proof', whole(next - 1) .. ':' .. proof)
if count > 0 and ARGV[13] == '1' then
    redis.call('HSET', KEYS[1], 'ended', '1')
    if ARGV[14] == '1' then redis.call('HSET', KEYS[1], 'tail', whole(next - 2) .. ':' .. chain[#chain - 1]) end
end
if stream then
    last(KEYS, stream, now)
else
    -- Looking at one more than came, again and again, finds all that are too old.
    redis.call('XTRIM', KEYS[2], 'MINID', whole(math.max(next - ARGV[4], too_old(count + 1))))
    local ends = math.max(redis.call('PEXPIRETIME', KEYS[2]), math.ceil(math.max(expires, retained) / 1000))
    redis.call('PEXPIREAT', KEYS[2], whole(ends))
    redis.call('PEXPIREAT', KEYS[1], whole(math.max(ends, math.ceil((now + ARGV[7]) / 1000))))
end
if KEYS[3] then redis.call('SET', KEYS[3], done, 'EX', ARGV[8]) end
return done
"""
APPEND = LOOK + ADD

# Several appends as a whole or not at all. KEYS and ARGV: those of each, one after the other. ARGV begins with the
# numbers of keys and arguments of each. The answer: that of each, or of the first one with a condition that does not
# hold, behind its number.
APPEND_ALL = f"""
local function look(KEYS, ARGV) {LOOK} end
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
    local answer = look(call[1], call[2])
    if answer and string.sub(answer, 1, 6) == 'unmet ' then return n .. ' ' .. answer end
    calls[n] = call
end
local done = {{}}
for n, call in ipairs(calls) do done[n] = append(call[1], call[2]) end
return done
"""

# KEYS: the hash and the stream. ARGV: 1 for forwards, how many, the server's life, and epoch and offset of the cursor
# if there is one; the place before all epochs is of epoch 0. The answer: epoch, the next offset, the epochs before, the
# last message's proof, that of the message at the cursor, for each record a text of offset, kind, time and proof, and
# the payload; and 1 where the channel has come to its end.
PAGE = f"""{CHANNEL}{LIVES}{FIND}
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
return {{epoch, next, past, proof, at, found, ended}}
"""

# KEYS: the hash of a kept value and its holder. ARGV: the holder, the value, and the milliseconds for which it is kept.
# The answer: 0 where it has another holder.
KEEP = """
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'value', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# ARGV: the next holder, and the one that it must be taken from, if there is one. The answer: the value, and its holder
# before.
TAKE = """
local kept = redis.call('HMGET', KEYS[1], 'value', 'holder')
if not kept[2] or (ARGV[2] ~= '' and kept[2] ~= ARGV[2]) then return false end
redis.call('HSET', KEYS[1], 'holder', ARGV[1])
return kept
"""
