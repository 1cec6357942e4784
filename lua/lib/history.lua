-- A list that a scope keeps of what it has learned: "<entry>;<entry>…". '' where there is none, or one that is longer
-- than any of ours.
local function history(scope, name)
  local text = redis.call('HGET', scope.learned_key, name) or ''
  return #text <= 20000 and text or ''
end
