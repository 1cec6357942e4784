-- Have good ends told for so many ms, also of calls that were admitted when nobody asked for them: release looks at
-- them as long as the store's state says so (`listens`).
local function listen(path, ms)
  if path.listens < path.now + ms / 2 then
    path.listens = path.now + ms
    path.state.listens = path.listens
  end
end
