--- @include "lib/breaker_of"
-- What a breaker says to a request: nil where it may go, else a block. While it is open nobody goes; then one call at a
-- time tries, until as many as are needed have succeeded.
local function breaker_block(path, scope, name)
  local breaker = breaker_of(scope.learned and scope.learned[name])
  if not breaker then return nil end
  local until_ms, probe = breaker.until_ms, breaker.probe
  if until_ms > path.now then
    return {scope = scope.number, dimension = name, used = 0, limit = 0, at = until_ms, timed = true}
  end
  local running = probe ~= '-'
    and (path.added[probe] or not path.dropped[probe] and redis.call('ZSCORE', scope.leases, probe))
  if not running or tonumber(running) <= path.now then return nil end
  return {scope = scope.number, dimension = name, used = 1, limit = 1, at = tonumber(running)}
end
