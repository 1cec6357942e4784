-- configure: keep what an operator sets for one scope, figures that replace the instances' and pauses, let it learn or
-- forget by hand, and write down who did it.
--
-- KEYS  1 store      hash   as acquire
--       2 overrides  hash   limits:<scope> figures, pause:<scope> ms until (2^53 - 1: until resumed)
--       3 state      hash   of the scope, as acquire
--       4 journal    list   what operators did, the newest first: ms:entry (msgpack, only compared here)
--       5 learned    hash   of the scope, as acquire
-- ARGV  1 scope  2 verb
--       3 set: figures ("c8 r60000=500") that replace or join those that are set
--         unset: names of figures ("c r60000"), '' for all
--         pause: ms from now, '' until resumed      resume, note: ''
--         penalize: a cause, whose weight is added to the penalty
--         forgive: thousandths of it that stay; with 0 everything that was learned from failures is forgotten
--         calm: end pauses and breakers, which failures began
--       4 entry for the journal, with an id of this call: the same call again, after a lost reply, does nothing more
-- Returns {0, now, figures, pause}; {1, schema} where the store is of a newer schema; {2, causes} where a cause is not
--       known
-- Writes nothing where the entry has come before. Else the journal; what was learned; the overrides, and the copy in
--       the scope's state if there is one: every script on the scope obeys from now on. Waiters are not looked at: call
--       grant on their paths. First write: one that fails at maxmemory.
-- Cost: O(figures).
--- @include "lib/clock"
--- @include "lib/until_resumed"
--- @include "lib/load_learned"
--- @include "lib/strategy_of"
--- @include "lib/penalty_now"
--- @include "lib/merge_limits"
local now, scope, verb = clock(), ARGV[1], ARGV[2]
local overrides, state = KEYS[2], KEYS[3]
local schema = redis.call('HGET', KEYS[1], 'schema')
if tonumber(schema or 1) > 1 then return {1, schema} end
local kept = redis.call('HMGET', overrides, 'limits:' .. scope, 'pause:' .. scope)
local figures, pause = kept[1] or '', tonumber(kept[2] or redis.call('HGET', state, 'pause')) or 0
-- Also where nothing is written down: a wrong type has to end the call before its first write.
for _, entry in ipairs(redis.call('LRANGE', KEYS[4], 0, 19)) do
  if verb ~= 'calm' and string.match(entry, '^%d+:(.*)$') == ARGV[4] then return {0, now, figures, pause} end
end

-- What an operator forgets by name: how far the limit is reduced, and what stops calls altogether.
local REDUCED = {'penalty', 'parallel', 'reduced', 'cut', 'stall'}
local STOPPED = {'pause', 'breaker', 'quota', 'failures', 'episodes', 'grown'}

local words, order = {}, {}
local function put(word, value)
  local name = string.match(word, '^(%l%d+)=') or string.match(word, '^[chk]') or word
  if words[name] == nil then order[#order + 1] = name end
  words[name] = value
end
for word in string.gmatch(figures, '%S+') do put(word, word) end
if verb == 'set' then
  for word in string.gmatch(ARGV[3], '%S+') do put(word, word) end
elseif verb == 'unset' then
  for word in string.gmatch(ARGV[3] == '' and figures or ARGV[3], '%S+') do put(word, false) end
elseif verb == 'pause' then
  pause = ARGV[3] == '' and until_resumed() or now + tonumber(ARGV[3])
elseif verb == 'resume' then
  pause = 0
elseif verb == 'penalize' or verb == 'forgive' then
  local limits, override = unpack(redis.call('HMGET', state, 'limits', 'override'))
  local agreed = {agreed = limits or 'none', in_force = merge_limits(limits or 'none', override or figures),
    learned_key = KEYS[5], pause = 0}
  local strategy = strategy_of(agreed)
  local causes = strategy.causes or ''
  local weight = tonumber(string.match(',' .. causes, ',' .. ARGV[3] .. '=(%d+)'))
  if verb == 'penalize' and not weight then return {2, causes} end
  if strategy.P then
    local level = penalty_now(load_learned(agreed, now), strategy, now)
    level = verb == 'penalize' and math.min(level + weight / 1000, strategy.most / 1000) or level * ARGV[3] / 1000
    redis.call('HSET', KEYS[5], 'penalty', string.format('%.4f %.0f', level, now))
    redis.call('PEXPIRE', KEYS[5], 604800000)
    if redis.call('EXISTS', state) == 1 then redis.call('HSET', state, 'learned', '1') end
  end
elseif verb ~= 'note' and verb ~= 'calm' then
  return redis.error_reply('configure: no such verb')
end
local list = {}
for _, name in ipairs(order) do
  if words[name] then list[#list + 1] = words[name] end
end
figures = table.concat(list, ' ')

local anew = verb == 'forgive' and ARGV[3] == '0' or verb == 'set' and string.find(' ' .. ARGV[3], ' c%d')
local forgets = anew and REDUCED or (verb == 'calm' or verb == 'resume') and STOPPED
-- Where it holds a wrong type, that has to end the call before its first write.
local quota = forgets and redis.call('HGET', KEYS[5], 'quota')
-- Calming belongs to the resume of a provider, which has been written down.
if verb ~= 'calm' then
  redis.call('LPUSH', KEYS[4], string.format('%.0f', now) .. ':' .. ARGV[4])
  redis.call('LTRIM', KEYS[4], 0, 199)
  redis.call('PEXPIRE', KEYS[4], 2678400000)
end
if verb == 'note' then return {0, now, figures, pause} end
if forgets == STOPPED and quota then
  -- What calls of before have still to say of the account is no news.
  redis.call('HSET', KEYS[5], 'resumed', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[5], 604800000)
end
if forgets then redis.call('HDEL', KEYS[5], unpack(forgets)) end

local until_ms = string.format('%.0f', pause)
local function keep(field, value)
  if value == '' or value == '0' then
    redis.call('HDEL', overrides, field .. scope)
  else
    redis.call('HSET', overrides, field .. scope, value)
  end
end
keep('limits:', figures)
keep('pause:', until_ms)
if string.find(' ' .. figures, ' k%d') then
  redis.call('HSET', KEYS[1], 'cools', 1)
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], 60000) end
end
if redis.call('HGET', state, 'override') then
  redis.call('HSET', state, 'override', figures, 'pause', until_ms)
end
return {0, now, figures, pause}
