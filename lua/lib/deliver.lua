-- Note a message for the process of an instance: "+<id>" granted, claim it; "-<id>" can never be granted.
local function deliver(path, instance, word)
  local letters = path.mail[instance] or {}
  letters[#letters + 1] = word
  path.mail[instance] = letters
end
