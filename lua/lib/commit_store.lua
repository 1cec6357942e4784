-- Write what has changed in the store's own state; `growing` as in commit().
local function commit_store(path, growing)
  if not growing then redis.call('PEXPIRE', path.store, 4 * path.ttl) end
  local fields = {}
  for name, value in pairs(path.state) do
    fields[#fields + 1] = name
    fields[#fields + 1] = type(value) == 'number' and string.format('%.0f', value) or value
  end
  if #fields > 0 then redis.call('HSET', path.store, unpack(fields)) end
  if path.unmute then redis.call('HDEL', path.store, 'mute:' .. path.instance) end
  if growing or #fields > 0 then redis.call('PEXPIRE', path.store, 4 * path.ttl) end
end
