--- @include "lib/members"
-- End one lease in every scope of the path. `counted`: it was still alive, so it leaves the use as well.
--
-- `linger`: its slot stays counted for so many ms, as "c:<id>" while the provider's own counter lags (cooldown), or
-- as "h:<ms>:<id>" where the call may run on (hold). Under that name no renewal and no second release finds it.
local function drop_lease(path, id, held, counted, linger, as)
  for _, member in ipairs(members(id, held.weight)) do
    path.added[member], path.dropped[member] = nil, true
    if linger then path.added[as .. member] = path.now + linger end
  end
  path.entries[id], path.dirty[id] = false, true
  if linger then path.lingers = math.max(path.lingers or 0, linger) end
  if counted and not linger then
    for _, scope in ipairs(path.scopes) do scope.use = scope.use - held.weight end
  end
end
