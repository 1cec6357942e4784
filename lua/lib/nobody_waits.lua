-- Whether nobody waits for any scope of the path, and no grant of it is unclaimed: one look instead of many.
local function nobody_waits(path)
  local keys = {path.queue, path.claims}
  for key = 12, #KEYS, 5 do keys[#keys + 1] = KEYS[key] end
  return redis.call('EXISTS', unpack(keys)) == 0
end
