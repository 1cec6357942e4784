--- @include "lib/rate_frees_at"
--- @include "lib/until_resumed"
--- @include "lib/breaker_block"
--- @include "lib/usage_block"
-- What keeps a request with this ticket from being granted now, or nil where it fits.
--
-- Of several reasons an empty account is told first, and a pause that only an operator ends; then one that names a
-- time, the latest of them; then a full concurrency limit; then that somebody with a lower ticket waits for one of the
-- scopes. A rate or a pause is met only by time, so `at` is then the earliest moment that a grant is possible.
local function blocked(path, want, ticket)
  if path.unknown then return {scope = 0, dimension = 'unknown', used = 0, limit = 0, at = 0} end
  if path.quiet > path.now then
    return {scope = 0, dimension = 'recovery', used = 0, limit = 0, at = path.quiet, timed = true}
  end
  local full, behind, timed
  local function later(block)
    if not timed or block.at > timed.at then timed = block end
  end
  for _, scope in ipairs(path.scopes) do
    if scope.learned then
      local quota = breaker_block(path, scope, 'quota')
      if quota then return quota end
      local breaker = breaker_block(path, scope, 'breaker')
      if breaker and breaker.timed then later(breaker) else full = full or breaker end
      -- Admissions are spread in steps of 50 ms, so that many small gaps do not take a timer each.
      local slot = math.floor(scope.paced / 50) * 50
      if (scope.slow or scope.ramp) and slot > path.now then
        -- What was spread waits no longer than for the end of what has spread it.
        local at = math.min(slot, scope.slow and scope.slow_until or scope.pause + 1000)
        later({scope = scope.number, dimension = 'pace', used = 0, limit = 0, at = at, timed = true})
      end
    end
    if scope.pause > path.now then
      local pause = {scope = scope.number, dimension = 'pause', used = 0, limit = 0, at = scope.pause, timed = true}
      if scope.pause >= until_resumed() then
        pause.at, pause.timed = 0, nil
        return pause
      end
      later(pause)
    end
    if scope.limit and scope.use + want.n * want.weight > scope.limit then
      full = full or {scope = scope.number, dimension = 'c', used = scope.use, limit = scope.limit, at = 0}
    end
    for _, rate in ipairs(scope.rates) do
      local need = want.n * (want.charge[rate.unit] or 0)
      local used = rate.total + rate.added
      if need > 0 and used + need > rate.limit then
        local at = rate_frees_at(scope, rate, need)
        later({scope = scope.number, dimension = rate.name, used = used, limit = rate.limit, at = at, timed = true})
      end
    end
    if scope.ahead and scope.ahead_ticket < ticket then
      behind = behind or {scope = scope.number, dimension = 'queue', used = scope.use, limit = scope.limit or 0, at = 0}
    end
  end
  if timed or full or behind then return timed or full or behind end
  -- Last: nobody asks the provider for a request that could not go anyway.
  for _, scope in ipairs(path.scopes) do
    if scope.gate then
      local usage = usage_block(path, scope, want.n * want.weight, ticket < 2 ^ 52)
      if usage then return usage end
    end
  end
  return nil
end
