-- grant: give a path what has become free, by time or by another path's release, and tell the caller which of its
-- own waiters hold a grant that it has not claimed yet.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire; ? for the scopes of a path that is not the caller's own
-- Returns header as acquire, then the caller's granted and unclaimed ids of this path
-- Writes grants, returned charges of lapsed ones, the path's place in the index. First write: one that does not
--       fail at maxmemory.
-- Cost: what the hand-off costs; O(grants that nobody has claimed yet).
--- @include "lib/open_path"
--- @include "lib/sweep"
--- @include "lib/advance"
--- @include "lib/commit"
--- @include "lib/next_path"
--- @include "lib/head_timer"
--- @include "lib/announce_timers"
--- @include "lib/header"
local path = open_path()
if path.refusal then return path.refusal end

sweep(path, {})
path.queued, path.hands_on = true, true
advance(path)
local timer = head_timer(path)
commit(path, false)
announce_timers(path)
local result = header(path, next_path(path), timer)
for _, id in ipairs(redis.call('ZRANGE', path.claims, 0, 511)) do
  local granted = entry(path, id)
  if granted and granted.state == 'G' and granted.instance == path.instance then result[#result + 1] = id end
end
return result
