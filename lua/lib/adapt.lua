-- The limit of strategy "parallelism" now: what was learned, with the steps that were due since.
--
-- A step is due after every interval without a failure. Below the base it goes up by time alone. Above the base it
-- takes evidence from the interval: a clean success, and four fifths of the limit in use at some time. An interval in
-- which nothing ran takes it back to the base. The evidence that was kept is of the interval that began at `at`; of
-- those after it nobody has called.
local function adapt(path, scope, word)
  local learned, adapted = scope.learned, scope.adapted
  if not adapted then
    local low, base, high, throttled, timeout, failed, grow, interval, flags =
      string.match(word, '^(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%l*)$')
    adapted = {low = tonumber(low), base = scope.base or tonumber(base), interval = tonumber(interval),
      grow = tonumber(grow) / 1000, t = throttled / 1000, w = timeout / 1000, e = failed / 1000, flags = flags}
    adapted.high = math.max(tonumber(high), adapted.base)
    adapted.low = math.min(adapted.low, adapted.base)
    local current, at, peak, clean, streak =
      string.match(learned.parallel or '', '^(%S+) (%d+) (%d+) (%d+) (%d+)$')
    current = tonumber(current)
    -- What is no number is not equal to itself.
    if not current or current ~= current then current = adapted.base end
    adapted.current, adapted.at = math.max(math.min(current, adapted.high), adapted.low), tonumber(at) or path.now
    adapted.peak, adapted.clean = tonumber(peak) or 0, tonumber(clean) or 0
    adapted.streak = tonumber(streak) or 0
    scope.base, scope.adapted = adapted.base, adapted
  end
  local due = math.floor((path.now - adapted.at) / adapted.interval)
  if due > 0 then
    local function grown() return adapted.current + math.max(adapted.current * adapted.grow, 1) end
    adapted.at, adapted.moved = path.now - (path.now - adapted.at) % adapted.interval, true
    if adapted.current < adapted.base then
      while due > 0 and adapted.current < adapted.base do
        adapted.current = math.min(grown(), adapted.base)
        due = due - 1
      end
    elseif string.find(adapted.flags, 'p', 1, true) and adapted.clean > 0
      and adapted.peak >= 0.8 * math.floor(adapted.current) then
      adapted.current, due = math.min(grown(), adapted.high), due - 1
    elseif adapted.peak > 0 then
      due = due - 1
    end
    -- In all the intervals that are left nobody has called.
    if due > 0 and scope.use == 0 then adapted.current = math.min(adapted.current, adapted.base) end
    adapted.peak, adapted.clean = scope.use, 0
  end
  return math.max(math.floor(adapted.current), adapted.low)
end
