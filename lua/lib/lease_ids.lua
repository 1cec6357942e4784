-- The lease ids that one request stands for: itself, or for a group of n <base>.1 to <base>.n.
-- A group waits and is looked up under its first id.
local function lease_ids(id, n)
  if n == 1 then return {id} end
  local base, ids = string.sub(id, 1, -2), {}
  for i = 1, n do ids[i] = base .. i end
  return ids
end
