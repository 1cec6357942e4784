-- Put the path into the list of those in use, by the ms until which its longest window counts. Whether it is new there.
local function list_path(path)
  local longest = 0
  for _, scope in ipairs(path.scopes) do longest = math.max(longest, scope.longest) end
  return redis.call('ZADD', path.paths, string.format('%.0f', path.now + longest), path.name) == 1
end
