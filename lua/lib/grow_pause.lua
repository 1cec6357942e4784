--- @include "lib/learn"
--- @include "lib/listen"
-- Decide how long to pause for a provider that refuses and does not say for how long: not at all before the third
-- episode within 30 s of each other without a clean success between; then 0.8 s, twice as long each time, up to `most`
-- ms. What has grown is forgotten after ten minutes. `fixed` is a length in ms that replaces all of them.
local function grow_pause(path, scope, fixed, most)
  local learned, now = scope.learned, path.now
  local function counted(field, lifetime)
    local count, at = string.match(learned[field] or '', '^(%d+) (%d+)$')
    -- Further ahead than any pause ends: the clock has gone back since.
    local age = now - (tonumber(at) or 0)
    return count and age <= lifetime and age >= -120000 and tonumber(count) or 0
  end
  local episodes = counted('episodes', 30000) + 1
  local grown, pause = counted('grown', 600000), 0
  if episodes >= 3 then
    grown = grown + 1
    pause = fixed or math.min(800 * 2 ^ (grown - 1), most)
    if not fixed then learn(scope, 'grown', string.format('%.0f %.0f', grown, now + pause)) end
  end
  listen(path, pause + 60000)
  -- From the end of the pause: that nobody failed while nobody called says nothing.
  learn(scope, 'episodes', string.format('%.0f %.0f', episodes, now + pause))
  return pause
end
