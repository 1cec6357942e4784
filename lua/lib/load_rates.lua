--- @include "lib/whole"
-- Read the windows of one scope: what each rate has used, and where the next charge goes.
--
-- Theory of operation. A window of W ms is cut into slots of ceil(W / 60) ms. A charge goes to the slot of its
-- millisecond; a slot counts whole until W + guard after its last millisecond, so no true window ever holds more
-- than the limit, and a charge counts for at most W + one slot + guard. Calls reach the provider after they are
-- granted: the guard covers that delay. Per rate the windows hash keeps
--     <rate>:n    sum over the slots      <rate>:old, <rate>:new   oldest and newest slot number in it
--     <rate>:<i>  count of the slot whose number is i modulo 128  (68 slots at most are alive at once)
-- The limits may bear a headroom word: h700 admits 700 of each 1000.
-- Slots that have left the window are taken off the sum here and deleted by commit(), each once: O(1) amortised.
--
-- Numbers that are none of ours count as absent: they must neither void a limit nor make a loop long.
local function load_rates(scope, spec, now)
  local fields = {}
  local share = whole(string.match(spec, 'h(%d+)')) or 1000
  for name, unit, limit, guard in string.gmatch(spec, '((%l)[1-9]%d*)=(%d+)%+(%d+)') do
    local window = whole(string.sub(name, 2))
    limit, guard = whole(limit), whole(guard)
    if window and limit and guard then
      local rate = {
        name = name, unit = unit, window = window, limit = math.max(math.floor(limit * share / 1000), 1),
        guard = math.min(guard, math.floor(window / 10)), width = math.floor((window + 59) / 60), added = 0,
        refunds = {}, dead = {},
      }
      rate.slot = math.floor(now / rate.width)
      scope.rates[#scope.rates + 1] = rate
      scope.longest = math.max(scope.longest, rate.window + rate.guard + rate.width)
      local at = #fields
      fields[at + 1] = rate.name .. ':n'
      fields[at + 2] = rate.name .. ':old'
      fields[at + 3] = rate.name .. ':new'
      fields[at + 4] = rate.name .. ':' .. rate.slot % 128
    end
  end
  if #fields == 0 then return end
  local values = redis.call('HMGET', scope.windows, unpack(fields))
  for i, rate in ipairs(scope.rates) do
    local oldest = values[4 * i - 2]
    rate.total = whole(values[4 * i - 3]) or 0
    rate.newest = whole(values[4 * i - 1]) or rate.slot
    rate.oldest = oldest and (whole(oldest) or 0) or rate.newest
    scope.counted = scope.counted or values[4 * i - 1]
    rate.count = rate.newest == rate.slot and whole(values[4 * i]) or 0
    -- Whichever slots may hold something: what has left the window goes off the sum.
    if rate.oldest > rate.newest or rate.newest - rate.oldest > 127 then rate.oldest = rate.newest - 127 end
    if rate.newest > rate.slot and rate.newest - rate.slot <= 60 then
      -- The server's clock went back, by less than the window: the rate stands still until the clock is there again.
      rate.slot = rate.newest
      rate.count = whole(redis.call('HGET', scope.windows, rate.name .. ':' .. rate.slot % 128)) or 0
    elseif rate.newest > rate.slot then
      -- By more: what is counted stays counted, as if it were charged now.
      for slot = rate.oldest, rate.newest do rate.dead[#rate.dead + 1] = rate.name .. ':' .. slot % 128 end
      rate.oldest, rate.newest, rate.count = rate.slot, rate.slot, rate.total
      rate.moved = true
    end
    rate.first = math.floor((math.max(now, rate.slot * rate.width) - rate.window - rate.guard) / rate.width)
    if rate.oldest < rate.first then
      local last = math.min(rate.first - 1, rate.newest)
      for slot = rate.oldest, last do rate.dead[#rate.dead + 1] = rate.name .. ':' .. slot % 128 end
      if last == rate.newest then
        rate.total, rate.oldest = 0, rate.slot
      else
        local gone = redis.call('HMGET', scope.windows, unpack(rate.dead))
        for _, count in ipairs(gone) do rate.total = rate.total - (whole(count) or 0) end
        rate.total, rate.oldest = math.max(rate.total, 0), rate.first
      end
    end
  end
end
