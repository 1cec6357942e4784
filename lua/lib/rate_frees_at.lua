--- @include "lib/whole"
-- When a rate will have room for `need` more units, in server ms: the end of the slot that makes it fit.
local function rate_frees_at(scope, rate, need)
  if not rate.slots then
    local fields = {}
    for slot = rate.oldest, math.max(rate.newest, rate.oldest) do
      fields[#fields + 1] = rate.name .. ':' .. slot % 128
    end
    rate.slots = redis.call('HMGET', scope.windows, unpack(fields))
  end
  local excess = rate.total + rate.added + need - rate.limit
  for i = 1, #rate.slots do
    local slot = rate.oldest + i - 1
    if slot >= rate.slot then break end
    excess = excess - (whole(rate.slots[i]) or 0) + (rate.refunds[slot] or 0)
    if excess <= 0 then return (slot + 1) * rate.width + rate.window + rate.guard end
  end
  return (rate.slot + 1) * rate.width + rate.window + rate.guard
end
