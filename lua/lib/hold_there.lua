--- @include "lib/members"
--- @include "lib/held_name"
-- Keep a slot counted in the scope whose provider may run its call on after it was given up here: as "h:<ms>:<id>", until its
-- usage source says that fewer run, or the hold is over. `counted`: under that name it cools already, everywhere.
local function hold_there(path, id, held, counted)
  for _, scope in ipairs(path.scopes) do
    local hold = scope.gate and scope.gate.hold or 0
    if hold > 0 then
      scope.held = scope.held or {}
      for _, member in ipairs(members(id, held.weight)) do scope.held[held_name(path) .. member] = path.now + hold end
      path.lingers = math.max(path.lingers or 0, hold)
      if not counted then scope.use = scope.use + held.weight end
    end
  end
end
