--- @include "lib/deliver"
--- @include "lib/rises_at"
--- @include "lib/first_expiry"
--- @include "lib/before_poll"
-- When the head of the queue is worth another try with nobody calling: its block's time, or for a full concurrency
-- limit the nearest lease expiry, of those in the store and of those that this call leaves behind, or the moment at
-- which a reduced limit rises. The head's process keeps the one timer for it: returned here if that is the caller, sent
-- if it is another and the head is new, or its limits are: an operator calls, a failure was told, a slot cools. 0: no
-- timer of the caller's.
--
-- Where nobody waits any more, nobody would find that a grant to another process is not claimed: whoever has handed it
-- on looks after it, at the end of the claim.
local function head_timer(path)
  local head = path.head
  if not head then
    for id, deadline in pairs(path.claim) do
      local granted = path.entries[id]
      if granted and granted.instance ~= path.instance then return deadline end
    end
  end
  if not head or not head.block then return 0 end
  local ours = head.waiter.instance == path.instance
  local news = path.swept or next(path.dequeue) or path.instance == '' or path.reacted or path.lingers
  if not ours and not news and not path.hands_on then return 0 end
  local at = head.block.at
  if head.block.dimension == 'c' then
    local scope = path.scopes[head.block.scope + 1]
    at = math.huge
    local function sooner(ms)
      if ms > 0 and ms < at then at = ms end
    end
    sooner(rises_at(path, scope))
    -- Whom the limit itself excludes gets nothing from a lease that ends.
    if not head.place then
      sooner(first_expiry(path, scope))
      -- Slots that cool or are held from now on, and grants to be claimed, are not written yet.
      local held = scope.held or {}
      for member, expiry in pairs(path.added) do sooner(held[member] or expiry) end
      for _, expiry in pairs(held) do sooner(expiry) end
    end
    if at == math.huge then at = path.now + path.claim_ttl end
  end
  if at == 0 then return 0 end
  if ours then return at end
  -- It may be first again, since a limit no longer passes it over, and the timer that has found that another's. What
  -- comes later than its next poll its process finds by itself.
  if not news and not before_poll(path, at) then return 0 end
  deliver(path, head.waiter.instance, '@' .. string.format('%.0f', at))
  return 0
end
