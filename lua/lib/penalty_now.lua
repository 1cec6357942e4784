--- @include "lib/least_penalty"
-- The penalty of a scope now, by its strategy: it halves with every half-life, whoever looks, and is never
-- above the maximum. Below an eighth it is over.
local function penalty_now(learned, strategy, now)
  local most, half_life = strategy.most, strategy.half_life
  local level, at = string.match(learned.penalty or '', '^(%S+) (%d+)$')
  level, at = tonumber(level) or 0, tonumber(at) or 0
  if now > at then level = level * 0.5 ^ ((now - at) / half_life) end
  -- Also false for what is no number.
  return level >= least_penalty() and math.min(level, most / 1000) or 0
end
