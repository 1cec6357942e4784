--- @include "lib/deliver"
--- @include "lib/rises_at"
-- When the head of the queue is worth another try with nobody calling: its block's time, or for a full concurrency
-- limit the nearest lease expiry or the moment at which a reduced limit rises. The head's process keeps the one timer
-- for it: returned here if that is the caller, sent if it is another and the head is new, or its limits are: an
-- operator calls, a failure was told, a slot cools. 0: no timer of the caller's.
local function head_timer(path)
  local head = path.head
  if not head or not head.block then return 0 end
  local ours = head.waiter.instance == path.instance
  local news = path.swept or next(path.dequeue) or path.instance == '' or path.reacted or path.lingers
  if not ours and not news then return 0 end
  local at = head.block.at
  if head.block.dimension == 'c' then
    local scope = path.scopes[head.block.scope + 1]
    local first = redis.call('ZRANGEBYSCORE', scope.leases, '(' .. string.format('%.0f', path.now), '+inf',
      'WITHSCORES', 'LIMIT', 0, 1)
    at = tonumber(first[2] or 0)
    if at == 0 then at = path.now + path.claim_ttl end
    local rises = rises_at(path, scope)
    if rises > 0 then at = math.min(at, rises) end
  end
  if at == 0 then return 0 end
  if ours then return at end
  deliver(path, head.waiter.instance, '@' .. string.format('%.0f', at))
  return 0
end
