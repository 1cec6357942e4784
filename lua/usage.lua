-- usage: keep up the gate of a provider, choose who polls its usage source for all, and take in what it has said.
--
-- KEYS  as acquire, of a path of the provider that has no model of its own
-- ARGV  1..9 and limits of each scope as acquire, then verb
--       poll: then  how long the gate holds ms  how long this instance polls for all ms, if it does  strict 1 or 0
--             one grant a poll 1 or 0  lag ms  max age ms  patience ms  hold ms  cooldown ms  follow the limit 1 or 0
--       seen: then  count (-1: it said nothing)  limit (-1: not said)  hard cap (-1)
--       leave
-- Returns header as acquire, then
--       poll: 1 if this instance polls now, 0  ms until another may, if another does  1 if the poll has begun, 0
--       seen: 1 if somebody waits for the next poll, 0
-- Writes the gate and who polls; the snapshot, and ends holds that the provider does not count any more.
--       First write: one that does not fail at maxmemory.
-- Cost: O(scopes), O(log n) a hold.
--- @include "lib/open_path"
--- @include "lib/load_scopes"
--- @include "lib/load_learned"
--- @include "lib/effective"
--- @include "lib/learn"
--- @include "lib/commit"
--- @include "lib/next_path"
--- @include "lib/header"
local path = open_path()
if path.refusal then return path.refusal end

local first = 10 + #path.specs
local verb, words = ARGV[first], {}
for i = first + 1, #ARGV do words[#words + 1] = ARGV[i] end
load_scopes(path)
local scope = path.scopes[2]
local learned = load_learned(scope, path.now)
local function format(number) return string.format('%.0f', number) end
local poller, until_ms = string.match(learned.poller or '', '^(%S+) (%d+)$')
until_ms = tonumber(until_ms) or 0
local ours = until_ms <= path.now or poller == path.instance
local somebody_waits = redis.call('ZCARD', scope.index) > 0
local answer = {}

if verb == 'poll' and ours then
  learn(scope, 'gate', format(path.now + words[1]) .. ' ' .. table.concat(words, ' ', 3))
  learn(scope, 'poller', path.instance .. ' ' .. format(path.now + words[2]))
  local due = words[3] == '1' or learned.wanted or somebody_waits
  if due then
    local recent, width = 0, math.max(math.floor(words[5] / 4), 25)
    for slot, count in string.gmatch(learned.recent or '', '(%d+):(%d+)') do
      if math.floor(path.now / width) - slot <= 4 then recent = recent + count end
    end
    learn(scope, 'polling', string.format('%.0f %s %.0f', path.now, learned.grants or 0, math.max(scope.use - recent, 0)))
  end
  answer = {1, 0, due and 1 or 0}
elseif verb == 'poll' then
  answer = {0, until_ms - path.now, 0}
elseif verb == 'seen' then
  local began, grants, counted = string.match(learned.polling or '', '^(%d+) (%d+) (%d+)$')
  if began and poller == path.instance then
    local count = tonumber(words[1])
    learn(scope, 'usage', string.format('%.0f %s %s %s %.0f', count, began, grants, counted, words[2]))
    learn(scope, 'cap', tonumber(words[3]) >= 0 and format(words[3]) or nil)
    learn(scope, 'polling', nil)
    learn(scope, 'wanted', somebody_waits and format(path.now) or nil)
    if count >= 0 then
      -- Of what may run on there, as much does as the provider counts beyond our live calls; the oldest have ended.
      local holds = {}
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', scope.leases, '(' .. format(path.now), '+inf')) do
        if string.sub(member, 1, 2) == 'h:' then holds[#holds + 1] = member end
      end
      local running = math.max(count - math.max(counted - #holds, 0), 0)
      for i = 1, #holds - running do path.dropped[holds[i]] = true end
      scope.use = scope.use - math.max(#holds - running, 0)
    end
    effective(path, scope)
  end
  answer = {somebody_waits and 1 or 0}
elseif verb == 'leave' and poller == path.instance then
  learn(scope, 'poller', nil)
  learn(scope, 'polling', nil)
end
redis.call('HSET', path.store, 'cools', 1)
commit(path, false)
local result = header(path, next_path(path), 0)
for i = 1, #answer do result[9 + i] = answer[i] end
return result
