"""The Lua scripts that the Redis server runs for durables; `raiden.history.scripts` has the others."""

from __future__ import annotations

from raiden.history.scripts import APPEND, ARGUMENTS, CHANNEL, CLAIMED, FIND, GO_ON, LIVES
from raiden.history.store import LOOKED
from raiden.model.message import Kind
from raiden.model.page import PAGE_BYTES

# A durable is a hash with its epoch, the first offset that was never claimed, and a field for each claimed offset with
# the number of its claims. A sorted set has the same offsets by the deadline of their claim. Where that has passed, the
# score is the offset below zero instead, so that the first of these is the next to come again. Another sorted set has
# the offsets by themselves, to count those of a part of the channel. Two more fields count the messages that were
# claimed again, and those that were given up. KEYS: the channel's hash and stream, the durable and its claims, the
# names of the channel's durables, and the claims by their offsets.
_OVERDUE = "local function overdue(at) return whole(at - 9007199254740992) end\n"

# End claims.
_DONE = """
local function done(offsets)
    portions(offsets, function(...)
        redis.call('ZREM', KEYS[4], ...)
        redis.call('ZREM', KEYS[6], ...)
        redis.call('HDEL', KEYS[3], ...)
    end)
end
"""

# ARGV: the limit, the microseconds of a claim, the number of messages that may be claimed in all, milliseconds after
# which the durable is forgotten, milliseconds more that it may last, and epoch and offset of the place to begin at ('':
# none; '-': the durable is not to be made, and the answer is empty where it is not there); the number of times that a
# message is claimed (0: any number), and 1 where it is then left for `GIVE_UP`, not dropped. The answer: epoch; epoch,
# first and last of the gap if there is one; for each record a text of offset, kind, time, attempt and proof, and the
# payload; the epochs before; the same texts and payloads for the messages that are left for `GIVE_UP`, which stay
# claimed; 1 where the durable may be missing in the list of all; and 1 where there may be more to claim.
CLAIM = f"""{CHANNEL}{LIVES}{GO_ON}{FIND}{CLAIMED}{_OVERDUE}{_DONE}
local limit, deadline = tonumber(ARGV[1]), now + ARGV[2]
local place = redis.call('HMGET', KEYS[3], 'epoch', 'next')
local known, changed = place[1], not place[1]
if not known and ARGV[6] == '-' then return {{}} end
-- A channel without a history has its next offset before it.
if not epoch then epoch, next = '0', 1 end
local begin, from = known or (ARGV[6] ~= '' and ARGV[6]) or epoch, tonumber(place[2])
if not known then from = ARGV[7] ~= '' and ARGV[7] + 1 or next end
compare(KEYS[4], KEYS[6])
local gap, first, last
local lost
from, lost = go_on(begin, from)
changed = changed or lost or begin ~= epoch
if lost then
    gap = begin
    done(redis.call('ZRANGE', KEYS[6], whole(from), '+inf', 'BYSCORE'))
end
local function lose(low, high)
    if low <= high and (not gap or first) then
        first, last = math.min(first or low, low), math.max(last or high, high)
        gap = epoch_of(last)
    end
end
local answer, dead, taken, size, again_count = {{}}, {{}}, 0, 0, 0
local function tell(list, entry, attempt)
    list[#list + 1] = table.concat({{whole(offset_of(entry)), entry[2][2], entry[2][4], attempt, proof_of(entry)}}, ' ')
    list[#list + 1] = entry[2][8]
    size = size + #entry[2][8]
end
local function take(entry)
    local at = whole(offset_of(entry))
    local attempt = redis.call('HINCRBY', KEYS[3], at, 1)
    redis.call('ZADD', KEYS[4], whole(deadline), at)
    if attempt == 1 then redis.call('ZADD', KEYS[6], at, at) else again_count = again_count + 1 end
    taken, changed = taken + 1, true
    tell(answer, entry, attempt)
end
local late = {{}}
for _, at in ipairs(redis.call('ZRANGE', KEYS[4], 0, whole(now), 'BYSCORE')) do
    late[#late + 1], late[#late + 2] = overdue(at), at
end
portions(late, function(...) redis.call('ZADD', KEYS[4], ...) end)
local most, dropped, over, looked, behind = tonumber(ARGV[8]), 0, {{}}, 0, '-inf'
local function room() return size <= {PAGE_BYTES} and looked < {LOOKED} end
while taken < limit and room() do
    local again = redis.call('ZRANGE', KEYS[4], behind, '(0', 'BYSCORE', 'LIMIT', 0, math.min(limit - taken, 100))
    if #again == 0 then break end
    for _, at in ipairs(again) do
        if not room() then break end
        looked, behind = looked + 1, '(' .. overdue(at)
        local entry = find(tonumber(at), tonumber(at), 1, true)[1]
        local attempts = most > 0 and tonumber(redis.call('HGET', KEYS[3], at) or 0) or 0
        if not entry then
            over[#over + 1] = at
            lose(tonumber(at), tonumber(at))
        elseif most == 0 or attempts < most then
            take(entry)
        elseif ARGV[9] == '1' then
            tell(dead, entry, attempts)
        else
            over[#over + 1], dropped = at, dropped + 1
        end
    end
end
done(over)
changed = changed or #over > 0
local more, left = not room(), math.min(limit - taken, ARGV[3] - redis.call('ZCARD', KEYS[4]))
if left > 0 and from < next and not more then
    local found, reached = find(from, next - 1, left, true, left + {LOOKED})
    for _, entry in ipairs(found) do
        lose(from, offset_of(entry) - 1)
        from = offset_of(entry) + 1
        take(entry)
        if not room() then break end
    end
    more = not room()
    if #found < left and not more then
        lose(from, reached - 1)
        from, changed, more = reached, true, reached < next
    end
end
if again_count > 0 then redis.call('HINCRBY', KEYS[3], 'redelivered', again_count) end
if dropped > 0 then redis.call('HINCRBY', KEYS[3], 'dead', dropped) end
local touched = redis.call('PTTL', KEYS[3]) < tonumber(ARGV[4])
if changed then
    redis.call('HSET', KEYS[3], 'epoch', epoch, 'next', whole(from))
    touched = redis.call('SADD', KEYS[5], string.sub(KEYS[3], #KEYS[1] + 5)) == 1 or touched
end
if changed or touched then
    for n = 3, 6 do redis.call('PEXPIRE', KEYS[n], ARGV[4] + ARGV[5]) end
end
return {{epoch, gap and {{gap, first or 0, last or 0}} or false, answer, past, dead, touched, more}}
"""

# Give up the messages that `CLAIM` has left for this, unless they were claimed meanwhile. KEYS, besides: the hash and
# the stream of the dead-letter channel. ARGV: the arguments of `APPEND` for that channel, and for each message its
# offset, attempts, epoch and dead letter. The answer: the answer of `APPEND`, and the offsets of the messages that were
# given up; nothing where there are none.
GIVE_UP = f"""{CHANNEL}{LIVES}{CLAIMED}{_DONE}
local function append(KEYS, ARGV) {APPEND} end
local known, given, arguments = redis.call('HGET', KEYS[3], 'epoch'), {{}}, {{unpack(ARGV, 1, {ARGUMENTS})}}
local present = known and epoch and end_of(known) > 0
-- The life that the client knows may be another server's.
arguments[2] = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
for n = {ARGUMENTS} + 1, #ARGV, 4 do
    local at, attempts, name, letter = unpack(ARGV, n, n + 3)
    local waits = tonumber(redis.call('ZSCORE', KEYS[4], at) or 0) < 0
    local same = known and (present and epoch_of(tonumber(at)) or known) == name
    if waits and same and redis.call('HGET', KEYS[3], at) == attempts then
        given[#given + 1] = at
        arguments[#arguments + 1], arguments[#arguments + 2] = '{Kind.JSON}', letter
    end
end
if #given == 0 then return {{}} end
-- This first, for it may fail, and then nothing takes back what a script has done.
local appended = append({{KEYS[7], KEYS[8]}}, arguments)
-- The channel takes no letters: the messages wait.
if string.sub(appended, 1, 6) == 'unmet ' then return {{}} end
done(given)
redis.call('HINCRBY', KEYS[3], 'dead', #given)
return {{appended, given}}
"""


def _of_held(action: str) -> str:
    """The script that does an action on claims. ARGV: the epoch, and each claim's offset, attempt and proof ('': any);
    the action may have one more argument. The answer: the offsets of the claims that still held."""
    return f"""{CHANNEL}{LIVES}{FIND}{CLAIMED}{_OVERDUE}{_DONE}
local held, known = {{}}, redis.call('HGET', KEYS[3], 'epoch')
-- Without it, the history is another one, which the durable has not come to yet.
local present = known and epoch and end_of(known) > 0
local function same(at, proof)
    if not present or proof == '' then return true end
    local entry = find(at, at, 1, true)[1]
    local stored = entry and proof_of(entry) or ''
    return stored == '' or stored == proof
end
for n = 2, #ARGV - 2, 3 do
    local at, attempt = ARGV[n], redis.call('HGET', KEYS[3], ARGV[n])
    local name = present and epoch_of(tonumber(at)) or known
    local held_by = attempt and (attempt == ARGV[n + 1] or ARGV[n + 1] == '0')
    if name == ARGV[1] and held_by and same(tonumber(at), ARGV[n + 2]) then
        {action}
        held[#held + 1] = tonumber(at)
    end
end
return held
"""


ACKNOWLEDGE = _of_held("done({at})")
# ARGV, besides: the microseconds for which the messages can't be claimed.
RELEASE = _of_held("redis.call('ZADD', KEYS[4], ARGV[#ARGV] == '0' and overdue(at) or whole(now + ARGV[#ARGV]), at)")

# The figures of a durable; nothing changes. The answer: the number of messages that are not acknowledged, the age of
# the oldest in microseconds, the numbers of claims now, of claims of messages that had been claimed before, and of
# messages that were given up; nothing where there is no such durable. Messages expire mostly in their order, so the
# first that has not is looked for by halves: where a channel's history_ttl was changed meanwhile, it may be a later
# one.
FIGURES = f"""{CHANNEL}{LIVES}{GO_ON}{FIND}{CLAIMED}
local place = redis.call('HMGET', KEYS[3], 'epoch', 'next', 'redelivered', 'dead')
if not place[1] then return {{}} end
local function first_of_all()
    local found, low = find(1, next - 1, 1, true, 100)
    local high = found[1] and low or next
    while low < high do
        local middle = math.floor((low + high) / 2)
        local entry = redis.call('XRANGE', KEYS[2], whole(middle), '+', 'COUNT', 1)[1]
        if not entry or visible(entry) then high = middle else low = offset_of(entry) + 1 end
    end
    return found[1] or find(low, next - 1, 1, true, 100)[1]
end
local lag, oldest, claimed, alive = 0, 0, 0, epoch and first_of_all()
if alive then
    local from, first = go_on(place[1], tonumber(place[2])), offset_of(alive)
    local low, below = math.max(from, first), '(' .. whole(from)
    compare(KEYS[4], KEYS[6])
    local held = redis.call('ZCOUNT', KEYS[6], whole(first), below)
    lag = next - low + held
    if held > 0 then
        low = tonumber(redis.call('ZRANGE', KEYS[6], whole(first), below, 'BYSCORE', 'LIMIT', 0, 1)[1])
    end
    claimed = redis.call('ZCOUNT', KEYS[4], '(' .. whole(now), '+inf')
    -- Those of them that are gone are few, or all.
    local function without(...)
        for _, at in ipairs(redis.call('ZRANGE', KEYS[6], ...)) do
            if tonumber(redis.call('ZSCORE', KEYS[4], at) or 0) > now then claimed = claimed - 1 end
        end
    end
    without('-inf', '(' .. whole(first), 'BYSCORE', 'LIMIT', 0, {LOOKED})
    without(whole(math.max(from, first)), '+inf', 'BYSCORE', 'LIMIT', 0, {LOOKED})
    claimed = math.min(claimed, held)
    local entry = lag > 0 and find(low, next - 1, 1, true, 100)[1]
    if entry then oldest = math.max(0, now - entry[2][4]) end
end
return {{lag, whole(oldest), claimed, place[3] or 0, place[4] or 0}}
"""
