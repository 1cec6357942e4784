-- acquire: admit requests of one path: grant, park or refuse each, in order, all limits of the path at once.
--
-- KEYS  1     store      hash   schema, epoch, quiet, sequence, times, generation:<instance>, mute:<instance>
--       2     instances  zset   instance -> alive until
--       3     paths      zset   path -> last use
--       4     queue      zset   waiter id -> ticket                (of the path)
--       5     claims     zset   granted id -> claim deadline       (of the path)
--       6     records    hash   id -> record, see lib/record       (of the model)
--       7     graves     zset   tombstoned id -> forget at         (of the model)
--       8     overrides  hash   what operators have set, see configure
--       then for each scope, the model first:
--             state      hash   generation, limits, override, pause, in_force, see lib/load_scope
--             windows    hash   see lib/load_rates
--             leases     zset   member -> expiry
--             index      zset   path -> ticket of its head, for paths whose head this scope blocked
--             learned    hash   what failures have taught, see lib/load_learned
-- ARGV  1 instance  2 generation (0: give me one)  3 epoch the caller knows ('' none)  4 epoch to begin with
--       5 lease ttl ms  6 heartbeat ms  7 claim ttl ms  8 path  9 inbox prefix
--       10.. limits of each scope, see lib/load_scope
--       then five values a request: id  n  weight  wait ms (-1: not at all, 0: without end)  costs of one lease, a
--       unit in upper case where they are a guess, see lib/estimate_costs
-- Returns header (9 values, see lib/header; {1, schema} where the store is of a newer schema), then eight values a
--       request: status  scope  dimension  used  limit  at  position  estimate ms (-1: nobody can know)
--       status 1 granted (position 1: tell release of a good end as well)  2 parked  3 refused  4 impossible
--       5 tombstoned
-- Writes nothing when everything is refused, nobody waits and the caller is known. First write: one that fails at
--       maxmemory where a new id is admitted, one that does not where ids are only claimed or repeated.
-- Cost: O(scopes + rates) and O(log n) of leases and waiters a request; a refusal by a rate reads up to 68 slots.
--- @include "lib/open_path"
--- @include "lib/nobody_waits"
--- @include "lib/sweep"
--- @include "lib/advance"
--- @include "lib/estimate_costs"
--- @include "lib/count_claim"
--- @include "lib/late_place"
--- @include "lib/lease_ids"
--- @include "lib/members"
--- @include "lib/commit"
--- @include "lib/housekeep"
--- @include "lib/next_path"
--- @include "lib/head_timer"
--- @include "lib/header"
--- @include "lib/list_path"
--- @include "lib/whole"
local GRANTED, PARKED, REFUSED, IMPOSSIBLE, TOMBSTONED = 1, 2, 3, 4, 5

local path = open_path()
if path.refusal then return path.refusal end

local requests, ids = {}, {}
for at = 10 + #path.specs, #ARGV, 5 do
  local want = {id = ARGV[at], n = tonumber(ARGV[at + 1]), weight = tonumber(ARGV[at + 2]),
    wait = tonumber(ARGV[at + 3]), costs = ARGV[at + 4], instance = path.instance,
    charge = {}}
  for unit, amount in string.gmatch(want.costs, '(%l)(%d+)') do want.charge[unit] = tonumber(amount) end
  requests[#requests + 1] = want
  ids[#ids + 1] = want.id
end
ids[#ids + 1] = 'hold'
local texts = redis.call('HMGET', path.records, unpack(ids))
for i, want in ipairs(requests) do
  path.entries[want.id] = record(texts[i]) or false
  local kept = path.entries[want.id]
  path.recorded = path.recorded or kept
  if kept and kept.state == 'W' and not redis.call('ZSCORE', path.queue, want.id) then
    path.enqueue[want.id] = kept.ticket
  end
end
local hold = whole(texts[#ids])
path.recorded = path.recorded or hold
path.nobody_waits = not next(path.enqueue) and nobody_waits(path)

sweep(path, ids)
load_scopes(path)
local waiting = path.nobody_waits and 0 or redis.call('ZCARD', path.queue)
if waiting > 0 or next(path.enqueue) then
  path.queued = true
  advance(path)
  for _ in pairs(path.enqueue) do waiting = waiting + 1 end
  for _ in pairs(path.dequeue) do waiting = waiting - 1 end
end

-- How long a wait will probably be, in ms: until a rate has room, or this many calls' time shared by the slots.
local function estimate(block, position)
  if block.timed then return block.at - path.now end
  if hold and block.limit > 0 and position > 0 then return math.floor(hold * position / block.limit) end
  return -1
end

local growing = false
local changed = path.queued or path.swept or path.unmute or path.rewound or next(path.state) ~= nil
local answer, parked = {}, false
local function reply(status, block, at, position)
  local n = #answer
  answer[n + 1], answer[n + 6], answer[n + 7] = status, at, position
  answer[n + 2], answer[n + 3] = block and block.scope or -1, block and block.dimension or ''
  answer[n + 4], answer[n + 5] = block and block.used or 0, block and block.limit or 0
  answer[n + 8] = block and status ~= IMPOSSIBLE and estimate(block, position) or -1
end

-- Whether some scope learns from how calls end, so that good ends are worth telling.
local watched = 0
for _, scope in ipairs(path.scopes) do
  local learned, adapted = scope.learned, scope.adapted
  if adapted and (adapted.clean == 0 or adapted.streak > 0) or learned and (learned.breaker or learned.quota
    or learned.failures or learned.episodes or learned.grown) then watched = 1 end
end

local function hold_again(want, kept)
  if kept.state == 'G' then count_claim(path, kept) end
  for _, lease in ipairs(lease_ids(want.id, want.n)) do
    local held = entry(path, lease)
    if held and (held.state == 'G' or held.state == 'H') then
      held.state, held.n = 'H', 1
      path.dirty[lease] = true
      for _, member in ipairs(members(lease, held.weight)) do path.added[member] = path.now + path.ttl end
    end
  end
  path.unclaim[want.id], path.claim[want.id] = true, nil
  reply(GRANTED, nil, kept.at, watched)
end

-- What keeps a newcomer from being granted: a limit, or somebody before it who could be served.
local function newcomer_block(want)
  local block, head = blocked(path, want, 2 ^ 52), path.head
  if not head or head.place or block and block.dimension == 'quota' then return block end
  if not head.block then
    return block or {scope = 0, dimension = 'queue', used = 0, limit = 0, at = 0}
  end
  if block and not (head.block.timed and head.block.at > block.at) then return block end
  return {scope = head.block.scope, dimension = 'queue:' .. head.block.dimension, used = head.block.used,
    limit = head.block.limit, at = head.block.at, timed = head.block.timed}
end

local function admit(want)
  estimate_costs(path, want)
  local never = impossible(path, want)
  if never then return reply(IMPOSSIBLE, never, 0, 0) end
  local block = newcomer_block(want)
  if not block then
    growing = true
    charge(path, want.id, want, 'H', path.now + path.ttl)
    return reply(GRANTED, nil, path.now, watched)
  end
  local too_late = want.wait > 0 and block.timed and block.at > path.now + want.wait
  if want.wait < 0 or too_late or block.dimension == 'quota' then return reply(REFUSED, block, block.at, waiting) end
  growing, parked, waiting = true, true, waiting + 1
  path.sequence = math.max(path.sequence + 1, path.now)
  path.state.sequence = path.sequence
  local waiter = {state = 'W', instance = path.instance, at = path.now, n = want.n, weight = want.weight,
    costs = want.costs, charge = want.charge, ticket = path.sequence,
    deadline = want.wait > 0 and path.now + want.wait or 0}
  path.entries[want.id], path.dirty[want.id] = waiter, true
  path.enqueue[want.id], path.dequeue[want.id] = waiter.ticket, nil
  path.bury[want.id] = path.now + 4 * path.ttl
  local place = late_place(waiter, waiter.ticket, block)
  if not path.head or path.head.place and not place then
    path.head = {id = want.id, ticket = waiter.ticket, place = place, waiter = waiter, block = block}
  end
  reply(PARKED, block, block.at, waiting)
end

for _, want in ipairs(requests) do
  local kept = entry(path, want.id)
  local alive = kept and kept.state == 'H'
    and (path.dirty[want.id] or tonumber(redis.call('ZSCORE', KEYS[11], want.id) or 0) > path.now)
  if kept and kept.state == 'T' then
    reply(TOMBSTONED, nil, 0, 0)
  elseif alive or (kept and kept.state == 'G') then
    hold_again(want, kept)
    changed = true
  elseif kept and kept.state == 'W' then
    local rank = redis.call('ZRANK', path.queue, want.id)
    local block = path.head and path.head.block or {scope = 0, dimension = 'queue', used = 0, limit = 0, at = 0}
    reply(PARKED, block, block.at, rank and rank + 1 or waiting)
    path.bury[want.id] = path.now + 4 * path.ttl
    parked, changed = true, true
  else
    admit(want)
  end
end

-- These are only written from here on. If one holds a wrong type, that has to end the call before its first write.
local registers = parked or path.state['generation:' .. path.instance]
if growing and (path.tend or registers or next(path.bury)) then
  for _, key in ipairs({path.graves, path.instances, path.paths}) do redis.call('ZCARD', key) end
end

local timer = 0
if growing or changed then
  timer = head_timer(path)
  path.listed = growing and list_path(path)
  commit(path, growing)
  if parked and not growing and list_path(path) then housekeep(path) end
end
if registers then
  redis.call('ZADD', path.instances, string.format('%.0f', path.now + path.ttl), path.instance)
  redis.call('PEXPIRE', path.instances, 4 * path.ttl)
  if parked then
    redis.call('PEXPIRE', path.queue, 2 * path.ttl)
    redis.call('PEXPIRE', path.records, 2 * path.ttl)
    redis.call('PEXPIRE', path.graves, 4 * path.ttl)
  end
end
local result = header(path, next_path(path), timer)
for i = 1, #answer do result[9 + i] = answer[i] end
return result
