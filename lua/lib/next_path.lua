-- The path that stands first in line for capacity which this path's scopes have to spare, or ''. The caller
-- follows with `grant` on it: hand-offs between paths take one hop each.
local function next_path(path)
  if path.more then return path.name end
  local name, ticket = '', math.huge
  for _, scope in ipairs(path.scopes) do
    local ours = path.head and path.head.block and path.head.block.scope == scope.number and path.head.ticket
    if scope.ahead and scope.ahead_ticket < math.min(ticket, ours or math.huge) then
      local spare = not scope.limit or scope.use < scope.limit
      for _, rate in ipairs(scope.rates) do spare = spare and rate.total + rate.added < rate.limit end
      if spare then name, ticket = scope.ahead, scope.ahead_ticket end
    end
  end
  return name
end
