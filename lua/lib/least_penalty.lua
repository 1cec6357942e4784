-- Below this a penalty is over: the last slot comes back where it would take a penalty of none.
local function least_penalty() return 0.125 end
