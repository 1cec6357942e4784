--- @include "lib/purge"
-- What is due once a second, see tending(): the list of paths lives on, and what has expired is forgotten. The list lives
-- as long as any window of its paths, so that reset finds what is still counted.
local function housekeep(path)
  local lifetime = 4 * path.ttl
  for _, scope in ipairs(path.scopes) do lifetime = math.max(lifetime, 2 * scope.longest) end
  if redis.call('PTTL', path.paths) < lifetime then redis.call('PEXPIRE', path.paths, lifetime) end
  purge(path)
end
