--- @include "lib/whole"
-- Read what a provider's usage source says of a scope, where one is watched and its gate is kept up.
--
--     gate     "<until> <strict> <one> <lag> <max age> <patience> <hold> <cooldown> <follow>", ms and 0 or 1
--     usage    "<count> <began> <grants> <unseen> <others> <held> <held until> <foreign> <limit>", see take_usage()
--     grants   all that were granted here since the gate is watched: a snapshot counts from the moment its poll began
--     wanted   since when somebody waits for a poll
--     poller   "<instance> <until>": who polls for all; polling: what was so when its poll began, see begin_poll()
--     recent   grants of the last moments, see recent_grants(); blind: grants for which the provider had said nothing
--     cap      a hard limit of the provider, to show
--
-- What lies ahead of the clock further than it was ever written has been written before the clock went back, or by
-- somebody else: it does not hold.
local function load_gate(path, scope)
  local learned = scope.learned
  local until_ms, strict, one, lag, max_age, patience, hold, cooldown, follow =
    string.match(learned.gate or '', '^(%d+) ([01]) ([01]) (%d+) (%d+) (%d+) (%d+) (%d+) ([01])$')
  until_ms, patience = whole(until_ms) or 0, whole(patience) or 0
  scope.gate = nil
  if until_ms <= path.now or until_ms > path.now + 10 * patience + 10000 then return end
  local gate = {strict = strict == '1', one = one == '1', lag = tonumber(lag), patience = patience,
    hold = tonumber(hold), grants = whole(learned.grants) or 0, wanted = whole(learned.wanted)}
  if gate.wanted and gate.wanted > path.now then gate.wanted = nil end
  local count, began, grants, unseen, others, held, held_until, _, limit = string.match(learned.usage or '',
    '^(%-?%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%-?%d+)$')
  if count and path.now >= tonumber(began) and path.now - began <= tonumber(max_age) then
    gate.count, gate.admitted = tonumber(count), math.max(gate.grants - grants, 0)
    gate.since, gate.others = gate.admitted + unseen, tonumber(others)
    if tonumber(held_until) > path.now then gate.others = math.max(gate.others - held, 0) end
    gate.limit = follow == '1' and tonumber(limit) >= 1 and tonumber(limit) or nil
  end
  scope.gate = gate
  scope.cooldown = scope.cooldown or tonumber(cooldown)
end
