-- reset: clear the windows and pauses of scopes, what they have learned from failures, and keys of a wrong type.
-- Leases, waiters, instances and what operators have set stay unless told all.
--
-- KEYS  as acquire, then the profiles of beat and the journal of configure
-- ARGV  1..9 and limits of each scope as acquire, then all (1: leases, waiters and agreed limits too), then 1 or 0
--       for the namespace and for each scope: whether it is meant
-- Returns header as acquire, then the number of keys removed
-- Writes deletions only, in the scopes that are meant; path and model keys belong to the model's scope. Of the
--       namespace's own keys, which every script reads, this one too, it removes wrong types before all else.
-- Cost: O(size of what is removed).
--- @include "lib/open_path"
--- @include "lib/header"
--- @include "lib/scope_name"
--- @include "lib/announce_limit"
local first = 10 + math.floor((#KEYS - 8) / 5)
local all, removed = ARGV[first] == '1', 0
local function clear(key, kind, whole)
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and (whole or found ~= kind) then removed = removed + redis.call('DEL', key) end
end
if ARGV[first + 1] == '1' then
  clear(KEYS[1], 'hash', false)
  clear(KEYS[2], 'zset', false)
  clear(KEYS[3], 'zset', false)
  clear(KEYS[8], 'hash', all)
  clear(KEYS[#KEYS - 1], 'hash', false)
  clear(KEYS[#KEYS], 'list', false)
end
local path = open_path()
if path.refusal then return path.refusal end

for i = 1, #path.specs do
  if ARGV[first + 1 + i] == '1' then
    if i == 1 then
      clear(path.queue, 'zset', all)
      clear(path.claims, 'zset', all)
      clear(path.records, 'hash', all)
      clear(path.graves, 'zset', all)
    end
    local key = 4 + 5 * i
    clear(KEYS[key], 'hash', all)
    clear(KEYS[key + 1], 'hash', true)
    clear(KEYS[key + 2], 'zset', all)
    clear(KEYS[key + 3], 'zset', all)
    local name = scope_name(KEYS[key])
    local shown = redis.call('TYPE', KEYS[key + 4])['ok'] == 'hash' and redis.call('HGET', KEYS[key + 4], 'shown')
    local limit = shown and string.match(redis.call('HGET', KEYS[key], 'in_force') or '', '^c(%d+)')
    shown = tonumber(shown)
    if shown and limit then announce_limit(path, KEYS[key], shown, tonumber(limit), 'reset') end
    clear(KEYS[key + 4], 'hash', true)
    redis.call('HDEL', KEYS[key], 'pause')
    redis.call('HDEL', path.overrides, 'pause:' .. name)
    if all then redis.call('HDEL', path.overrides, 'limits:' .. name) end
  end
end
local result = header(path, path.name, 0)
result[10] = removed
return result
