--- @include "lib/load_rates"
--- @include "lib/merge_limits"
--- @include "lib/carry"
--- @include "lib/scope_name"
--- @include "lib/tending"
--- @include "lib/effective"
--- @include "lib/whole"
-- Read one scope of the path: the limits in force, the use, a pause, and who waits for it.
--
-- Limits travel with the calls; the set of the highest generation that has called is the agreed one and is kept
-- in the scope, because a hand-off happens in somebody else's call. The caller's word on it is one of
--     <limits>  its own limits: "c8 h700 r60000=500+250", or "none"
--     -         no opinion: what is agreed holds, else no limit
--     ?         unknown: a foreign path; what is not agreed is not guessed, nothing is granted
-- Behind the figures may stand how the scope reacts to failures, see lib/strategy_of. What an operator has set replaces
-- the agreed figures one by one. The scope's state keeps a copy of it, since only the overrides themselves live for
-- ever: where the state is new, they are read again.
local function load_scope(path, k)
  local key = 9 + 5 * k
  local scope = {
    number = k, state = KEYS[key], windows = KEYS[key + 1], leases = KEYS[key + 2], index = KEYS[key + 3],
    learned_key = KEYS[key + 4], rates = {}, longest = 0, paced = 0, penalty = 0,
  }
  local kept = redis.call('HMGET', scope.state, 'generation', 'limits', 'override', 'pause', 'in_force', 'tended',
    'learned')
  local held, spec = tonumber(kept[1]), path.specs[k + 1]
  scope.generation, scope.agreed = held, kept[2] or 'none'
  scope.override, scope.paused_by_hand = kept[3], tonumber(kept[4]) or 0
  scope.flagged = kept[7] == '1'
  scope.tend = tending(path, kept[6])
  if spec == '?' then
    scope.unknown = not held
  else
    local generation = spec == '-' and 0 or path.generation
    if spec == '-' then spec = 'none' end
    if not held or held <= generation then
      scope.refresh, scope.adopt = true, held ~= generation or kept[2] ~= spec
      scope.generation, scope.agreed = generation, spec
    end
  end
  if not scope.override then
    local name = scope_name(scope.state)
    local set = redis.call('HMGET', path.overrides, 'limits:' .. name, 'pause:' .. name)
    scope.override, scope.adopt = set[1] or '', not scope.unknown
    scope.paused_by_hand = math.max(scope.paused_by_hand, tonumber(set[2]) or 0)
    scope.flagged = redis.call('EXISTS', scope.learned_key) == 1
    scope.newly_flagged = scope.flagged
  end
  scope.pause = scope.paused_by_hand
  scope.in_force = merge_limits(scope.agreed, scope.override)
  scope.base = whole(string.match(scope.in_force, '^c(%d+)'))
  scope.limit = scope.base
  scope.cooldown = whole(string.match(scope.in_force, '%f[%l]k(%d+)'))
  load_rates(scope, scope.in_force, path.now)
  -- The windows may outlive the state, which only the newest instances renew: then they say what counted in them.
  local counted_by = kept[5] or not scope.unknown and redis.call('HGET', scope.windows, 'by')
  if counted_by and counted_by ~= scope.in_force then
    scope.adopt = true
    carry(scope, counted_by, path.now)
  end
  scope.adopt = scope.adopt or kept[5] ~= scope.in_force and not scope.unknown
  -- Who agrees on something new writes `tended` with it, and so has to look after everything.
  scope.tend = scope.tend or scope.adopt
  for _, rate in ipairs(scope.rates) do path.rewound = path.rewound or rate.moved end
  scope.use = redis.call('ZCOUNT', scope.leases, '(' .. string.format('%.0f', path.now), '+inf')
  if path.rewound then
    scope.late = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now + 600000), '+inf',
      'LIMIT', 0, 1000)
  end
  scope.was_empty = scope.use == 0
  if scope.flagged or string.find(scope.agreed, ' A', 1, true) then effective(path, scope) end
  -- A limit that was reached is reached by everybody at once; so is the end of a pause, see pace().
  scope.ramp = scope.pause > path.now - 1000 and scope.pause <= path.now
  if scope.ramp then load_learned(scope, path.now) end
  local waiting = path.nobody_waits and {} or redis.call('ZRANGE', scope.index, 0, 1, 'WITHSCORES')
  for i = 1, #waiting, 2 do
    if waiting[i] ~= path.name then
      scope.ahead, scope.ahead_ticket = waiting[i], tonumber(waiting[i + 1])
      break
    end
  end
  return scope
end
