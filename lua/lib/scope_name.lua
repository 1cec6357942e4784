-- The scope that a state key belongs to, as the overrides name it.
local function scope_name(state) return string.match(state, '}:(.*):state$') end
