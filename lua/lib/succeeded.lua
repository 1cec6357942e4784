--- @include "lib/learn"
--- @include "lib/breaker_of"
--- @include "lib/breaker_text"
-- Learn that a call has ended well: one that was admitted at `at`, and has this lease id. The probe of a breaker counts
-- for it. Any call shows that the provider serves, so that pauses grow no further; that there is room to grow, only one
-- that began after the last cut.
local function succeeded(path, scope, at, id)
  local learned = scope.learned
  for _, name in ipairs({'breaker', 'quota'}) do
    for _, owner in ipairs(path.scopes) do
      local breaker = breaker_of(owner.learned and owner.learned[name])
      if breaker and breaker.probe == id and id ~= '' then
        breaker.good, breaker.probe = breaker.good + 1, '-'
        learn(owner, name, breaker.good < breaker.needed and breaker_text(breaker) or nil)
        path.reacted = true
      end
    end
  end
  if learned.failures then learn(scope, 'failures', nil) end
  if learned.episodes then learn(scope, 'episodes', nil) end
  local grown, since = string.match(learned.grown or '', '^(%d+) (%d+)$')
  if grown then
    learn(scope, 'grown', tonumber(grown) > 1 and string.format('%.0f %s', grown - 1, since) or nil)
  end
  local adapted = scope.adapted
  if adapted and at > (tonumber(learned.cut) or 0) and (adapted.clean == 0 or adapted.streak > 0) then
    adapted.clean, adapted.streak, adapted.moved = adapted.clean + 1, 0, true
  end
end
