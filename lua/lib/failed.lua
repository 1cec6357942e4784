--- @include "lib/learn"
--- @include "lib/trip"
--- @include "lib/breaker_of"
--- @include "lib/cut"
--- @include "lib/listen"
-- Learn that a call has failed: one that was admitted at `at`, and has this lease id. Returns whether it was the first
-- to tell of its episode. Overload and errors have an epoch of their own (`stall`), so that they hide no 429 of the
-- same time.
local function failed(path, scope, letter, at, id, dimension)
  local learned, strategy, now = scope.learned, scope.strategy, path.now
  local failures, open, needed = string.match(strategy.B or '', '^(%d+),(%d+),(%d+)$')
  local breaker = breaker_of(learned.breaker)
  local count = (tonumber(learned.failures) or 0) + 1
  if failures and (breaker and breaker.probe == id or not breaker and count >= tonumber(failures)) then
    trip(path, scope, 'breaker', tonumber(open), tonumber(needed))
    learn(scope, 'failures', nil)
  elseif failures and not breaker then
    learn(scope, 'failures', string.format('%.0f', count))
    listen(path, 60000)
  end
  local mild = letter == 'v' or letter == 'e'
  if at <= (tonumber(learned.cut) or 0) or mild and at <= (tonumber(learned.stall) or 0) then return false end
  learn(scope, mild and 'stall' or 'cut', string.format('%.0f', now))
  -- A rate that this scope limits by itself is not the fault of its concurrency: calls are not too many at a time.
  local by_rate = false
  for _, rate in ipairs(scope.rates) do by_rate = by_rate or rate.unit == dimension end
  if letter == 'v' then
    -- Growth rests; a limit that is below the base recovers from here on.
    if scope.adapted then scope.adapted.at, scope.adapted.clean, scope.adapted.moved = now, 0, true end
  elseif not (by_rate and string.find(scope.in_force, '^c%d')) then
    cut(path, scope, letter, letter == 't' and 'rate_limit' or letter == 'w' and 'timeout' or nil, dimension == 'g')
  end
  return true
end
