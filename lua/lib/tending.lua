-- Whether it is time again for housekeeping: TTLs that are renewed, and what has expired forgotten. `tended` says the
-- ms of the last time and the lease TTL of then. Once a second is enough, since every key is given at least that much
-- more than it needs; new keys get their TTL with their first write, and all of them a longer one as soon as it is
-- agreed.
local function tending(path, tended)
  local last, ttl = string.match(tended or '', '^(%d+) (%d+)$')
  if not last or tonumber(ttl) < path.ttl then return true end
  last = tonumber(last)
  return last > path.now or path.now - last >= math.min(1000, math.floor(path.ttl / 4))
end
