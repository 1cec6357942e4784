--- @include "lib/least_penalty"
-- When the reduced limit of a scope may next be higher with nobody calling, in server ms: a penalty has decayed far
-- enough, a recovery is due, a decrement is taken back. 0 where time changes nothing.
local function rises_at(path, scope)
  local learned, now, first = scope.learned, path.now, math.huge
  if not learned or not scope.limit then return 0 end
  if scope.penalty > 0 then
    local half_life = scope.strategy.half_life
    -- Where the next slot takes a penalty of none, it comes as soon as what is left is too little to count.
    local wanted = math.max(scope.unpunished / (scope.limit + 1) - 1, least_penalty())
    local level, at = string.match(learned.penalty, '^(%S+) (%d+)$')
    if tonumber(level) > wanted and scope.unpunished > scope.limit then
      first = math.ceil(at + half_life * math.log(level / wanted) / math.log(2)) + 1
    end
  end
  if scope.adapted and scope.adapted.current < scope.adapted.high then
    first = math.min(first, scope.adapted.at + scope.adapted.interval)
  end
  if learned.reduced and scope.strategy.D then
    local restore = tonumber(string.match(scope.strategy.D, '(%d+)$'))
    local at = tonumber(string.match(learned.reduced, '(%d+)$'))
    if restore > 0 then first = math.min(first, at + restore) end
  end
  return first < math.huge and math.max(first, now + 1) or 0
end
