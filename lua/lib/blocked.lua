--- @include "lib/rate_frees_at"
--- @include "lib/until_resumed"
-- What keeps a request with this ticket from being granted now, or nil where it fits.
--
-- Of several reasons a pause that only an operator ends is told first; then one that names a time, the latest of them;
-- then a full concurrency limit; then that somebody with a lower ticket waits for one of the scopes. A rate or a pause
-- is met only by time, so `at` is then the earliest moment that a grant is possible.
local function blocked(path, want, ticket)
  if path.unknown then return {scope = 0, dimension = 'unknown', used = 0, limit = 0, at = 0} end
  if path.quiet > path.now then
    return {scope = 0, dimension = 'recovery', used = 0, limit = 0, at = path.quiet, timed = true}
  end
  local full, behind, timed
  for _, scope in ipairs(path.scopes) do
    if scope.pause > path.now then
      local pause = {scope = scope.number, dimension = 'pause', used = 0, limit = 0, at = scope.pause, timed = true}
      if scope.pause >= until_resumed() then
        pause.at, pause.timed = 0, nil
        return pause
      end
      if not timed or pause.at > timed.at then timed = pause end
    end
    if scope.limit and scope.use + want.n * want.weight > scope.limit then
      full = full or {scope = scope.number, dimension = 'c', used = scope.use, limit = scope.limit, at = 0}
    end
    for _, rate in ipairs(scope.rates) do
      local need = want.n * (want.charge[rate.unit] or 0)
      local used = rate.total + rate.added
      if need > 0 and used + need > rate.limit then
        local at = rate_frees_at(scope, rate, need)
        if not timed or at > timed.at then
          timed = {scope = scope.number, dimension = rate.name, used = used, limit = rate.limit, at = at, timed = true}
        end
      end
    end
    if scope.ahead and scope.ahead_ticket < ticket then
      behind = behind or {scope = scope.number, dimension = 'queue', used = scope.use, limit = scope.limit or 0, at = 0}
    end
  end
  return timed or full or behind
end
