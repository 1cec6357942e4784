--- @include "lib/rises_at"
--- @include "lib/rate_frees_at"
--- @include "lib/first_expiry"
--- @include "lib/before_poll"
-- Tell the processes whose paths are next in line for this path's scopes when to try again, where this call has changed
-- that and no release follows that would hand it on: a slot that cools, a pause, an open breaker, a limit that was cut.
-- Also where waiters of this path stood before theirs and have left, of what time gives back before their next poll.
local function announce_timers(path)
  local left = next(path.dequeue) ~= nil
  if not path.lingers and not path.reacted and not left then return end
  for _, scope in ipairs(path.scopes) do
    local text = scope.ahead and redis.call('HGET', scope.state, 'head:' .. scope.ahead)
    local instance, needs = string.match(text or '', '^(%S+) %d+ ?%d* ?(%S*)$')
    local first = left and scope.ahead and scope.ahead_ticket < (scope.ours or math.huge)
    local at
    local function sooner(ms)
      if ms and ms > path.now and (not at or ms < at) then at = ms end
    end
    if path.lingers then sooner(path.now + path.lingers) end
    if (path.reacted or first) and scope.learned then
      sooner(tonumber(scope.learned.pause))
      sooner(tonumber(string.match(scope.learned.breaker or '', '^%d+')))
      sooner(rises_at(path, scope))
    end
    if instance and first then
      if scope.slow or scope.ramp then sooner(math.floor(scope.paced / 50) * 50) end
      sooner(first_expiry(path, scope))
      for _, rate in ipairs(scope.rates) do
        local need = tonumber(string.match(needs, rate.unit .. '(%d+)') or 0)
        -- Slots that are read from now on are without what was refunded.
        if not rate.slots then rate.refunds = {} end
        if need > 0 and rate.total + rate.added + need > rate.limit then sooner(rate_frees_at(scope, rate, need)) end
      end
    end
    if instance and at and (path.lingers or path.reacted or before_poll(path, at)) then
      redis.call('PUBLISH', path.inbox .. instance, scope.ahead .. ' @' .. string.format('%.0f', at))
    end
  end
end
