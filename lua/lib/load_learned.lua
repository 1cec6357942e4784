-- Read what a scope has learned from failures, once. Times are ms of the server's clock.
--
--     cut, stall   when the last failure counted: later ones of calls admitted before it teach nothing
--     penalty      "<level> <at>": it has been decaying since
--     parallel     "<current> <at> <peak> <clean> <streak>": in force since, most in use and clean successes since
--     reduced      "<current> <from> <at>" of the decrement
--     paced        when the next call may be admitted, where calls are spread
--     pause        until when nobody sends
--     episodes     "<count> <at>" of failures without a clean success between; grown: of pauses that grow
--     breaker      "<until> <good> <needed> <open ms> <probe>", quota: the same for an empty account
--     failures     in a row, of a closed breaker
--     shown        the limit that was last announced
--     gate, usage, grants, recent, wanted, blind, poller, polling, cap    of a usage source, see load_gate()
local function load_learned(scope)
  if scope.learned then return scope.learned end
  local names = {'cut', 'stall', 'penalty', 'parallel', 'reduced', 'paced', 'pause', 'episodes', 'grown', 'breaker',
    'quota', 'failures', 'shown', 'gate', 'usage', 'grants', 'recent', 'wanted', 'blind', 'poller', 'polling', 'cap'}
  local values, learned = redis.call('HMGET', scope.learned_key, unpack(names)), {changed = {}}
  for i, name in ipairs(names) do learned[name] = values[i] or nil end
  scope.learned = learned
  scope.paced = tonumber(learned.paced) or 0
  scope.pause = math.max(scope.pause, tonumber(learned.pause) or 0)
  return learned
end
