--- @include "lib/record"
-- The record of an id, as this script has left it so far.
local function entry(path, id)
  if path.entries[id] == nil then
    path.entries[id] = record(redis.call('HGET', path.records, id)) or false
  end
  return path.entries[id]
end
