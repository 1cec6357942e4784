--- @include "lib/members"
--- @include "lib/held_name"
-- Keep a slot counted in the scope whose provider may run its call on after it was given up here: as "h:<ms>:<id>",
-- until its usage source says that fewer run, or the hold is over. `linger`: ms for which it cools under that name
-- already, everywhere.
local function hold_there(path, id, held, linger)
  for _, scope in ipairs(path.scopes) do
    local hold = scope.gate and scope.gate.hold or 0
    if hold > 0 then
      scope.held = scope.held or {}
      for _, member in ipairs(members(id, held.weight)) do
        scope.held[held_name(path) .. member] = path.now + math.max(hold, linger)
      end
      scope.lingers = math.max(scope.lingers or 0, hold)
      if linger == 0 then scope.use = scope.use + held.weight end
    end
  end
end
