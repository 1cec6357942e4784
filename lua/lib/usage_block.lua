-- What the provider's own count of calls in flight says to a request: nil where it may go, else a block.
--
-- Who has waited, and everybody under a strict gate, goes only by a snapshot: while its count and all our grants that
-- it cannot know of stay below the limit ("one": one grant a poll). Without a fresh one a poll is wanted; where none
-- comes in time, or the provider says nothing, the request goes blind. Who has not waited only leaves room for what is
-- not ours: calls that the provider counted beyond those that we surely had when the poll began.
--
-- The second value: whether a request that may go does so blind.
local function usage_block(path, scope, size, queued)
  local gate = scope.gate
  if not gate or not scope.limit then return nil, false end
  local block = {scope = scope.number, dimension = 'usage', used = 0, limit = scope.limit,
    at = (gate.wanted or path.now) + gate.patience}
  local gated = queued or gate.strict
  if not gate.count then
    if gated and block.at > path.now then return block, true end
    return nil, gated
  end
  if gate.count < 0 then return nil, gated end
  block.used, block.at = gated and gate.count + gate.since or scope.use + gate.others, path.now + gate.patience
  if block.used + size > scope.limit or gated and gate.one and gate.admitted > 0 then return block, false end
  return nil, false
end
