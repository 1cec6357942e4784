-- Keep the path in the index of the one scope that blocked its head, with the head's ticket. A head that has
-- waited 20 s also stays in the index of every scope that has blocked it since, so that what it needs together is
-- kept for it. A path with nobody to grant to stands in none.
local function place_in_index(path)
  local head = path.head
  for _, scope in ipairs(path.scopes) do
    if head and head.block and head.block.scope == scope.number then
      redis.call('ZADD', scope.index, string.format('%.0f', head.ticket), path.name)
      redis.call('PEXPIRE', scope.index, 2 * path.ttl)
    elseif not head or path.now - head.waiter.at < 20000 then
      redis.call('ZREM', scope.index, path.name)
    elseif redis.call('ZSCORE', scope.index, path.name) then
      redis.call('ZADD', scope.index, string.format('%.0f', head.ticket), path.name)
    end
  end
end
