--- @include "lib/recent_grants"
--- @include "lib/whole"
-- What an answer to a poll that begins now can be compared with: "<now> <grants> <unseen> <known> <use>".
--
-- Calls that began within the provider's lag may not show in its count: `unseen`. Of our live calls it counts all others
-- for sure: `known`, which leaves out what nobody has claimed yet as well, since its call has not begun. What has ended
-- and cools, or is held, it may count or not.
local function begin_poll(path, scope, lag)
  local unseen = recent_grants(path, scope.learned.recent, lag)
  local known, claims = -unseen, path.ttl - path.beat > path.claim_ttl and path.now + path.claim_ttl or 0
  local leases = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now), '+inf', 'WITHSCORES')
  for i = 1, #leases, 2 do
    local kind = string.sub(leases[i], 1, 2)
    if kind ~= 'c:' and kind ~= 'h:' and tonumber(leases[i + 1]) > claims then known = known + 1 end
  end
  return string.format('%.0f %.0f %.0f %.0f %.0f', path.now, whole(scope.learned.grants) or 0, unseen, known, scope.use)
end
