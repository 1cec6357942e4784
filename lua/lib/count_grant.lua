--- @include "lib/learn"
--- @include "lib/recent_grants"
-- Note that a call of this size is about to begin where a usage source is watched: snapshots whose poll began before
-- do not know of it, and neither do those of the next moments.
local function count_grant(path, scope, size)
  local gate, learned = scope.gate, scope.learned
  gate.grants = gate.grants + size
  if gate.since then gate.since, gate.admitted = gate.since + size, gate.admitted + size end
  learn(scope, 'grants', string.format('%.0f', gate.grants))
  local _, kept, now = recent_grants(path, learned.recent, gate.lag)
  local last = kept[#kept]
  if last and last[1] == now then last[2] = last[2] + size else kept[#kept + 1] = {now, size} end
  local words = {}
  for i, slot in ipairs(kept) do words[i] = string.format('%.0f:%.0f', slot[1], slot[2]) end
  learn(scope, 'recent', table.concat(words, ' '))
end
