-- The inverse of breaker_of().
local function breaker_text(breaker)
  return string.format('%.0f %.0f %.0f %.0f %s', breaker.until_ms, breaker.good, breaker.needed, breaker.open,
    breaker.probe)
end
