--- @include "lib/clock"
--- @include "lib/whole"
-- Begin a script on one path: read the store's state and bind the arguments that every path script shares.
--
-- All that a script finds out or decides is kept in the table this returns, and written by commit() alone: every
-- check comes before every write. `path.refusal` is the whole answer where the store must not be touched.
local function open_path()
  local path = {
    now = clock(), instance = ARGV[1], name = ARGV[8], inbox = ARGV[9], specs = {}, scopes = {},
    store = KEYS[1], instances = KEYS[2], paths = KEYS[3], queue = KEYS[4], claims = KEYS[5], records = KEYS[6],
    graves = KEYS[7], overrides = KEYS[8],
    state = {}, entries = {}, dirty = {}, added = {}, dropped = {}, enqueue = {}, dequeue = {}, claim = {},
    unclaim = {}, bury = {}, mail = {}, alive = {},
  }
  for k = 0, (#KEYS - 8) / 5 - 1 do path.specs[k + 1] = ARGV[10 + k] end
  local own = ':' .. path.instance
  local state = redis.call('HMGET', path.store, 'schema', 'epoch', 'quiet', 'sequence', 'times', 'generation' .. own,
    'mute' .. own, 'cools', 'listens')
  if tonumber(state[1] or 1) > 1 then
    path.refusal = {1, state[1]}
    return path
  end
  path.epoch, path.quiet = state[2], tonumber(state[3]) or 0
  path.sequence = whole(state[4]) or 0
  if state[7] then path.unmute = true end
  path.cools, path.listens = state[8], tonumber(state[9]) or 0
  path.generation = tonumber(state[6]) or tonumber(ARGV[2])
  -- Nobody is an operator: it is no instance, and its times are not agreed on.
  local nobody = path.instance == ''
  if path.generation == 0 and not nobody then
    -- Seeded by the clock, so that numbers go on rising where the state was lost and begun anew.
    path.sequence = math.max(path.sequence + 1, path.now)
    path.generation = path.sequence
    path.state.sequence = path.sequence
  end
  if not state[6] and not nobody then path.state['generation' .. own] = path.generation end
  local ttl, beat, claim, by = string.match(state[5] or '', '^(%d+) (%d+) (%d+) (%d+)$')
  if not by or tonumber(by) < path.generation then
    ttl, beat, claim = ARGV[5], ARGV[6], ARGV[7]
    if not nobody then path.state.times = string.format('%s %s %s %.0f', ttl, beat, claim, path.generation) end
  end
  path.ttl, path.beat, path.claim_ttl = tonumber(ttl), tonumber(beat), tonumber(claim)
  -- The sequence is never behind the last beat: the server's clock has gone back by more than the longest lease, and
  -- what was dated by it must not hold capacity until it is there again.
  path.rewound = path.sequence > path.now + 600000
  if path.quiet > path.now + path.beat then path.quiet = 0 end
  local known = ARGV[3]
  if not path.epoch then
    -- With the time, since the same client may begin a store that has lost its data twice.
    path.epoch = ARGV[4] .. '.' .. string.format('%.0f', path.now)
    path.state.schema, path.state.epoch = 1, path.epoch
  end
  if known ~= '' and known ~= path.epoch and not state[3] then
    -- The store has lost what this caller knew of. Whoever still holds a lease gets one heartbeat to say so before
    -- anything new is granted. Once an epoch: a late caller's surprise does not stop the others again.
    path.quiet = path.now + path.beat
    path.state.quiet = path.quiet
  end
  return path
end
