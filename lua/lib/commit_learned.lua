--- @include "lib/history"
--- @include "lib/announce_limit"
-- Write what a scope has learned, and tell everybody if its limit has changed. It is kept for a week after the last
-- change. `history` is what has happened, the newest 100: "<ms> <letter or cause> <limit before> <after> <what was
-- exceeded>;…"; `responses` the ms that calls took. The scope's state says whether there is anything to look at
-- (`learned` 1): once all has passed, admissions look no more.
local function commit_learned(path, scope)
  local learned = scope.learned
  if not learned then return end
  local adapted, week = scope.adapted, 604800000
  if adapted and adapted.moved then
    learned.parallel = string.format('%.4f %.0f %.0f %.0f %.0f', adapted.current, adapted.at, adapted.peak,
      adapted.clean, adapted.streak)
    learned.changed.parallel = learned.parallel
  end
  if (path.reacted or scope.tend or path.instance == '') and scope.limit and scope.base then
    local shown = tonumber(learned.shown) or scope.base
    if shown ~= scope.limit then
      local reason = scope.lessons and string.match(scope.lessons[#scope.lessons], '^%d+ (%S+)') or 'recovery'
      announce_limit(path, scope.state, shown, scope.limit, reason)
      learned.changed.shown = scope.limit ~= scope.base and string.format('%.0f', scope.limit) or false
    end
  end
  local fields, gone = {}, {}
  for name, value in pairs(learned.changed) do
    if value then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    else
      gone[#gone + 1] = name
    end
  end
  for name, news in pairs({history = scope.lessons, responses = scope.response and {scope.response}}) do
    local entries = {}
    for entry in string.gmatch(history(scope, name), '[^;]+') do
      entries[#entries + 1] = entry
    end
    for _, entry in ipairs(news) do entries[#entries + 1] = entry end
    while #entries > 100 do table.remove(entries, 1) end
    fields[#fields + 1] = name
    fields[#fields + 1] = table.concat(entries, ';')
  end
  if #fields > 0 then redis.call('HSET', scope.learned_key, unpack(fields)) end
  if #gone > 0 then redis.call('HDEL', scope.learned_key, unpack(gone)) end
  if #fields > 0 then redis.call('PEXPIRE', scope.learned_key, week) end
  local function passed(text, lifetime)
    local at = string.match(text or '', ' (%d+)$')
    return not at or path.now - tonumber(at) > lifetime
  end
  local gated_until = tonumber(string.match(learned.gate or '', '^%d+') or 0)
  -- A scope that nobody here knows has no state that could say so.
  local resting = gated_until <= path.now and scope.penalty == 0 and not learned.reduced and not learned.breaker
    and not learned.quota and not learned.failures and scope.paced <= path.now and scope.pause + 1000 <= path.now
    and passed(learned.episodes, 30000) and passed(learned.grown, 600000)
  if not scope.unknown and resting == scope.flagged and (#fields > 0 or #gone > 0 or scope.tend) then
    redis.call('HSET', scope.state, 'learned', resting and '0' or '1')
  end
end
