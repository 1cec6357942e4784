--- @include "lib/deliver"
-- When the head of the queue is worth another try with nobody calling: its block's time, or for a full
-- concurrency limit the nearest lease expiry. The head's process keeps the one timer for it: returned here if that
-- is the caller, sent if it is another and the head is new, or an operator calls: then its limits are. 0: no timer of
-- the caller's.
local function head_timer(path)
  local head = path.head
  if not head or not head.block then return 0 end
  local ours = head.waiter.instance == path.instance
  local news = path.swept or next(path.dequeue) or path.instance == ''
  if not ours and not news then return 0 end
  local at = head.block.at
  if head.block.dimension == 'c' then
    local scope = path.scopes[head.block.scope + 1]
    local first = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now), '+inf',
      'WITHSCORES', 'LIMIT', 0, 1)
    at = tonumber(first[2] or 0)
    if at == 0 then at = path.now + path.claim_ttl end
  end
  if at == 0 then return 0 end
  if ours then return at end
  deliver(path, head.waiter.instance, '@' .. string.format('%.0f', at))
  return 0
end
