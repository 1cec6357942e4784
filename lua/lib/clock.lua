-- The server's time, the only clock that decides anything: integer milliseconds.
-- Read once per script: before Redis 7.2 TIME moves while a script runs.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
