-- The place in the indexes of a waiter that only a limit excludes which is reduced for now, so that nobody else's
-- leaving would let it in: as late as there is, nobody stands behind it. nil for all others, whose ticket is their
-- place.
local function late_place(waiter, ticket, block)
  if block and block.dimension == 'c' and waiter.n * waiter.weight > block.limit then return 2 ^ 52 + ticket end
  return nil
end
