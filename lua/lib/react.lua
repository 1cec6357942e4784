--- @include "lib/load_scopes"
--- @include "lib/reacting_scope"
--- @include "lib/effective"
--- @include "lib/trip"
--- @include "lib/cut"
--- @include "lib/grow_pause"
--- @include "lib/learn"
--- @include "lib/succeeded"
--- @include "lib/failed"
-- Let the fleet learn how a call went: one that was admitted at `at`, and has this lease id ('' where it has none).
--
-- Theory of operation. One failure of the provider shows in many calls at once. The first of them to be told moves the
-- epoch of the scope (`cut`) to now, and everything that was admitted at or before it teaches nothing more, except that
-- it may extend the pause. So is a success of a call that began before the cut no sign that there is room to grow.
--
-- `lesson`: a letter, then by commas: ms that the provider wants to wait (-1: it has not said), what was exceeded, and
-- the length of a pause where it has not said (none: it grows)
--     o success, clean (of a report: and ms that it took)
--     k the same, that nobody has asked for: told only while somebody listens
--     t throttled    v overloaded    w timeout    e error    q quota
--     c cancelled, which says nothing of the provider
--     !<cause>            a penalty for this cause, whatever the epoch
local function react(path, lesson, at, id)
  load_scopes(path)
  local letter, wait, dimension, fixed = string.match(lesson, '^(%l),?(%-?%d*),?(%l?),?(%d*)$')
  local cause = string.match(lesson, '^!([%l_]+)$')
  if path.unknown or letter == 'c' or not (letter or cause) then return end
  local scope = reacting_scope(path)
  if letter == 'q' then scope = dimension == 'm' and path.scopes[1] or path.scopes[#path.scopes - 1] end
  if not scope.learned then effective(path, scope) end
  local before, hint, counted = scope.limit, tonumber(wait) or -1, true
  if letter == 'o' then
    if hint >= 0 then scope.response = string.format('%.0f', hint) end
    return succeeded(path, scope, at, id)
  end
  if cause then
    cut(path, scope, '', cause)
  elseif letter == 'q' then
    -- It began before an operator said that the account is in order.
    if at < (tonumber(scope.learned.resumed) or 0) then return end
    -- Calls that were in flight together learn of it with times of their own: the longest holds.
    local until_ms = tonumber(string.match(scope.learned.quota or '', '^%d+')) or 0
    trip(path, scope, 'quota', math.max(hint, until_ms - path.now, 1), 1)
  else
    counted = failed(path, scope, letter, at, id, dimension)
    local pause = math.max(hint, 0)
    if counted and hint < 0 and (letter == 't' or letter == 'v') then
      -- Overloads pass by themselves, often soon: who waits for long after one loses more than its calls cost.
      pause = grow_pause(path, scope, tonumber(fixed), letter == 'v' and 5000 or 120000)
    end
    if pause > 0 and path.now + pause > (tonumber(scope.learned.pause) or 0) then
      learn(scope, 'pause', string.format('%.0f', path.now + pause))
      scope.pause = math.max(scope.pause, path.now + pause)
    end
  end
  path.reacted = true
  if not counted then return end
  effective(path, scope)
  scope.lessons = scope.lessons or {}
  scope.lessons[#scope.lessons + 1] = string.format('%.0f %s %.0f %.0f %s', path.now, cause or letter, before or 0,
    scope.limit or 0, dimension or '')
end
