--- @include "lib/record"
-- Forget expired leases: a holder that died, or lost touch for longer than the TTL. Nothing counts them any more;
-- this frees their memory. A grant that lapsed keeps its record until sweep() has returned its charges. So are
-- tombstones forgotten, and waiters that nobody has repeated for long: the graves say when.
local function purge(path)
  local now = string.format('%.0f', path.now)
  local expired = redis.call('ZRANGEBYSCORE', KEYS[11], '-inf', now, 'LIMIT', 0, 128)
  if #expired > 0 then
    redis.call('ZREM', KEYS[11], unpack(expired))
    local texts, forget = redis.call('HMGET', path.records, unpack(expired)), {}
    for i, id in ipairs(expired) do
      local kept = record(texts[i])
      if kept and kept.state == 'H' then forget[#forget + 1] = id end
    end
    if #forget > 0 then redis.call('HDEL', path.records, unpack(forget)) end
  end
  for key = 16, #KEYS, 5 do redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', now) end
  local buried = redis.call('ZRANGEBYSCORE', path.graves, '-inf', now, 'LIMIT', 0, 128)
  if #buried > 0 then
    redis.call('ZREM', path.graves, unpack(buried))
    local texts, forget = redis.call('HMGET', path.records, unpack(buried)), {}
    for i, id in ipairs(buried) do
      local kept = record(texts[i])
      if kept and (kept.state == 'T' or kept.state == 'W') then forget[#forget + 1] = id end
    end
    if #forget > 0 then redis.call('HDEL', path.records, unpack(forget)) end
  end
end
