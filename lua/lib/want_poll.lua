--- @include "lib/learn"
--- @include "lib/deliver"
-- Where the head of the path waits for what the provider says of its use, ask whoever polls it to do so: "?".
local function want_poll(path)
  local block = path.head and path.head.block
  if not block or block.dimension ~= 'usage' then return end
  local scope = path.scopes[block.scope + 1]
  if scope.gate.wanted then return end
  learn(scope, 'wanted', string.format('%.0f', path.now))
  local poller, until_ms = string.match(scope.learned.poller or '', '^(%S+) (%d+)$')
  if poller and tonumber(until_ms) > path.now then deliver(path, poller, '?') end
end
