-- snapshot: what one path's scopes and queue look like now.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire; ? for all is usual
-- Returns {0, now, epoch, waiting, ms the head has waited (-1: nobody), ms that leases last (-1: none has ended),
--       scopes}, then for each scope: generation (-1:
--       none agreed), limits agreed, limits in force, what operators have set, pause until, use, paths in its index,
--       concurrency limit in force, reduced by what was learned (-1: none), before that (-1), penalty, limit of the
--       parallelism ('' none), reduced of the decrement, breaker, quota, as lib/load_learned has them, history and
--       responses ('' none), as lib/commit_learned writes them, gate, usage, poller, blind, cap, as lib/load_gate has
--       them, slots that cool, slots that are held, rates, then for each rate: name, used, limit
-- Writes nothing.
-- Cost: O(scopes + rates), O(log n) of leases and waiters.
--- @include "lib/open_path"
--- @include "lib/load_scopes"
--- @include "lib/effective"
--- @include "lib/history"
--- @include "lib/record"
--- @include "lib/whole"
local path = open_path()
if path.refusal then return path.refusal end

load_scopes(path)
local waited = -1
local head = redis.call('ZRANGE', path.queue, 0, 0)[1]
if head then
  local waiter = record(redis.call('HGET', path.records, head))
  if waiter and waiter.at then waited = path.now - waiter.at end
end
local result = {0, path.now, path.epoch, redis.call('ZCARD', path.queue), waited,
  whole(redis.call('HGET', path.records, 'hold')) or -1, #path.scopes}
local function add(value) result[#result + 1] = value end
for _, scope in ipairs(path.scopes) do
  if not scope.unknown and not scope.learned then effective(path, scope) end
  local learned = scope.learned or {}
  add(scope.generation or -1)
  add(scope.agreed)
  add(scope.in_force)
  add(scope.override)
  add(scope.pause)
  add(scope.use)
  add(redis.call('ZCARD', scope.index))
  add(scope.limit or -1)
  add(scope.base or -1)
  add(string.format('%.4f', scope.penalty))
  add(scope.adapted and string.format('%.4f', scope.adapted.current) or '')
  add(learned.reduced or '')
  add(learned.breaker or '')
  add(learned.quota or '')
  for _, text in ipairs({'history', 'responses'}) do add(history(scope, text)) end
  for _, name in ipairs({'gate', 'usage', 'poller', 'blind', 'cap'}) do add(learned[name] or '') end
  local cooling, held = 0, 0
  for _, member in ipairs(path.cools and scope.use > 0 and redis.call('ZRANGEBYSCORE', scope.leases,
    '(' .. string.format('%.0f', path.now), '+inf') or {}) do
    local kind = string.sub(member, 1, 2)
    cooling, held = cooling + (kind == 'c:' and 1 or 0), held + (kind == 'h:' and 1 or 0)
  end
  add(cooling)
  add(held)
  add(#scope.rates)
  for _, rate in ipairs(scope.rates) do
    add(rate.name)
    add(rate.total)
    add(rate.limit)
  end
end
return result
