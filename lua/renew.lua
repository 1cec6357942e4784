-- renew: extend the leases of a live holder, all of one path.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire
--       then four values a lease: id  weight  at (ms of its grant)  costs. Only leases inside their local deadline.
-- Returns header as acquire, then the ids that are lost
-- Writes the new expiry of every lease that has not expired: a late beat never revives one. Where the store's epoch
--       is not the caller's, the store has lost data: its leases are registered again, without charging rates, except
--       those whose release has come meanwhile and left a tombstone. A caller without an epoch was never granted them
--       by a store: it charges what they cost by backdate.
--       First write: one that does not fail at maxmemory.
-- Cost: O(scopes) calls, O(log n) a lease.
--- @include "lib/open_path"
--- @include "lib/members"
--- @include "lib/chunked"
--- @include "lib/commit_store"
--- @include "lib/record_text"
--- @include "lib/header"
local path = open_path()
if path.refusal then return path.refusal end

local ids, held = {}, {}
for at = 10 + #path.specs, #ARGV, 4 do
  ids[#ids + 1] = ARGV[at]
  held[#ids] = {state = 'H', instance = path.instance, n = 1, weight = tonumber(ARGV[at + 1]),
    at = tonumber(ARGV[at + 2]), costs = ARGV[at + 3]}
end
local expiries = redis.call('ZMSCORE', KEYS[11], unpack(ids))
local moved = path.epoch ~= ARGV[3]
local texts = moved and redis.call('HMGET', path.records, unpack(ids)) or {}
local renewed, restored, lost = {}, {}, {}
local expiry = string.format('%.0f', path.now + path.ttl)
for i, id in ipairs(ids) do
  local alive = (tonumber(expiries[i]) or 0) > path.now
  if alive or (moved and texts[i] ~= 'T') then
    for _, member in ipairs(members(id, held[i].weight)) do
      renewed[#renewed + 1] = expiry
      renewed[#renewed + 1] = member
    end
    if not alive then
      -- What it was charged is lost as well: nothing of that can return to what others have been charged since.
      if ARGV[3] ~= '' then held[i].costs = string.gsub(held[i].costs, '%d+', '0') end
      restored[#restored + 1] = id
      restored[#restored + 1] = record_text(held[i])
    end
  else
    lost[#lost + 1] = id
  end
end

commit_store(path, false)
if #renewed > 0 then
  for key = 9, #KEYS, 5 do
    chunked('ZADD', KEYS[key + 2], renewed)
    -- A hold may need it for longer.
    if redis.call('PTTL', KEYS[key + 2]) < 2 * path.ttl then redis.call('PEXPIRE', KEYS[key + 2], 2 * path.ttl) end
    if redis.call('PTTL', KEYS[key]) < 2 * path.ttl then redis.call('PEXPIRE', KEYS[key], 2 * path.ttl) end
  end
  if #restored > 0 then chunked('HSET', path.records, restored) end
  -- What the records speak of lives as long as they do.
  for _, key in ipairs({path.records, path.queue, path.claims}) do redis.call('PEXPIRE', key, 2 * path.ttl) end
  redis.call('PEXPIRE', path.graves, 4 * path.ttl)
end
-- Who looks at what is out finds it, or resets it: as after the acquire that the store has forgotten. Last, since the
-- leases are worth more than the list, should it hold a wrong type.
if #restored > 0 then
  redis.call('ZADD', path.paths, 'NX', string.format('%.0f', path.now), path.name)
  if redis.call('PTTL', path.paths) < 4 * path.ttl then redis.call('PEXPIRE', path.paths, 4 * path.ttl) end
end
local result = header(path, '', 0)
for i = 1, #lost do result[9 + i] = lost[i] end
return result
