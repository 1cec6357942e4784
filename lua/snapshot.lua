-- snapshot: what one path's scopes and queue look like now.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire; ? for all is usual
-- Returns {0, now, epoch, waiting, ms the head has waited (-1: nobody), scopes}, then for each scope: generation (-1:
--       none agreed), limits agreed, limits in force, what operators have set, pause until, use, paths in its index,
--       rates, then for each rate: name, used, limit
-- Writes nothing.
-- Cost: O(scopes + rates), O(log n) of leases and waiters.
--- @include "lib/open_path"
--- @include "lib/load_scopes"
--- @include "lib/record"
local path = open_path()
if path.refusal then return path.refusal end

load_scopes(path)
local waited = -1
local head = redis.call('ZRANGE', path.queue, 0, 0)[1]
if head then
  local waiter = record(redis.call('HGET', path.records, head))
  if waiter and waiter.at then waited = path.now - waiter.at end
end
local result = {0, path.now, path.epoch, redis.call('ZCARD', path.queue), waited, #path.scopes}
local function add(value) result[#result + 1] = value end
for _, scope in ipairs(path.scopes) do
  add(scope.generation or -1)
  add(scope.agreed)
  add(scope.in_force)
  add(scope.override)
  add(scope.pause)
  add(scope.use)
  add(redis.call('ZCARD', scope.index))
  add(#scope.rates)
  for _, rate in ipairs(scope.rates) do
    add(rate.name)
    add(rate.total)
    add(rate.limit)
  end
end
return result
