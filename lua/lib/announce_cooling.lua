-- Tell the processes whose paths are next in line for this path's scopes when a slot that still cools will be free: no
-- release follows that would hand it on.
local function announce_cooling(path)
  for _, scope in ipairs(path.lingers and path.scopes or {}) do
    local text = scope.ahead and redis.call('HGET', scope.state, 'head:' .. scope.ahead)
    local instance = string.match(text or '', '^(%S+) ')
    if instance then
      local at = string.format('%.0f', path.now + path.lingers + 1)
      redis.call('PUBLISH', path.inbox .. instance, scope.ahead .. ' @' .. at)
    end
  end
end
