-- A pause until this ms has no time of its own: it ends when an operator resumes.
local function until_resumed() return 9007199254740991 end
