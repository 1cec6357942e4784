-- flush: reset by hand, for plain redis-cli:
--
--     redis-cli --eval lua/ops/flush.lua , <namespace> [<provider> [<model>]] [--all]
--
-- KEYS  none: keys are found by SCAN, each is compared with the exact prefix, and nothing else is touched
-- ARGV  namespace, provider and model as the program spells them; --all as the last one also removes leases,
--       waiters, agreed limits and what operators have set, and for a whole namespace its instances
-- Returns the number of keys removed
-- Writes deletions only: windows, what was learned from failures, pauses, and our keys that hold a wrong type. The same
--       effect as Client.reset().
-- Cost: O(keys in the database). On Redis Cluster run it on every primary.
local arguments, all = {}, false
for i = 1, #ARGV do
  if ARGV[i] == '--all' then all = true else arguments[#arguments + 1] = ARGV[i] end
end
if #arguments < 1 or #arguments > 3 or arguments[1] == '' then
  return redis.error_reply('usage: flush.lua , <namespace> [<provider> [<model>]] [--all]')
end

-- As core/keys.py spells a name: lower case, and everything outside a-z 0-9 . _ - as %XX. Names with letters beyond
-- ASCII must be given in lower case.
local function encoded(name)
  return (string.gsub(string.lower(name), '[^a-z0-9._-]', function(byte)
    return string.format('%%%02X', string.byte(byte))
  end))
end

local base = 'rl:{' .. encoded(arguments[1]) .. '}:'
local prefixes = {base}
if arguments[2] then
  local scope = encoded(arguments[2])
  if arguments[3] then scope = scope .. ':' .. encoded(arguments[3]) end
  prefixes = {base .. 'm:' .. scope .. ':', base .. 'q:m:' .. scope .. ':', base .. 'q:m:' .. scope .. '~'}
  if not arguments[3] then prefixes[4] = base .. 'p:' .. scope .. ':' end
end
local kinds = {state = 'hash', windows = 'hash', leases = 'zset', index = 'zset', learned = 'hash', records = 'hash',
  graves = 'zset', queue = 'zset', claims = 'zset', store = 'hash', instances = 'zset', paths = 'zset',
  profiles = 'hash', overrides = 'hash', journal = 'list'}

local function ours(key)
  for _, prefix in ipairs(prefixes) do
    if string.sub(key, 1, #prefix) == prefix then return true end
  end
  return false
end

-- Whether a scope is meant that the overrides speak of.
local function is_meant(scope)
  for _, prefix in ipairs(prefixes) do
    if string.sub(base .. scope .. ':', 1, #prefix) == prefix then return true end
  end
  return false
end
local overrides = base .. 'overrides'
if redis.call('TYPE', overrides)['ok'] == 'hash' then
  for _, field in ipairs(redis.call('HKEYS', overrides)) do
    local what, scope = string.match(field, '^(%l+):(.*)$')
    if scope and (all or what == 'pause') and is_meant(scope) then redis.call('HDEL', overrides, field) end
  end
end

local cursor, removed = '0', 0
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', 'rl:*', 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local kind = string.match(key, ':(%l+)$')
    if kind and kinds[kind] and ours(key) then
      if all or kind == 'windows' or kind == 'learned' or redis.call('TYPE', key)['ok'] ~= kinds[kind] then
        removed = removed + redis.call('DEL', key)
      elseif kind == 'state' then
        redis.call('HDEL', key, 'pause')
      end
    end
  end
until cursor == '0'
return removed
