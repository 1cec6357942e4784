--- @include "lib/load_rates"
-- Let a changed set of rates begin with what was used before: a new window for the same unit starts from the old
-- total, as if it were charged now. Of several old windows the shortest that is at least as long tells most of the
-- new one; else the longest. A rate that is gone is forgotten by commit().
local function carry(scope, previous, now)
  local old = {windows = scope.windows, rates = {}, longest = 0}
  load_rates(old, previous, now)
  local kept, before = {}, {}
  for _, rate in ipairs(scope.rates) do kept[rate.name] = true end
  for _, rate in ipairs(old.rates) do before[rate.name] = true end
  for _, rate in ipairs(scope.rates) do
    local source
    for _, other in ipairs(not before[rate.name] and old.rates or {}) do
      if other.unit == rate.unit then
        local nearer = not source
          or other.window >= rate.window and (source.window < rate.window or other.window < source.window)
          or source.window < rate.window and other.window > source.window
        if nearer then source = other end
      end
    end
    local carried = source and source.total - rate.total or 0
    if carried > 0 then
      rate.total, rate.count, rate.carried = rate.total + carried, rate.count + carried, true
    end
  end
  scope.gone = {}
  for _, rate in ipairs(old.rates) do
    if not kept[rate.name] then scope.gone[#scope.gone + 1] = rate.name end
  end
end
