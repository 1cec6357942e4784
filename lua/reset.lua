-- reset: clear the windows of scopes, and keys of a wrong type. Leases, waiters and instances stay unless told all.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire, then all (1: leases, waiters and agreed limits too), then 1 or 0
--       for each scope: whether it is meant
-- Returns header as acquire, then the number of keys removed
-- Writes deletions only, in the scopes that are meant; path and model keys belong to the model's scope.
-- Cost: O(size of what is removed).
--- @include "lib/open_path"
--- @include "lib/header"
local path = open_path()
if path.refusal then return path.refusal end

local first = 10 + #path.specs
local all, removed = ARGV[first] == '1', 0
local function clear(key, kind, whole)
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and (whole or found ~= kind) then removed = removed + redis.call('DEL', key) end
end
for i = 1, #path.specs do
  if ARGV[first + i] == '1' then
    if i == 1 then
      clear(path.queue, 'zset', all)
      clear(path.claims, 'zset', all)
      clear(path.records, 'hash', all)
      clear(path.graves, 'zset', all)
    end
    local key = 4 + 4 * i
    clear(KEYS[key], 'hash', all)
    clear(KEYS[key + 1], 'hash', true)
    clear(KEYS[key + 2], 'zset', all)
    clear(KEYS[key + 3], 'zset', all)
  end
end
local result = header(path, path.name, 0)
result[10] = removed
return result
