--- @include "lib/count_grant"
-- Note a grant that is claimed: its call begins only now. Where that is not at once, a snapshot taken meanwhile does
-- not know of it, so it counts as granted once more.
local function count_claim(path, kept)
  for _, scope in ipairs(path.scopes) do
    if scope.gate then
      local _, _, now, width = recent_grants(path, nil, scope.gate.lag)
      if math.floor(kept.at / width) ~= now then count_grant(path, scope, kept.n * kept.weight) end
    end
  end
end
