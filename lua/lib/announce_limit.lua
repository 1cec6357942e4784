--- @include "lib/scope_name"
-- Tell every instance that the limit of a scope has changed, and why.
local function announce_limit(path, state, before, after, why)
  redis.call('PUBLISH', path.inbox .. 'everyone',
    string.format('%s %.0f %.0f %s', scope_name(state), before, after, why))
end
