--- @include "lib/usage_block"
--- @include "lib/learn"
--- @include "lib/whole"
-- Count a grant for which the usage source has said nothing, where it should have.
local function count_blind(path, scope, size, queued)
  local _, blind = usage_block(path, scope, size, queued)
  if blind then learn(scope, 'blind', string.format('%.0f', (whole(scope.learned.blind) or 0) + size)) end
end
