--- @include "lib/standing"
--- @include "lib/usage_block"
--- @include "lib/breaker_block"
-- Whether the path that stands first in a scope's index is worth a try: its head fits into what the scope has to
-- spare, or no longer waits. A head that another scope blocks is tried through that one. One that a reduced limit
-- excludes is passed over, see advance(): what counts is whether there is room for one of those behind it. Nobody goes
-- while a breaker is open or its probe runs; but at an empty account all are tried, since they are to be told.
local function head_is_due(path, scope)
  local text = redis.call('HGET', scope.state, 'head:' .. scope.ahead)
  local instance, deadline, size, needs = string.match(text or '', '^(%S+) (%d+) ?(%d*) ?(%S*)$')
  if not instance or standing(path, instance) ~= 'alive' then return true end
  if tonumber(deadline) > 0 and tonumber(deadline) <= path.now then return true end
  size = tonumber(size)
  if size and scope.limit and size > scope.limit and scope.ahead_ticket < 2 ^ 52 then size = 1 end
  if not size or scope.pause > path.now or (scope.slow or scope.ramp) and scope.paced > path.now + 50
    or scope.limit and scope.use + size > scope.limit then return false end
  if breaker_block(path, scope, 'breaker') and not breaker_block(path, scope, 'quota') then return false end
  if scope.gate and usage_block(path, scope, size, true) then return false end
  for _, rate in ipairs(scope.rates) do
    local need = tonumber(string.match(needs, rate.unit .. '(%d+)') or 0)
    if need > 0 and rate.total + rate.added + need > rate.limit then return false end
  end
  return true
end
