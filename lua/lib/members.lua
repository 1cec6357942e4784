-- The members of one lease in a leases zset: weight w is w members, so that ZCOUNT is the use.
local function members(id, weight)
  local list = {id}
  for i = 2, weight do list[i] = id .. '+' .. i end
  return list
end
