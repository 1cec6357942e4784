-- Give the charges of one lease back to the slots that took them. A slot that has left its window takes nothing
-- back: what it held no longer counts.
local function uncharge(path, held)
  for _, scope in ipairs(path.scopes) do
    for _, rate in ipairs(scope.rates) do
      local amount, slot = held.charge[rate.unit] or 0, math.floor(held.at / rate.width)
      if amount > 0 and slot >= rate.first and slot >= rate.oldest and slot <= rate.newest then
        local before = slot == rate.slot and rate.count
          or tonumber(redis.call('HGET', scope.windows, rate.name .. ':' .. slot % 128)) or 0
        amount = math.min(amount, before - (rate.refunds[slot] or 0), rate.total)
        if amount > 0 then
          rate.refunds[slot] = (rate.refunds[slot] or 0) + amount
          rate.total = rate.total - amount
        end
      end
    end
  end
end
