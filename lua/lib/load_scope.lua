--- @include "lib/load_rates"
-- Read one scope of the path: the agreed limits, the use, and who waits for it.
--
-- Limits travel with the calls; the set of the highest generation that has called is the agreed one and is kept
-- in the scope, because a hand-off happens in somebody else's call. The caller's word on it is one of
--     <limits>  its own limits: "c8 r60000=500+250", or "none"
--     -         no opinion: what is agreed holds, else no limit
--     ?         unknown: a foreign path; what is not agreed is not guessed, nothing is granted
local function load_scope(path, k)
  local key = 8 + 4 * k
  local scope = {
    number = k, state = KEYS[key], windows = KEYS[key + 1], leases = KEYS[key + 2], index = KEYS[key + 3],
    rates = {}, longest = 0,
  }
  local agreed = redis.call('HMGET', scope.state, 'generation', 'limits')
  local held, spec = tonumber(agreed[1]), path.specs[k + 1]
  if spec == '?' then
    scope.unknown, spec = not held, agreed[2] or 'none'
  else
    local generation = spec == '-' and 0 or path.generation
    if spec == '-' then spec = 'none' end
    if held and held > generation then
      spec = agreed[2] or 'none'
    else
      scope.refresh, scope.adopt = true, held ~= generation or agreed[2] ~= spec
      scope.generation, scope.spec = generation, spec
    end
  end
  scope.limit = tonumber(string.match(spec, '^c(%d+)'))
  load_rates(scope, spec, path.now)
  for _, rate in ipairs(scope.rates) do path.rewound = path.rewound or rate.moved end
  scope.use = redis.call('ZCOUNT', scope.leases, '(' .. string.format('%.0f', path.now), '+inf')
  if path.rewound then
    scope.late = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now + 600000), '+inf',
      'LIMIT', 0, 1000)
  end
  local waiting = redis.call('ZRANGE', scope.index, 0, 1, 'WITHSCORES')
  for i = 1, #waiting, 2 do
    if waiting[i] ~= path.name then
      scope.ahead, scope.ahead_ticket = waiting[i], tonumber(waiting[i + 1])
      break
    end
  end
  return scope
end
