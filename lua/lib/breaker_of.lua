-- The parts of a breaker's text, "<until> <good> <needed> <open ms> <probe>"; nil where there is none. No probe is '-'.
local function breaker_of(text)
  local until_ms, good, needed, open, probe = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%S+)$')
  if not probe then return nil end
  return {until_ms = tonumber(until_ms), good = tonumber(good), needed = tonumber(needed), open = tonumber(open),
    probe = probe}
end
