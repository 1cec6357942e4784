-- beat: keep an instance listed and alive, or take it off the list.
--
-- KEYS  1 store  2 instances  3 paths  as acquire
--       4     profiles   hash   instance -> what it says of itself (msgpack, never read here)
-- ARGV  1..7 as acquire, 8 and 9 empty, 10 stay or leave, 11 profile
-- Returns header as acquire
-- Writes its place in the list, and forgets the instances whose time is over. First write: one that does not fail
--       at maxmemory.
-- Cost: O(log instances), amortised.
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
-- Paths that nobody has used for two days leave the list.
redis.call('ZREMRANGEBYSCORE', path.paths, '-inf', string.format('%.0f', path.now - 172800000))
if redis.call('PTTL', path.paths) < 4 * path.ttl then redis.call('PEXPIRE', path.paths, 4 * path.ttl) end
return header(path, '', 0)
