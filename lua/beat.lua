-- beat: keep an instance listed and alive, or take it off the list.
--
-- KEYS  1 store  2 instances  3 paths  as acquire
--       4     profiles   hash   instance -> what it says of itself (msgpack, never read here)
-- ARGV  1..7 as acquire, 8 and 9 empty, 10 stay or leave, 11 profile
-- Returns header as acquire, then how many instances are alive, and this one's place among their ids, from 0
-- Writes its place in the list, and forgets the instances whose time is over. First write: one that does not fail
--       at maxmemory.
-- Cost: O(instances).
--- @include "lib/open_path"
--- @include "lib/commit_store"
--- @include "lib/header"
local path = open_path()
if path.refusal then return path.refusal end
local profiles = KEYS[4]

local function forget(instance)
  redis.call('ZREM', path.instances, instance)
  redis.call('HDEL', profiles, instance)
  redis.call('HDEL', path.store, 'generation:' .. instance, 'mute:' .. instance)
end

redis.call('PEXPIRE', path.store, 4 * path.ttl)
-- If every instance has been silent for some heartbeats, this one too, then it was the store that was away. They may
-- hold what it knows nothing of: they get one heartbeat to say so before anything new is granted, as after a loss of
-- data. Asked here, not told by them: what was sent during the outage may be carried out all at once at its end.
local silence = math.max(2 * path.beat, math.min(3 * path.beat, path.ttl - path.beat))
local late = path.now + path.ttl - silence
local own = tonumber(redis.call('ZSCORE', path.instances, path.instance) or '')
if own and own <= late and path.now > path.quiet + path.ttl then
  local all = redis.call('ZCARD', path.instances)
  if all > 1 and redis.call('ZCOUNT', path.instances, '-inf', string.format('%.0f', late)) == all then
    path.quiet = path.now + path.beat
    path.state.quiet = path.quiet
  end
end
local gone = redis.call('ZRANGEBYSCORE', path.instances, '-inf', string.format('%.0f', path.now), 'LIMIT', 0, 64)
for _, instance in ipairs(gone) do
  if instance ~= path.instance then forget(instance) end
end
if ARGV[10] == 'leave' then
  forget(path.instance)
else
  -- Never behind the clock, so that the clock's going back is noticed, see open_path().
  path.state.sequence = math.max(path.sequence, path.now)
  commit_store(path, false)
  redis.call('ZADD', path.instances, string.format('%.0f', path.now + path.ttl), path.instance)
  redis.call('HSET', profiles, path.instance, ARGV[11])
end
for _, key in ipairs({path.store, path.instances, profiles}) do redis.call('PEXPIRE', key, 4 * path.ttl) end
-- Paths leave the list a week after their windows are over, see list_path(): so long what was learned may hold.
redis.call('ZREMRANGEBYSCORE', path.paths, '-inf', string.format('%.0f', path.now - 604800000))
if redis.call('PTTL', path.paths) < 4 * path.ttl then redis.call('PEXPIRE', path.paths, 4 * path.ttl) end
local result = header(path, '', 0)
local alive = redis.call('ZRANGEBYSCORE', path.instances, '(' .. string.format('%.0f', path.now), '+inf')
local rank = 0
for _, instance in ipairs(alive) do
  if instance < path.instance then rank = rank + 1 end
end
result[10], result[11] = #alive, rank
return result
