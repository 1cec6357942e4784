-- redis.call(command, key, ...list) in pieces: Lua's stack bounds how much unpack can push.
-- `list` may hold score-member or field-value pairs, hence the even piece size.
local function chunked(command, key, list)
  for first = 1, #list, 1000 do
    redis.call(command, key, unpack(list, first, math.min(first + 999, #list)))
  end
end
