--- @include "lib/head_is_due"
-- The paths that stand first in line for what this path's scopes have to spare, separated by spaces; '' for none.
-- The caller follows with `grant` on each: hand-offs between paths take one hop each. Where this path's own head stands
-- in line (scope.ours), nobody behind it is named, and only who can be served: so hops come to an end.
local function next_path(path)
  if path.more then return path.name end
  local names, named = {}, {}
  for _, scope in ipairs(path.scopes) do
    if scope.ahead and scope.ahead_ticket < (scope.ours or math.huge) and not named[scope.ahead]
      and head_is_due(path, scope) then
      names[#names + 1], named[scope.ahead] = scope.ahead, true
    end
  end
  return table.concat(names, ' ')
end
