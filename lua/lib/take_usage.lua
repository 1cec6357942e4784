--- @include "lib/learn"
--- @include "lib/whole"
-- Take in what a usage source has answered to the poll that has begun, if there is one: as `usage`
--     "<count> <began> <grants> <unseen> <others> <held> <held until> <foreign> <limit>"
-- count and limit are the source's (-1: not said); began, grants and unseen are begin_poll()'s. `others` is what the
-- provider counts beyond the calls of ours that it counts for sure: not the fleet's, given up here (`held` of them at
-- most, until `held until`), or ended and still counted. `foreign`: how many of them cannot be ours.
--
-- It counts for sure what is live now and had begun longer than its lag before the poll: all live calls but as many as
-- were granted or claimed since, and the unseen. What has ended or cools may have left its count before it answered.
-- Of what was given up before the poll began, as much may run on as `others` says, and what began too late to show; of
-- more, the oldest have ended.
local function take_usage(path, scope, count, limit)
  local learned = scope.learned
  local began, grants, unseen, use = string.match(learned.polling or '', '^(%d+) (%d+) (%d+) (%d+)$')
  learn(scope, 'polling', nil)
  if not began then return end
  local since = math.max((whole(learned.grants) or 0) - grants, 0)
  local known, held, held_until = -since - unseen, {}, 0
  local leases = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now), '+inf', 'WITHSCORES')
  for i = 1, #leases, 2 do
    local kind, till = string.sub(leases[i], 1, 2), tonumber(leases[i + 1])
    local given_up = tonumber(string.match(leases[i], '^h:(%d+):'))
    if given_up and given_up < tonumber(began) then
      held[#held + 1] = {member = leases[i], since = given_up, till = till}
    elseif kind ~= 'c:' and kind ~= 'h:' then
      known = known + 1
    end
  end
  local others = math.max(count - math.max(known, 0), 0)
  if count >= 0 then
    table.sort(held, function(a, b) return a.since < b.since or a.since == b.since and a.member < b.member end)
    local running = math.max(count - known, 0)
    while #held > running do
      path.dropped[table.remove(held, 1).member] = true
      scope.use = scope.use - 1
    end
    for _, hold in ipairs(held) do held_until = held_until == 0 and hold.till or math.min(held_until, hold.till) end
  end
  learn(scope, 'usage', string.format('%.0f %s %s %s %.0f %.0f %.0f %.0f %.0f', count, began, grants, unseen, others,
    math.max(#held - unseen, 0), held_until, math.max(count - use, 0), limit))
end
