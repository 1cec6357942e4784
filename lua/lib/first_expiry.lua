-- When the first of the slots of a scope that are in the store ends by itself, in server ms; 0 where none is taken.
local function first_expiry(path, scope)
  local first = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now), '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)
  return tonumber(first[2] or 0)
end
