--- @include "lib/lease_ids"
--- @include "lib/members"
--- @include "lib/pace"
--- @include "lib/learn"
--- @include "lib/count_blind"
--- @include "lib/count_grant"
-- Take what a request asks for in every scope of the path: leases that end at `expiry`, and its charges.
local function charge(path, id, want, state, expiry)
  local weight = want.weight
  for _, scope in ipairs(path.scopes) do
    if scope.gate then
      count_blind(path, scope, want.n * weight, state == 'G')
      count_grant(path, scope, want.n * weight)
    end
    scope.use = scope.use + want.n * weight
    if scope.slow or scope.ramp then pace(path, scope, id, want) end
    local adapted = scope.adapted
    if adapted and scope.use > adapted.peak then adapted.peak, adapted.moved = scope.use, true end
    -- Whoever passes a breaker that is not closed is its probe.
    for _, name in ipairs(scope.learned and {'breaker', 'quota'} or {}) do
      local text = scope.learned[name]
      if text then learn(scope, name, string.match(text, '^(.* )') .. id) end
    end
    for _, rate in ipairs(scope.rates) do
      rate.added = rate.added + want.n * (want.charge[rate.unit] or 0)
    end
  end
  for _, lease in ipairs(lease_ids(id, want.n)) do
    for _, member in ipairs(members(lease, weight)) do
      path.added[member], path.dropped[member] = expiry, nil
    end
    path.entries[lease] = {
      state = state, instance = want.instance, at = path.now, n = 1, weight = weight, costs = want.costs,
      charge = want.charge, ticket = want.ticket or 0, deadline = want.deadline or 0,
    }
    path.dirty[lease] = true
  end
  path.entries[id].n = state == 'G' and want.n or 1
end
