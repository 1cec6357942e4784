-- Whether a moment comes before every waiter has polled: of what comes later its process learns by itself.
local function before_poll(path, at) return at <= path.now + 600 end
