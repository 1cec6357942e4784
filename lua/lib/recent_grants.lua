--- @include "lib/whole"
-- How many grants of the last moments a provider may not count yet, and the time slot of now: a list of
-- {slot, count} by quarters of its lag (25 ms at least), of which the current one and four before it make up the lag.
local function recent_grants(path, text, lag)
  local width = math.max(math.floor(lag / 4), 25)
  local now, kept, sum = math.floor(path.now / width), {}, 0
  for slot, count in string.gmatch(text or '', '(%d+):(%d+)') do
    slot, count = whole(slot), whole(count)
    if slot and count and slot <= now and now - slot <= 4 then
      kept[#kept + 1] = {slot, count}
      sum = sum + count
    end
  end
  return sum, kept, now, width
end
