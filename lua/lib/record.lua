-- Parse what the records hash keeps of one id; nil where there is nothing or only rubbish.
--
--   H held      the lease is out            instance at n weight costs
--   W waiting   parked in the queue         instance at n weight costs ticket deadline
--   G granted   handed over, not claimed    instance at n weight costs ticket deadline
--   T tombstone never to be granted
--
-- `at` is the ms of the charge (W: of parking), `costs` what one lease charges ("r1t1200": one letter a unit),
-- `deadline` the ms at which a waiter gives up, 0 for never. n > 1: a group that is granted together.
local function record(text)
  if not text then return nil end
  local state, instance, at, n, weight, costs, ticket, deadline =
    string.match(text, '^(%u) ?(%S*) ?(%d*) ?(%d*) ?(%d*) ?(%S*) ?(%d*) ?(%d*)$')
  if state == 'T' then return {state = 'T'} end
  if not state or at == '' or n == '' or weight == '' or costs == '' then return nil end
  local charge = {}
  for unit, amount in string.gmatch(costs, '(%l)(%d+)') do charge[unit] = tonumber(amount) end
  return {
    state = state, instance = instance, at = tonumber(at), n = tonumber(n), weight = tonumber(weight),
    costs = costs, charge = charge, ticket = tonumber(ticket), deadline = tonumber(deadline),
  }
end
