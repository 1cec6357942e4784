--- @include "lib/chunked"
--- @include "lib/commit_learned"
-- Write what was decided for one scope: leases, windows, agreed limits. Growing writes come first.
local function commit_scope(path, scope, added, dropped)
  if #added > 0 then chunked('ZADD', scope.leases, added) end
  for member, expiry in pairs(scope.held or {}) do
    redis.call('ZADD', scope.leases, string.format('%.0f', expiry), member)
  end
  -- Last, so that the key is never empty in between: a new one would have no TTL.
  if #dropped > 0 then chunked('ZREM', scope.leases, dropped) end
  local lives = math.max(2 * path.ttl, path.lingers or 0, scope.lingers or 0)
  local look = scope.tend or lives > 2 * path.ttl or #added > 0 and scope.was_empty
  if look and redis.call('PTTL', scope.leases) < lives then
    redis.call('PEXPIRE', scope.leases, lives)
  end
  if scope.late and #scope.late > 0 then
    local expiries = {}
    for _, member in ipairs(scope.late) do
      expiries[#expiries + 1] = string.format('%.0f', path.now + path.ttl)
      expiries[#expiries + 1] = member
    end
    redis.call('ZADD', scope.leases, 'XX', unpack(expiries))
  end
  local fields, dead = {}, {}
  for _, rate in ipairs(scope.rates) do
    local refunded = next(rate.refunds) ~= nil
    if rate.added ~= 0 or refunded or rate.moved or rate.carried or rate.trimmed then
      for _, field in ipairs(rate.dead) do dead[#dead + 1] = field end
      local total = rate.total + rate.added
      local function set(name, value)
        fields[#fields + 1] = rate.name .. ':' .. name
        fields[#fields + 1] = string.format('%.0f', value)
      end
      for slot, amount in pairs(rate.refunds) do
        if slot ~= rate.slot then
          redis.call('HINCRBY', scope.windows, rate.name .. ':' .. slot % 128, -amount)
        end
      end
      if rate.added ~= 0 or rate.moved or rate.carried then rate.newest = rate.slot end
      if rate.total == 0 then
        -- Charges that all returned leave empty slots behind the newest, which no later sum would take off.
        for slot = rate.oldest, rate.newest - 1 do dead[#dead + 1] = rate.name .. ':' .. slot % 128 end
        rate.oldest = rate.newest
      end
      set('n', total)
      set('old', math.min(rate.oldest, rate.newest))
      set('new', rate.newest)
      if rate.newest == rate.slot then
        set(rate.slot % 128, rate.count + rate.added - (rate.refunds[rate.slot] or 0))
      end
    end
  end
  for _, name in ipairs(scope.gone or {}) do
    for _, field in ipairs({'n', 'old', 'new'}) do dead[#dead + 1] = name .. ':' .. field end
    for slot = 0, 127 do dead[#dead + 1] = name .. ':' .. slot end
  end
  if #dead > 0 then chunked('HDEL', scope.windows, dead) end
  if #fields > 0 then chunked('HSET', scope.windows, fields) end
  -- At every housekeeping, also by a call that charges nothing: the next one that does may find it just done.
  if #fields > 0 and not scope.counted or scope.adopt and scope.counted then
    redis.call('HSET', scope.windows, 'by', scope.in_force)
  end
  if scope.rates[1] and (scope.tend or not scope.counted) then
    redis.call('PEXPIRE', scope.windows, scope.longest + 1000)
  end
  if scope.adopt then
    redis.call('HSET', scope.state, 'generation', string.format('%.0f', scope.generation), 'limits', scope.agreed,
      'override', scope.override, 'pause', string.format('%.0f', scope.paused_by_hand), 'in_force', scope.in_force)
    if scope.newly_flagged then redis.call('HSET', scope.state, 'learned', '1') end
  end
  -- The store's state may have expired while that of the scope has not.
  if scope.cooldown and not path.cools then redis.call('HSET', path.store, 'cools', 1) end
  commit_learned(path, scope)
  if scope.refresh and scope.tend then
    redis.call('HSET', scope.state, 'tended', string.format('%.0f %.0f', path.now, path.ttl))
    local lifetime = 2 * math.max(path.ttl, math.floor(scope.longest / 2))
    -- A pause that an operator ends is kept by the overrides; this bounds what the state's copy of it costs.
    redis.call('PEXPIRE', scope.state, math.max(lifetime, math.min(scope.paused_by_hand - path.now, 86400000)))
  end
end
