--- @include "lib/recent_grants"
--- @include "lib/whole"
-- What an answer to a poll that begins now can be compared with: "<now> <grants> <unseen> <use>".
--
-- `unseen`: calls of ours that may not show in the provider's count, since they began within its lag, or that have not
-- begun at all: grants from before that nobody has claimed yet. (Where leases are so short that a held one cannot be
-- told from them by its expiry, these are left out.)
local function begin_poll(path, scope, lag)
  local learned = scope.learned
  local unseen, _, slot, width = recent_grants(path, learned.recent, lag)
  if path.ttl - path.beat > path.claim_ttl then
    local unclaimed = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now),
      '(' .. string.format('%.0f', (slot - 4) * width + path.claim_ttl))
    for _, member in ipairs(unclaimed) do
      local kind = string.sub(member, 1, 2)
      if kind ~= 'c:' and kind ~= 'h:' then unseen = unseen + 1 end
    end
  end
  return string.format('%.0f %.0f %.0f %.0f', path.now, whole(learned.grants) or 0, unseen, scope.use)
end
