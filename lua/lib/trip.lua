--- @include "lib/learn"
-- Open a breaker of a scope: nobody goes for `open` ms, then one at a time until `needed` have succeeded.
local function trip(path, scope, name, open, needed)
  learn(scope, name, string.format('%.0f 0 %.0f %.0f -', path.now + open, needed, open))
end
