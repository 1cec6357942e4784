-- The limits in force: what the instances agree on, with each figure replaced that an operator has set. A rate of an
-- operator says no guard where it keeps the one of the instances.
-- Words on how a scope reacts are no limits.
local function merge_limits(agreed, override)
  local words_at = string.find(agreed, ' %u')
  if words_at then agreed = string.sub(agreed, 1, words_at - 1) end
  if override == '' then return agreed end
  local words, order = {}, {}
  for word in string.gmatch(agreed .. ' ' .. override, '%S+') do
    local name = string.match(word, '^(%l%d+)=') or string.match(word, '^([chk])%d+$')
    if name then
      if not words[name] then order[#order + 1] = name end
      local guard = not string.find(word, '+', 1, true) and string.match(words[name] or '', '%+%d+$')
      words[name] = word .. (guard or '')
    end
  end
  local merged = {}
  for _, name in ipairs({'c', 'h', 'k'}) do merged[#merged + 1] = words[name] end
  for _, name in ipairs(order) do
    local window = tonumber(string.match(name, '^%l(%d+)$'))
    if window then
      local bare = not string.find(words[name], '+', 1, true)
      local guard = bare and '+' .. string.format('%.0f', math.min(250, math.floor(window / 10))) or ''
      merged[#merged + 1] = words[name] .. guard
    end
  end
  return #merged > 0 and table.concat(merged, ' ') or 'none'
end
