--- @include "lib/refund"
-- Give all charges of one lease back.
local function uncharge(path, held)
  for _, scope in ipairs(path.scopes) do
    for _, rate in ipairs(scope.rates) do refund(scope, rate, held.at, held.charge[rate.unit] or 0) end
  end
end
