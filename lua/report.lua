-- report: let the fleet learn how a call went that had no lease, or a failure that no answer shows.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire, then id of the report  lesson, see lib/react
-- Returns header as acquire, then 1, or 0 where this report has come before; {2, causes} where a cause is not known
-- Writes what the scope learns from it, and the path into the list of those in use; the call counts as admitted 5 s
--       before. Its id is kept for four lease TTLs, so that the same report again changes nothing. First write: one
--       that does not fail at maxmemory.
-- Cost: O(scopes + rates); where somebody waits also what the hand-off costs.
--- @include "lib/open_path"
--- @include "lib/nobody_waits"
--- @include "lib/load_scopes"
--- @include "lib/reacting_scope"
--- @include "lib/react"
--- @include "lib/advance"
--- @include "lib/commit"
--- @include "lib/housekeep"
--- @include "lib/next_path"
--- @include "lib/head_timer"
--- @include "lib/announce_timers"
--- @include "lib/header"
--- @include "lib/list_path"
local path = open_path()
if path.refusal then return path.refusal end

local first = 10 + #path.specs
local mark, lesson = 'report:' .. ARGV[first], ARGV[first + 1]
path.nobody_waits = nobody_waits(path)
load_scopes(path)
local cause = string.match(lesson, '^!([%l_]*)')
local known = strategy_of(reacting_scope(path)).P or ''
if cause and ('!' .. cause ~= lesson or not string.find(known, ',' .. cause .. '=', 1, true)) then return {2, known} end
local again = redis.call('ZSCORE', path.graves, mark)
local timer = 0
if not again then
  -- They are only written from here on. If one holds a wrong type, that has to end the call before its first write.
  for _, key in ipairs({path.claims, path.paths}) do redis.call('ZCARD', key) end
  react(path, lesson, path.now - 5000, '')
  path.bury[mark] = path.now + 4 * path.ttl
  if not path.nobody_waits then
    path.queued = true
    advance(path)
    timer = head_timer(path)
  end
  commit(path, false)
  announce_timers(path)
  -- Listed like a path that is in use: who looks at what was learned, or resumes a provider, finds it.
  if list_path(path) then housekeep(path) end
end
local result = header(path, next_path(path), timer)
result[10] = again and 0 or 1
return result
