-- Read what a provider's usage source says of a scope, where one is watched and its gate is kept up.
--
--     gate     "<until> <strict> <one> <lag> <max age> <patience> <hold> <cooldown> <follow>", ms and 0 or 1
--     usage    "<count> <began> <grants> <ours> <limit>": the provider's count of calls in flight (-1: it said nothing),
--              when its poll began, our grants and our calls by then, and its own limit (-1: not said)
--     grants   all that were granted here since the gate is watched: a snapshot counts from the moment its poll began
--     wanted   since when somebody waits for a poll
--     poller   "<instance> <until>": who polls for all; polling: when its poll began, our grants and our calls by then
--     recent   grants of the last moments, see count_grant(); blind: grants for which the provider had said nothing
--     cap      a hard limit of the provider, to show
local function load_gate(path, scope)
  local learned = scope.learned
  local until_ms, strict, one, lag, max_age, patience, hold, cooldown, follow =
    string.match(learned.gate or '', '^(%d+) ([01]) ([01]) (%d+) (%d+) (%d+) (%d+) (%d+) ([01])$')
  if not until_ms or tonumber(until_ms) <= path.now then return end
  local gate = {strict = strict == '1', one = one == '1', lag = tonumber(lag), patience = tonumber(patience),
    hold = tonumber(hold), grants = tonumber(learned.grants) or 0, wanted = tonumber(learned.wanted)}
  local count, began, grants, ours, limit =
    string.match(learned.usage or '', '^(%-?%d+) (%d+) (%d+) (%d+) (%-?%d+)$')
  if count and path.now - began <= tonumber(max_age) then
    gate.count, gate.since, gate.ours = tonumber(count), math.max(gate.grants - grants, 0), tonumber(ours)
    gate.limit = follow == '1' and tonumber(limit) >= 1 and tonumber(limit) or nil
  end
  scope.gate = gate
  scope.cooldown = scope.cooldown or tonumber(cooldown)
end
