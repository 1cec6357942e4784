-- backdate: charge rates for what an instance has admitted by itself while the store was away.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire
--       then an id of this list of charges, and two values a charge: its age in ms  costs
-- Returns header as acquire
-- Writes each charge into the slot of its moment, unless its window is over; more than a limit is debt, which later
--       admissions wait for. The id leaves a tombstone: the same list again charges nothing.
--       First write: one that does not fail at maxmemory.
-- Cost: O(scopes + rates) a charge.
--- @include "lib/open_path"
--- @include "lib/load_scopes"
--- @include "lib/chunked"
--- @include "lib/commit"
--- @include "lib/header"
local path = open_path()
if path.refusal then return path.refusal end

local first = 10 + #path.specs
local id = ARGV[first]
if redis.call('HGET', path.records, id) == 'T' then return header(path, '', 0) end
load_scopes(path)

-- Slots that have left their window go first: another slot, 128 later, uses the same field.
for _, scope in ipairs(path.scopes) do
  for _, rate in ipairs(scope.rates) do
    if #rate.dead > 0 then
      chunked('HDEL', scope.windows, rate.dead)
      -- Its sum is without them, and must be written whether or not anything is charged to it.
      rate.dead, rate.trimmed = {}, true
    end
  end
end

-- A slot behind the newest one takes a charge as a refund of less than nothing.
local function charge_at(rate, at, amount)
  local slot = math.floor(at / rate.width)
  if slot < rate.first or amount == 0 then return end
  if slot >= rate.slot then
    rate.added = rate.added + amount
    return
  end
  if rate.total == 0 and rate.added == 0 then rate.oldest, rate.newest = slot, slot end
  rate.oldest, rate.newest = math.min(rate.oldest, slot), math.max(rate.newest, slot)
  rate.refunds[slot] = (rate.refunds[slot] or 0) - amount
  rate.total = rate.total + amount
end

for at = first + 1, #ARGV, 2 do
  local moment = path.now - tonumber(ARGV[at])
  for unit, amount in string.gmatch(ARGV[at + 1], '(%l)(%d+)') do
    for _, scope in ipairs(path.scopes) do
      for _, rate in ipairs(scope.rates) do
        if rate.unit == unit then charge_at(rate, moment, tonumber(amount)) end
      end
    end
  end
end
path.entries[id], path.dirty[id] = {state = 'T'}, true
path.bury[id] = path.now + path.ttl
commit(path, false)
return header(path, '', 0)
