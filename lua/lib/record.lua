--- @include "lib/whole"
-- Parse what the records hash keeps of one id; nil where there is nothing or only rubbish.
--
--   H held      the lease is out            instance at n weight costs
--   W waiting   parked in the queue         instance at n weight costs ticket deadline
--   G granted   handed over, not claimed    instance at n weight costs ticket deadline
--   T tombstone never to be granted
--
-- `at` is the ms of the charge (W: of parking), `costs` what one lease charges ("r1t1200": one letter a unit),
-- `deadline` the ms at which a waiter gives up, 0 for never. n > 1: a group that is granted together. No request stands
-- for more than 4096 slots.
local function record(text)
  if not text then return nil end
  local state, instance, at, n, weight, costs, ticket, deadline =
    string.match(text, '^(%u) ?(%S*) ?(%d*) ?(%d*) ?(%d*) ?(%S*) ?(%d*) ?(%d*)$')
  if state == 'T' then return {state = 'T'} end
  at, n, weight, ticket, deadline = whole(at), whole(n), whole(weight), whole(ticket), whole(deadline)
  if not (at and n and weight) or costs == '' or n * weight < 1 or n * weight > 4096 then return nil end
  if state ~= 'H' and not (ticket and deadline) then return nil end
  local charge = {}
  for unit, amount in string.gmatch(costs, '(%l)(%d+)') do charge[unit] = tonumber(amount) end
  return {
    state = state, instance = instance, at = at, n = n, weight = weight, costs = costs, charge = charge,
    ticket = ticket, deadline = deadline,
  }
end
