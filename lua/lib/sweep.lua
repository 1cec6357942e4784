--- @include "lib/entry"
--- @include "lib/load_scopes"
--- @include "lib/lease_ids"
--- @include "lib/drop_lease"
--- @include "lib/standing"
--- @include "lib/uncharge"
-- Take back grants that nobody claimed in time: charges return to their slots, the waiter gets its old place, and
-- its instance is passed over until it calls again (the caller of this script just has).
--
-- `asked`: ids of this call. What has lapsed of them is taken back even where the claims that are due are too many
-- for one call, or have expired themselves: its slot counts no more and may be somebody else's.
local function sweep(path, asked)
  local due = path.nobody_waits and {}
    or redis.call('ZRANGEBYSCORE', path.claims, '-inf', string.format('%.0f', path.now), 'LIMIT', 0, 64)
  local taken = {}
  for _, id in ipairs(due) do taken[id] = true end
  for _, id in ipairs(asked) do
    local kept = path.entries[id]
    if kept and kept.state == 'G' and not taken[id]
      and tonumber(redis.call('ZSCORE', KEYS[11], id) or 0) <= path.now then
      due[#due + 1], taken[id] = id, true
    end
  end
  if path.rewound then
    local far = redis.call('ZRANGEBYSCORE', path.claims, '(' .. string.format('%.0f', path.now + 600000), '+inf',
      'LIMIT', 0, 64)
    for _, id in ipairs(far) do path.claim[id] = path.now + path.claim_ttl end
  end
  if #due == 0 then return end
  load_scopes(path)
  -- Without the limits nobody can tell what was charged: a caller that knows them takes it back.
  if path.unknown then return end
  path.swept = true
  for _, id in ipairs(due) do
    path.unclaim[id] = true
    local granted = entry(path, id)
    if granted and granted.state == 'G' then
      -- It counts no more, except where the server's clock went back and only the claim was dated anew.
      local counted = tonumber(redis.call('ZSCORE', KEYS[11], id) or 0) > path.now
      for _, lease in ipairs(lease_ids(id, granted.n)) do
        uncharge(path, granted)
        drop_lease(path, lease, granted, counted)
      end
      path.entries[id] = granted
      granted.state = 'W'
      path.enqueue[id], path.dequeue[id] = granted.ticket, nil
      path.bury[id] = path.now + 4 * path.ttl
      if granted.instance ~= path.instance and standing(path, granted.instance) == 'alive' then
        path.state['mute:' .. granted.instance] = 1
        path.alive[granted.instance] = 'muted'
      end
    end
  end
end
