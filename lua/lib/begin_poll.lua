--- @include "lib/recent_grants"
--- @include "lib/whole"
-- What an answer to a poll that begins now can be compared with: "<now> <grants> <unseen> <use>". Calls that began
-- within the provider's lag may not show in its count: `unseen`.
local function begin_poll(path, scope, lag)
  local learned = scope.learned
  local unseen = recent_grants(path, learned.recent, lag)
  return string.format('%.0f %.0f %.0f %.0f', path.now, whole(learned.grants) or 0, unseen, scope.use)
end
