--- @include "lib/purge"
-- What is due once a second, see tending(), or when a path is new in the list: the list of paths lives as long as any
-- window of its paths, so that reset finds what is still counted; and what has expired is forgotten.
local function housekeep(path)
  local lifetime = 4 * path.ttl
  for _, scope in ipairs(path.scopes) do lifetime = math.max(lifetime, 2 * scope.longest) end
  if redis.call('PTTL', path.paths) < lifetime then redis.call('PEXPIRE', path.paths, lifetime) end
  if path.tend or next(path.bury) then purge(path) end
end
