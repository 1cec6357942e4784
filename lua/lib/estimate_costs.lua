-- Decide what a request charges of the units that its caller gave no figure for, where a rate counts them: the
-- caller's guess ("T1200", upper case), but never more than could be granted.
local function estimate_costs(path, want)
  if not string.find(want.costs, '%u') then return end
  local guesses, costs = {}, string.gsub(want.costs, '%u%d+', '')
  for unit, amount in string.gmatch(want.costs, '(%u)(%d+)') do guesses[string.lower(unit)] = tonumber(amount) end
  for _, scope in ipairs(path.scopes) do
    for _, rate in ipairs(scope.rates) do
      local guess = guesses[rate.unit]
      if guess then guesses[rate.unit] = math.max(math.min(guess, math.floor(rate.limit / want.n)), 1) end
    end
  end
  for _, scope in ipairs(path.scopes) do
    for _, rate in ipairs(scope.rates) do
      local guess = guesses[rate.unit]
      if guess and not want.charge[rate.unit] then
        want.charge[rate.unit] = guess
        costs = costs .. rate.unit .. string.format('%.0f', guess)
      end
    end
  end
  want.costs = costs
end
