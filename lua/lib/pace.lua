--- @include "lib/load_learned"
--- @include "lib/learn"
-- Note that a request was admitted where calls are spread out: the next one follows when its share of time is over.
--
-- Calls are spread where a penalty slows the rates of a scope, by their reduced speed (windows above an hour do not
-- count, unless there are no others); and in the first second after a pause, so that not everybody sends at its end:
-- then one whole limit is spread over the second (where it is below ten, at ten a second), or rates at their speed
-- where that is less; each call 0.5 to 1.5 of its share, by what its random id says.
local function pace(path, scope, id, want)
  local gap, fallback = 0, 0
  for _, rate in ipairs(scope.rates) do
    local need = want.n * (want.charge[rate.unit] or 0) * rate.window / rate.limit
    if rate.window <= 3600000 then gap = math.max(gap, need) else fallback = math.max(fallback, need) end
  end
  if gap == 0 then gap = fallback end
  if scope.slow then
    gap = gap * scope.slow
  else
    local share = scope.limit and 1000 * want.n * want.weight / math.max(scope.limit, 10) or 0
    share = math.max(share, math.min(gap, 1000))
    local seed = 0
    for i = 1, math.min(#id, 8) do seed = (seed * 31 + string.byte(id, i)) % 1024 end
    gap = share * (0.5 + seed / 1024)
  end
  load_learned(scope, path.now)
  scope.paced = math.max(scope.paced, path.now) + gap
  learn(scope, 'paced', string.format('%.0f', scope.paced))
end
