-- A whole number of up to 15 digits, from text that anybody may have written; nil of anything else.
local function whole(text)
  if text and #text <= 15 and string.find(text, '^%d+$') then return tonumber(text) end
end
