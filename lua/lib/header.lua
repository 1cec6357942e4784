-- The first nine values of every path script's answer. `timer`: see head_timer().
local function header(path, following, timer)
  return {0, path.now, path.epoch, path.generation, path.ttl, path.beat, path.claim_ttl, following, timer}
end
