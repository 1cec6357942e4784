-- The penalty of a scope now: it halves with every half-life, whoever looks. Below a twentieth it is over.
local function penalty_now(learned, half_life, now)
  local level, at = string.match(learned.penalty or '', '^(%S+) (%d+)$')
  level, at = tonumber(level) or 0, tonumber(at) or 0
  if now > at then level = level * 0.5 ^ ((now - at) / half_life) end
  return level >= 0.05 and level or 0
end
