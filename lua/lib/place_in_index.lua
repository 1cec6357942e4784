-- Keep the path in the index of the one scope that blocked its head, with the head's ticket. A path with nobody to
-- grant to stands in none.
--
-- A head that has waited 20 s for slots of scopes that strangers share (not its own model, not a rate, which only
-- time can free) stays in the index of each of them that has blocked it since: what it needs together is kept for
-- it, or one of them would always be taken while it waits for the other. A ticket is about the ms of parking.
--
-- A head that only a reduced limit excludes stands behind all others (head.place), see advance().
--
-- Beside it the scope's state says whose the head is and, in the scope that blocks it, what it needs: whoever frees
-- capacity there sees whether it is worth a try, see head_is_due().
local function place_in_index(path)
  local head, field = path.head, 'head:' .. path.name
  local block = head and head.block
  local keeps = block and block.scope > 0 and not block.timed and block.dimension == 'c'
    and path.now - head.ticket >= 20000
  for _, scope in ipairs(path.scopes) do
    local blocks = block and block.scope == scope.number
    if blocks or keeps and redis.call('ZSCORE', scope.index, path.name) then
      local waiter = head.waiter
      local text = string.format('%s %.0f', waiter.instance, waiter.deadline)
      if blocks then
        local needs = string.gsub(waiter.costs, '%d+', function(cost) return string.format('%.0f', waiter.n * cost) end)
        text = string.format('%s %.0f %s', text, waiter.n * waiter.weight, needs)
      end
      scope.ours = head.place or head.ticket
      redis.call('ZADD', scope.index, string.format('%.0f', scope.ours), path.name)
      redis.call('PEXPIRE', scope.index, 2 * path.ttl)
      redis.call('HSET', scope.state, field, text)
      if redis.call('PTTL', scope.state) < 2 * path.ttl then redis.call('PEXPIRE', scope.state, 2 * path.ttl) end
    elseif redis.call('ZREM', scope.index, path.name) == 1 then
      redis.call('HDEL', scope.state, field)
    end
  end
end
