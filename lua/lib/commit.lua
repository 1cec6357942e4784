--- @include "lib/commit_scope"
--- @include "lib/place_in_index"
--- @include "lib/commit_store"
--- @include "lib/housekeep"
--- @include "lib/record_text"
--- @include "lib/want_poll"
-- Write all that this script has decided, and send what it has to tell.
--
-- Whether Redis refuses a script when memory is full depends on its first write. `growing`: this call admits new
-- ids and must fail clean, so it begins with a write that grows. Otherwise it begins with one that does not, and
-- then renewal, release and claims go through at maxmemory.
local function commit(path, growing)
  -- Only read or written from here on, where an id is buried or housekeeping is due: a wrong type in it has to end the
  -- call before its first write. Whoever admits has looked.
  if not growing and (path.tend or next(path.bury)) then redis.call('ZCARD', path.graves) end
  want_poll(path)
  if not growing then redis.call('PEXPIRE', path.store, 4 * path.ttl) end
  local texts, gone = {}, {}
  for id in pairs(path.dirty) do
    local kept = path.entries[id]
    if kept then
      texts[#texts + 1] = id
      texts[#texts + 1] = record_text(kept)
    else
      gone[#gone + 1] = id
    end
  end
  if #texts > 0 then
    chunked('HSET', path.records, texts)
  end
  if path.tend or #texts > 0 and not path.recorded then
    redis.call('PEXPIRE', path.records, 2 * path.ttl)
    redis.call('PEXPIRE', path.graves, 4 * path.ttl)
  end
  if #gone > 0 then chunked('HDEL', path.records, gone) end

  local added, dropped = {}, {}
  for member, expiry in pairs(path.added) do
    added[#added + 1] = string.format('%.0f', expiry)
    added[#added + 1] = member
  end
  for member in pairs(path.dropped) do dropped[#dropped + 1] = member end
  for _, scope in ipairs(path.scopes) do commit_scope(path, scope, added, dropped) end
  if not path.scopes[1] and #dropped > 0 then
    for key = 11, #KEYS, 5 do chunked('ZREM', KEYS[key], dropped) end
  end

  local queue_changed = false
  for key, change in pairs({[path.queue] = path.enqueue, [path.claims] = path.claim, [path.graves] = path.bury}) do
    local scores = {}
    for id, score in pairs(change) do
      scores[#scores + 1] = string.format('%.0f', score)
      scores[#scores + 1] = id
    end
    if #scores > 0 then
      chunked('ZADD', key, scores)
      redis.call('PEXPIRE', key, 4 * path.ttl)
      queue_changed = queue_changed or key == path.queue
    end
  end
  for key, change in pairs({[path.queue] = path.dequeue, [path.claims] = path.unclaim}) do
    local ids = {}
    for id in pairs(change) do ids[#ids + 1] = id end
    if #ids > 0 then
      chunked('ZREM', key, ids)
      queue_changed = queue_changed or key == path.queue
    end
  end
  if queue_changed or path.queued then place_in_index(path) end

  commit_store(path, true)
  if path.tend or path.listed or next(path.bury) then housekeep(path) end
  for instance, letters in pairs(path.mail) do
    redis.call('PUBLISH', path.inbox .. instance, path.name .. ' ' .. table.concat(letters, ' '))
  end
end
