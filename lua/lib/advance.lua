--- @include "lib/entry"
--- @include "lib/load_scopes"
--- @include "lib/standing"
--- @include "lib/impossible"
--- @include "lib/blocked"
--- @include "lib/charge"
--- @include "lib/deliver"
--- @include "lib/late_place"
-- Grant the queue from its head for as long as the head fits.
--
-- Waiters that gave up or whose process is dead leave the queue, those of a muted instance keep their place and
-- are passed over, and what can never fit is told so, as is everybody once the account is empty. Whom only a limit
-- excludes that is reduced for now, and that nobody else's leaving would let in, keeps its place and is passed over as
-- well. Afterwards path.head is the first waiter that has to go on waiting, with its block: the first that was passed
-- over so if there is no other; nil if nobody waits. At most 128 grants a call: then path.more is set.
local function advance(path)
  load_scopes(path)
  local returned = {}
  for id, ticket in pairs(path.enqueue) do returned[#returned + 1] = {id = id, ticket = ticket} end
  local function leave(id)
    if path.enqueue[id] then path.enqueue[id] = nil else path.dequeue[id] = true end
  end
  local from, size, granted = 0, 4, 0
  local excluded, passed = nil, 0
  while true do
    local page = redis.call('ZRANGE', path.queue, from, from + size - 1, 'WITHSCORES')
    local is_last = #page < 2 * size
    local reach = is_last and math.huge or tonumber(page[#page])
    local line, later = {}, {}
    for _, place in ipairs(returned) do
      local list = place.ticket <= reach and line or later
      list[#list + 1] = place
    end
    returned = later
    for i = 1, #page, 2 do
      if not path.dequeue[page[i]] then line[#line + 1] = {id = page[i], ticket = tonumber(page[i + 1])} end
    end
    table.sort(line, function(a, b) return a.ticket < b.ticket end)
    for _, place in ipairs(line) do
      local id, waiter = place.id, entry(path, place.id)
      local state = waiter and waiter.state == 'W' and standing(path, waiter.instance) or 'gone'
      local gave_up = waiter and waiter.deadline and waiter.deadline > 0 and waiter.deadline <= path.now
      local never = state == 'alive' and impossible(path, waiter)
      if state == 'gone' or state == 'dead' or gave_up or never then
        if never then deliver(path, waiter.instance, '-' .. id) end
        leave(id)
        if waiter and waiter.state == 'W' then path.entries[id], path.dirty[id] = false, true end
      elseif state == 'alive' then
        path.more = granted == 128
        local block = not path.more and blocked(path, waiter, place.ticket) or nil
        if block and block.dimension == 'quota' then
          deliver(path, waiter.instance, '-' .. id)
          leave(id)
          path.entries[id], path.dirty[id] = false, true
        elseif late_place(waiter, place.ticket, block) then
          excluded = excluded or {id = id, ticket = place.ticket, place = late_place(waiter, place.ticket, block),
            waiter = waiter, block = block}
          passed = passed + 1
          -- A long line of them must not be read by everybody, again and again. Where the scope is full nobody behind
          -- them could go either, but whoever is the first of those has to keep its own place in the index.
          if passed == (block.used >= block.limit and 64 or 256) then
            path.head = excluded
            return
          end
        elseif block or path.more then
          path.head = {id = id, ticket = place.ticket, waiter = waiter, block = block}
          return
        else
          granted = granted + 1
          leave(id)
          waiter.ticket = place.ticket
          charge(path, id, waiter, 'G', path.now + path.claim_ttl)
          path.claim[id] = path.now + path.claim_ttl
          path.unclaim[id] = nil
          deliver(path, waiter.instance, '+' .. id)
        end
      end
    end
    if is_last then
      path.head = excluded
      return
    end
    from, size = from + size, 64
  end
end
