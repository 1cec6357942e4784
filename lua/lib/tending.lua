-- Whether it is time again for housekeeping: TTLs that are renewed, and what has expired forgotten. `tended` is the ms
-- of the last time. Once a second is enough, since every key is given at least that much more than it needs; new keys
-- get their TTL with their first write.
local function tending(path, tended)
  local last = tonumber(tended) or 0
  return last > path.now or path.now - last >= math.min(1000, math.floor(path.ttl / 4))
end
