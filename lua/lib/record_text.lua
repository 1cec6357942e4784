-- The inverse of record().
local function record_text(entry)
  if entry.state == 'T' then return 'T' end
  local text = string.format('%s %s %.0f %.0f %.0f %s',
    entry.state, entry.instance, entry.at, entry.n, entry.weight, entry.costs)
  if entry.state == 'H' then return text end
  return string.format('%s %.0f %.0f', text, entry.ticket, entry.deadline)
end
