-- What the name of a member begins with whose call may run on at its provider: "h:<ms since when>:". A snapshot says
-- nothing of those that were given up after its poll had begun.
local function held_name(path) return 'h:' .. string.format('%.0f', path.now) .. ':' end
