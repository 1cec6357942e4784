-- How the instance of a waiter stands: 'alive', 'muted' (let a grant lapse, and has not called since) or 'dead'.
local function standing(path, instance)
  if instance == path.instance then return 'alive' end
  if path.alive[instance] == nil then
    local until_ms = tonumber(redis.call('ZSCORE', path.instances, instance) or 0)
    if until_ms <= path.now then
      path.alive[instance] = 'dead'
    elseif redis.call('HGET', path.store, 'mute:' .. instance) then
      path.alive[instance] = 'muted'
    else
      path.alive[instance] = 'alive'
    end
  end
  return path.alive[instance]
end
