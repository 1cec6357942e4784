--- @include "lib/whole"
-- Give `amount` of a charge made at `at` back to the slot that took it. A slot that has left its window takes nothing
-- back: what it held no longer counts.
local function refund(scope, rate, at, amount)
  local slot = math.floor(at / rate.width)
  if amount <= 0 or slot < rate.first or slot < rate.oldest or slot > rate.newest then return end
  local before = slot == rate.slot and rate.count
    or whole(redis.call('HGET', scope.windows, rate.name .. ':' .. slot % 128)) or 0
  amount = math.min(amount, before - (rate.refunds[slot] or 0), rate.total)
  if amount > 0 then
    rate.refunds[slot] = (rate.refunds[slot] or 0) + amount
    rate.total = rate.total - amount
  end
end
