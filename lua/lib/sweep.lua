--- @include "lib/entry"
--- @include "lib/load_scopes"
--- @include "lib/lease_ids"
--- @include "lib/drop_lease"
--- @include "lib/uncharge"
-- Take back grants that nobody claimed in time: charges return to their slots, the waiter gets its old place, and
-- its instance is passed over until it calls again (the caller of this script just has).
local function sweep(path)
  local due = redis.call('ZRANGEBYSCORE', path.claims, '-inf', string.format('%.0f', path.now), 'LIMIT', 0, 64)
  for _, id in ipairs(due) do
    path.unclaim[id] = true
    local granted = entry(path, id)
    if granted and granted.state == 'G' then
      load_scopes(path)
      for _, lease in ipairs(lease_ids(id, granted.n)) do
        uncharge(path, granted)
        drop_lease(path, lease, granted, false)
      end
      path.entries[id] = granted
      granted.state = 'W'
      path.enqueue[id], path.dequeue[id] = granted.ticket, nil
      if granted.instance ~= path.instance then
        path.state['mute:' .. granted.instance] = 1
        path.muted[granted.instance] = true
      end
    end
  end
  path.swept = #due > 0
end
