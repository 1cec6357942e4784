--- @include "lib/load_learned"
--- @include "lib/strategy_of"
--- @include "lib/least_penalty"
--- @include "lib/penalty_now"
--- @include "lib/adapt"
--- @include "lib/learn"
--- @include "lib/redate"
--- @include "lib/load_gate"
-- Reduce the limit of a scope to what it has learned, and to what the provider says of its own: scope.limit is what
-- holds now, scope.base what is agreed on.
--
-- Each strategy that is enabled takes its part; never below 1. A scope of rates alone is slowed instead: scope.slow
-- says by how much, see pace().
local function effective(path, scope)
  local now, limit = path.now, scope.base
  local learned, strategy = load_learned(scope, now), strategy_of(scope)
  if path.rewound then redate(path, scope) end
  scope.slow, scope.penalty = nil, 0
  if strategy.A then limit = adapt(path, scope, strategy.A) end
  if strategy.D and limit and learned.reduced then
    local _, _, restore = string.match(strategy.D, '^(%d+),(%d+),(%d+)$')
    local current, _, at = string.match(learned.reduced, '^(%d+) (%d+) (%d+)$')
    restore = tonumber(restore)
    if not current or restore > 0 and now >= at + restore then
      learn(scope, 'reduced', nil)
    else
      limit = math.max(math.min(limit, tonumber(current)), 1)
    end
  end
  scope.unpunished = limit
  if strategy.P and learned.penalty then
    scope.penalty = penalty_now(learned, strategy, now)
    if limit then
      limit = math.max(math.floor(limit / (scope.penalty + 1)), 1)
    elseif scope.penalty > 0 then
      scope.slow = scope.penalty + 1
      local half_lives = math.log(scope.penalty / least_penalty()) / math.log(2)
      scope.slow_until = now + math.ceil(strategy.half_life * half_lives) + 1
    end
  end
  load_gate(path, scope)
  local told = scope.gate and scope.gate.limit
  if told then
    scope.momentary = not scope.base or scope.momentary
    scope.base = scope.base or told
    limit = math.min(limit or told, told)
  end
  scope.limit = limit
end
