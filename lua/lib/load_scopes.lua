--- @include "lib/load_scope"
-- Read every scope of the path, once.
local function load_scopes(path)
  if path.scopes[1] then return end
  for k = 0, #path.specs - 1 do
    local scope = load_scope(path, k)
    path.scopes[k + 1] = scope
    if scope.unknown then path.unknown = true end
  end
  path.tend = path.scopes[1].tend
end
