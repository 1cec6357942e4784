--- @include "lib/refund"
-- Put what a lease has really used in the place of its estimate, once: the rest returns to the slots that were
-- charged; what was used beyond it is charged now, whatever the limit (debt: later callers wait for it).
-- `s1` behind the costs of a lease says that it is settled.
local function settle(path, held, usage)
  if held.charge.s then return end
  local used = {}
  for unit, amount in string.gmatch(usage, '(%l)(%d+)') do used[unit] = tonumber(amount) end
  for _, scope in ipairs(path.scopes) do
    for _, rate in ipairs(scope.rates) do
      local amount, charged = used[rate.unit], held.charge[rate.unit] or 0
      if amount and amount < charged then refund(scope, rate, held.at, charged - amount) end
      if amount and amount > charged then rate.added = rate.added + amount - charged end
    end
  end
  local kept = {'s1'}
  for unit, amount in pairs(held.charge) do
    if not used[unit] then kept[#kept + 1] = unit .. string.format('%.0f', amount) end
  end
  for unit, amount in pairs(used) do kept[#kept + 1] = unit .. string.format('%.0f', amount) end
  held.costs = table.concat(kept)
  held.charge.s = 1
end
