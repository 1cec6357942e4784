-- The limit that a request can never fit under, or nil: {scope, dimension, need, limit}. Judged by the agreed
-- limits, whatever is in use and however they are reduced.
local function impossible(path, want)
  for _, scope in ipairs(path.scopes) do
    -- What a provider allows at the moment may be more in the next.
    if scope.base and not scope.momentary and want.n * want.weight > scope.base then
      return {scope = scope.number, dimension = 'c', used = want.n * want.weight, limit = scope.base}
    end
    for _, rate in ipairs(scope.rates) do
      local need = want.n * (want.charge[rate.unit] or 0)
      if need > rate.limit then
        return {scope = scope.number, dimension = rate.name, used = need, limit = rate.limit}
      end
    end
  end
  return nil
end
