--- @include "lib/rises_at"
-- Tell the processes whose paths are next in line for this path's scopes when to try again, where this call has changed
-- that and no release follows that would hand it on: a slot that cools, a pause, an open breaker, a limit that was cut.
local function announce_timers(path)
  if not path.lingers and not path.reacted then return end
  for _, scope in ipairs(path.scopes) do
    local text = scope.ahead and redis.call('HGET', scope.state, 'head:' .. scope.ahead)
    local instance = string.match(text or '', '^(%S+) ')
    local at
    local function sooner(ms)
      if ms and ms > path.now and (not at or ms < at) then at = ms end
    end
    if instance and path.lingers then sooner(path.now + path.lingers + 1) end
    if instance and path.reacted and scope.learned then
      sooner(tonumber(scope.learned.pause))
      sooner(tonumber(string.match(scope.learned.breaker or '', '^%d+')))
      sooner(rises_at(path, scope))
    end
    if at then redis.call('PUBLISH', path.inbox .. instance, scope.ahead .. ' @' .. string.format('%.0f', at)) end
  end
end
