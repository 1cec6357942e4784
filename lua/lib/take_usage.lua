--- @include "lib/learn"
-- Take in what a usage source has answered to the poll that has begun, if there is one: as `usage`
--     "<count> <began> <grants> <unseen> <others> <held> <held until> <foreign> <limit>"
-- count and limit are the source's (-1: not said); began, grants and unseen are begin_poll()'s. `others` is what the
-- provider counts beyond the calls that we surely had: not the fleet's, given up here (`held` of them at most, until
-- `held until`), or ended and still counted. `foreign`: how many of them cannot be ours.
--
-- Of what was given up before the poll began, as much may run on as `others` says; of more, the oldest have ended.
local function take_usage(path, scope, count, limit)
  local began, grants, unseen, known, use =
    string.match(scope.learned.polling or '', '^(%d+) (%d+) (%d+) (%-?%d+) (%d+)$')
  learn(scope, 'polling', nil)
  if not began then return end
  local others, held, held_until = math.max(count - math.max(known, 0), 0), {}, 0
  if count >= 0 then
    local leases = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now), '+inf', 'WITHSCORES')
    for i = 1, #leases, 2 do
      local since = tonumber(string.match(leases[i], '^h:(%d+):'))
      if since and since < tonumber(began) then held[#held + 1] = {member = leases[i], since = since, till = leases[i + 1]} end
    end
    table.sort(held, function(a, b) return a.since < b.since or a.since == b.since and a.member < b.member end)
    local running = math.max(count - known, 0)
    while #held > running do
      path.dropped[table.remove(held, 1).member] = true
      scope.use = scope.use - 1
    end
    for _, hold in ipairs(held) do
      held_until = held_until == 0 and tonumber(hold.till) or math.min(held_until, tonumber(hold.till))
    end
  end
  learn(scope, 'usage', string.format('%.0f %s %s %s %.0f %.0f %.0f %.0f %.0f', count, began, grants, unseen, others,
    #held, held_until, math.max(count - use, 0), limit))
end
