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
-- Cost: O(scopes + leases) where a poll begins or is answered, else O(scopes).
--- @include "lib/open_path"
--- @include "lib/load_scopes"
--- @include "lib/load_learned"
--- @include "lib/effective"
--- @include "lib/learn"
--- @include "lib/begin_poll"
--- @include "lib/take_usage"
--- @include "lib/commit"
--- @include "lib/next_path"
--- @include "lib/header"
local path = open_path()
if path.refusal then return path.refusal end

local first = 10 + #path.specs
local verb, words = ARGV[first], {}
for i = first + 1, #ARGV do words[#words + 1] = tonumber(ARGV[i]) end
load_scopes(path)
local scope = path.scopes[2]
local learned = load_learned(scope, path.now)
local function format(number) return string.format('%.0f', number) end
local poller, until_ms = string.match(learned.poller or '', '^(%S+) (%d+)$')
until_ms = tonumber(until_ms) or 0
local somebody_waits = redis.call('ZCARD', scope.index) > 0
local answer = {}

if verb == 'poll' then
  local lasts, elected_for = words[1], words[2]
  -- An election that ends later than any can was held before the clock went back.
  if until_ms <= path.now or until_ms > path.now + elected_for or poller == path.instance then
    -- Whoever wanted a poll while nobody polled begins to wait for one now.
    if not scope.gate then learn(scope, 'wanted', nil) end
    local settings = {}
    for i = 3, #words do settings[#settings + 1] = format(words[i]) end
    learn(scope, 'gate', format(path.now + lasts) .. ' ' .. table.concat(settings, ' '))
    learn(scope, 'poller', path.instance .. ' ' .. format(path.now + elected_for))
    local due = words[3] == 1 or learned.wanted or somebody_waits
    if due then learn(scope, 'polling', begin_poll(path, scope, words[5])) end
    answer = {1, 0, due and 1 or 0}
  else
    answer = {0, until_ms - path.now, 0}
  end
elseif verb == 'seen' then
  if poller == path.instance and learned.polling then
    take_usage(path, scope, words[1], words[2])
    learn(scope, 'cap', words[3] >= 0 and format(words[3]) or nil)
    learn(scope, 'wanted', somebody_waits and format(path.now) or nil)
    effective(path, scope)
  end
  answer = {somebody_waits and 1 or 0}
elseif verb == 'leave' and poller == path.instance then
  learn(scope, 'poller', nil)
  learn(scope, 'polling', nil)
end
commit(path, false)
-- Behind the first write, which is none that fails at maxmemory.
if not path.cools then redis.call('HSET', path.store, 'cools', 1) end
local result = header(path, next_path(path), 0)
for i = 1, #answer do result[9 + i] = answer[i] end
return result
