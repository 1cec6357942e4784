--- @include "lib/learn"
--- @include "lib/breaker_text"
-- Open a breaker of a scope: nobody goes for `open` ms, then one at a time until `needed` have succeeded.
local function trip(path, scope, name, open, needed)
  learn(scope, name, breaker_text({until_ms = path.now + open, good = 0, needed = needed, open = open, probe = '-'}))
end
