--- @include "lib/learn"
--- @include "lib/breaker_of"
--- @include "lib/breaker_text"
-- Bring nearer what stops calls until a time of a clock that has since gone back: a pause to the ten minutes that
-- everything dated by that clock holds at most, a breaker to the time that it stays open.
local function redate(path, scope)
  local learned, now = scope.learned, path.now
  if (tonumber(learned.pause) or 0) > now + 600000 then
    learn(scope, 'pause', string.format('%.0f', now + 600000))
    scope.pause = math.max(scope.paused_by_hand, now + 600000)
  end
  for _, name in ipairs({'breaker', 'quota'}) do
    local breaker = breaker_of(learned[name])
    if breaker and breaker.until_ms > now + breaker.open then
      breaker.until_ms = now + breaker.open
      learn(scope, name, breaker_text(breaker))
    end
  end
end
