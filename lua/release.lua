-- release: end leases of one path, settle what they have used, learn how their calls went, withdraw waiters, return
-- what was never sent, and hand on what becomes free.
--
-- KEYS  as acquire
-- ARGV  1..9 and limits of each scope as acquire
--       then five values a lease: id, how (0 end it, 1 the call never left the host: its charges return, 2 only
--       settle it, or how its call went, see lib/react), 1 if its acquire was sent more than once or its answer never
--       came, so that it may yet land, what it has really used ("t800", '' if that is not known), and ms that its slot
--       is to stay counted, since the call may run on ('' the cooldown of its scopes)
-- Returns header as acquire, then a status a lease:
--       1 released or settled  2 lost (it had expired; nobody else's lease is touched)  3 withdrawn (waiting, or
--       granted and not claimed: its charges return)  4 unknown
-- Writes for a known id; a tombstone for an unknown one, where the acquire may yet land, and after a loss of data.
--       First write: one that does not fail at maxmemory.
-- Cost: O(scopes) and O(log n) a lease where nobody waits; else what the hand-off costs.
--- @include "lib/open_path"
--- @include "lib/nobody_waits"
--- @include "lib/sweep"
--- @include "lib/advance"
--- @include "lib/lease_ids"
--- @include "lib/drop_lease"
--- @include "lib/held_name"
--- @include "lib/hold_there"
--- @include "lib/uncharge"
--- @include "lib/settle"
--- @include "lib/whole"
--- @include "lib/react"
--- @include "lib/commit"
--- @include "lib/next_path"
--- @include "lib/head_timer"
--- @include "lib/announce_timers"
--- @include "lib/header"
local RELEASED, LOST, WITHDRAWN, UNKNOWN = 1, 2, 3, 4

local path = open_path()
if path.refusal then return path.refusal end

local UNSENT, SETTLE = '1', '2'
local ids, how, may_land, usage, holds = {}, {}, {}, {}, {}
for at = 10 + #path.specs, #ARGV, 5 do
  ids[#ids + 1] = ARGV[at]
  how[#ids], may_land[#ids], usage[#ids] = ARGV[at + 1], ARGV[at + 2] == '1', ARGV[at + 3]
  if how[#ids] == 'k' then how[#ids] = path.listens > path.now and 'o' or '0' end
  holds[#ids] = tonumber(ARGV[at + 4]) or 0
end
local texts = redis.call('HMGET', path.records, 'hold', unpack(ids))
local hold = whole(texts[1])
local counts = path.cools and true or false
for i, id in ipairs(ids) do
  local kept = record(texts[i + 1])
  path.entries[id] = kept or false
  path.recorded = path.recorded or kept
  -- Also where the lease has charged no tokens: a rate may count them by now.
  local settles = usage[i] ~= '' and kept and kept.state == 'H' and not kept.charge.s
  if how[i] == UNSENT or kept and how[i] > '9' or holds[i] > 0 or settles then counts = true end
end
local expiries = redis.call('ZMSCORE', KEYS[11], unpack(ids))

path.nobody_waits = nobody_waits(path)
sweep(path, ids)
local somebody_waits = not path.nobody_waits or next(path.enqueue)
if somebody_waits or counts then load_scopes(path) end

local cooldown = 0
for _, scope in ipairs(path.scopes) do cooldown = math.max(cooldown, scope.cooldown or 0) end

local statuses, timed = {}, false
for i, id in ipairs(ids) do
  local kept = path.entries[id]
  -- While holders register again what the store has lost, another renewal of this very lease may be on its way.
  local bury = may_land[i] or path.quiet > path.now
  if kept and kept.state == 'H' then
    local alive = (tonumber(expiries[i]) or 0) > path.now
    if how[i] > '9' then react(path, how[i], kept.at, id) end
    if alive and how[i] == UNSENT then
      uncharge(path, kept)
    elseif usage[i] ~= '' then
      settle(path, kept, usage[i])
    end
    if how[i] == SETTLE then
      path.dirty[id], bury = true, false
    else
      local linger = alive and how[i] ~= UNSENT and math.max(cooldown, holds[i]) or 0
      local given_up = alive and holds[i] == 0 and string.find(how[i], '^[cw]') ~= nil
      local name = (given_up or holds[i] > cooldown) and held_name(path) or 'c:'
      drop_lease(path, id, kept, alive, linger > 0 and linger or nil, name)
      if given_up then hold_there(path, id, kept, linger) end
    end
    statuses[i] = alive and RELEASED or LOST
    if alive and how[i] ~= UNSENT and how[i] ~= SETTLE then
      local lasted = math.max(path.now - kept.at, 0)
      hold, timed = hold and 0.8 * hold + 0.2 * lasted or lasted, true
    end
  elseif how[i] == SETTLE then
    statuses[i], bury = UNKNOWN, false
  elseif kept and kept.state == 'G' then
    load_scopes(path)
    for _, lease in ipairs(lease_ids(id, kept.n)) do
      uncharge(path, kept)
      drop_lease(path, lease, kept, true)
    end
    path.unclaim[id] = true
    statuses[i] = WITHDRAWN
  elseif kept and kept.state == 'W' then
    path.dequeue[id], path.enqueue[id] = true, nil
    path.entries[id], path.dirty[id] = false, true
    statuses[i] = WITHDRAWN
  else
    bury = true
    statuses[i] = UNKNOWN
  end
  if bury then
    path.entries[id], path.dirty[id] = {state = 'T'}, true
    path.bury[id] = path.now + path.ttl
  end
end

local timer = 0
if somebody_waits then
  path.queued = true
  advance(path)
  timer = head_timer(path)
end
commit(path, false)
announce_timers(path)
if timed then
  redis.call('HSET', path.records, 'hold', string.format('%.0f', hold))
  if not texts[1] then redis.call('PEXPIRE', path.records, 2 * path.ttl) end
end
local result = header(path, next_path(path), timer)
for i = 1, #statuses do result[9 + i] = statuses[i] end
return result
