--- @include "lib/members"
-- End one lease in every scope of the path. `counted`: it was still alive, so it leaves the use as well.
local function drop_lease(path, id, held, counted)
  for _, member in ipairs(members(id, held.weight)) do
    path.added[member], path.dropped[member] = nil, true
  end
  path.entries[id], path.dirty[id] = false, true
  if counted then
    for _, scope in ipairs(path.scopes) do scope.use = scope.use - held.weight end
  end
end
