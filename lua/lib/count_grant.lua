--- @include "lib/usage_block"
--- @include "lib/learn"
-- Note a grant where a usage source is watched: snapshots that began before it do not know of it. `recent` keeps the
-- grants of the last moments, "<slot>:<count> …", by quarters of the provider's lag: it does not count those yet.
local function count_grant(path, scope, size, queued)
  local gate, learned = scope.gate, scope.learned
  local _, blind = usage_block(path, scope, size, queued)
  if blind then learn(scope, 'blind', string.format('%.0f', (tonumber(learned.blind) or 0) + size)) end
  gate.grants = gate.grants + size
  if gate.since then gate.since = gate.since + size end
  learn(scope, 'grants', string.format('%.0f', gate.grants))
  local width = math.max(math.floor(gate.lag / 4), 25)
  local now, kept, counted = math.floor(path.now / width), {}, false
  for slot, count in string.gmatch(learned.recent or '', '(%d+):(%d+)') do
    slot, count = tonumber(slot), tonumber(count)
    if slot == now then count, counted = count + size, true end
    if now - slot <= 4 then kept[#kept + 1] = string.format('%.0f:%.0f', slot, count) end
  end
  if not counted then kept[#kept + 1] = string.format('%.0f:%.0f', now, size) end
  learn(scope, 'recent', table.concat(kept, ' '))
end
