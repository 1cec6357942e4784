--- @include "lib/learn"
--- @include "lib/penalty_now"
-- Reduce what a scope admits after a failure, once an episode. `cause` is the reason for a penalty, nil where the
-- penalty takes no notice; `letter` is what the other strategies know. `ramp`: growth is to rest for longer.
local function cut(path, scope, letter, cause, ramp)
  local learned, strategy, now = scope.learned, scope.strategy, path.now
  local rest = ramp and 60000 or 0
  if strategy.P and cause then
    local most = strategy.most
    local weight = tonumber(string.match(',' .. strategy.causes, ',' .. cause .. '=(%d+)')) or 0
    local level = math.min(penalty_now(learned, strategy, now) + weight / 1000, most / 1000)
    if level > 0 then learn(scope, 'penalty', string.format('%.4f %.0f', level, now + rest)) end
  end
  local adapted = scope.adapted
  if adapted then
    local current = adapted.current
    if letter == 't' and string.find(adapted.flags, 'f', 1, true) then
      current = math.min(current, scope.use - 1)
    else
      current = current * (adapted[letter] or 1)
    end
    if letter == 't' then
      adapted.streak = adapted.streak + 1
      if string.find(adapted.flags, 'e', 1, true) then
        if adapted.streak >= 3 then current = current * 0.5 end
        if adapted.streak >= 5 then current = adapted.low end
      end
    end
    if string.find(adapted.flags, 'w', 1, true) then current = math.floor(current) end
    adapted.current = math.max(current, adapted.low)
    adapted.at, adapted.peak, adapted.clean, adapted.moved = now + rest, 0, 0, true
  end
  if strategy.D and letter == 't' and scope.base then
    local step, least = string.match(strategy.D, '^(%d+),(%d+)')
    local current, from = string.match(learned.reduced or '', '^(%d+) (%d+)')
    current = math.min(tonumber(current) or scope.base, scope.base)
    learn(scope, 'reduced', string.format('%.0f %.0f %.0f', math.max(current - step, math.min(least, current)),
      from or scope.base, now))
  end
end
