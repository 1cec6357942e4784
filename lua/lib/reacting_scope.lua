--- @include "lib/strategy_of"
-- The scope that learns from a call of this path: the narrowest one that limits anything or says how it reacts. The
-- total, which is the user's own and no provider's, never does. Where nothing is limited, pauses are the model's.
local function reacting_scope(path)
  for i = 1, #path.scopes - 1 do
    if strategy_of(path.scopes[i]).reacts then return path.scopes[i] end
  end
  return path.scopes[1]
end
