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
--     resumed      when an operator said that the account is in order: calls admitted before say nothing of it any more
--     failures     in a row, of a closed breaker
--     shown        the limit that was last announced
--     gate, usage, grants, recent, wanted, blind, poller, polling, cap    of a usage source, see load_gate()
--
-- What is not spelt so, or names a time that lies further ahead than it can, counts as never learned: the store is not
-- trusted, and its clock may have gone back.
local function load_learned(scope, now)
  if scope.learned then return scope.learned end
  -- How each is spelt, with its time in brackets, and how far ahead of now that may lie.
  local few, minutes, day = '%d%d?%d?%d?%d?%d?%d?', 600000, 86400000
  local counted = '^' .. few .. ' (%d+)$'
  local breaker = '^(%d+) ' .. few .. ' ' .. few .. ' %d+ %S+$'
  local fields = {
    {'cut', '^(%d+)$', 5000}, {'stall', '^(%d+)$', 5000}, {'resumed', '^(%d+)$', 5000},
    {'pause', '^(%d+)$', day}, {'paced', '^(%d+)$', 7 * day},
    {'penalty', '^%S+ (%d+)$', minutes}, {'reduced', '^' .. few .. ' ' .. few .. ' (%d+)$', minutes},
    {'parallel', '^%S+ (%d+) ' .. few .. ' ' .. few .. ' ' .. few .. '$', minutes},
    {'episodes', counted, 2 * day}, {'grown', counted, 2 * day},
    {'breaker', breaker, 7 * day}, {'quota', breaker, 7 * day},
    {'failures', '^(' .. few .. ')$', 0}, {'shown', '^(' .. few .. ')$', 0},
  }
  local watched = {'gate', 'usage', 'grants', 'recent', 'wanted', 'blind', 'poller', 'polling', 'cap'}
  local names, learned = {}, {changed = {}}
  for i, field in ipairs(fields) do names[i] = field[1] end
  for _, name in ipairs(watched) do names[#names + 1] = name end
  local values = redis.call('HMGET', scope.learned_key, unpack(names))
  for i, name in ipairs(watched) do
    local text = values[#fields + i]
    if text and #text <= 200 then learned[name] = text end
  end
  for i, field in ipairs(fields) do
    local text = values[i]
    local at = text and #text <= 200 and tonumber(string.match(text, field[2]))
    if at and at <= now + field[3] then learned[field[1]] = text end
  end
  scope.learned = learned
  scope.paced = tonumber(learned.paced) or 0
  scope.pause = math.max(scope.pause, tonumber(learned.pause) or 0)
  return learned
end
