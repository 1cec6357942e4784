-- How a scope reacts to failures, by the words behind its agreed limits; ratelease.strategies spells them, in ms and
-- thousandths:
--     P<max>,<half-life>,<cause>=<weight>,…                                    penalty
--     A<min>,<base>,<max>,<429>,<timeout>,<error>,<grow>,<interval>,<flags>    parallelism; flags p probe, w whole
--                                                                              numbers, e escalate, f in flight
--     D<step>,<min>,<restore>                                                  decrement
--     B<failures>,<open>,<successes>                                           breaker
--     O                                                                        pauses alone
-- Limits without a word react as the default does; a scope that limits nothing does not. The answer has the words by
-- their letter, and the figures of the penalty: most, half_life, causes ("rate_limit=2000,…").
local function strategy_of(scope)
  if scope.strategy then return scope.strategy end
  local strategy, words = {}, string.match(scope.agreed, ' (%u.*)$')
  local limited = string.find(scope.in_force, '^c%d') or string.find(scope.in_force, '=')
  strategy.reacts = words ~= nil or limited ~= nil
  if strategy.reacts then
    words = words or 'P10000,30000,rate_limit=2000,capacity=1500,timeout=1000,schema_violation=500'
    -- What is not spelt so is left out: the store is not trusted.
    local shapes = {P = '^%d+,[1-9]%d*,[%l_,=%d]*$', D = '^%d+,[1-9]%d*,%d+$', B = '^%d+,%d+,%d+$', O = '^$',
      A = '^[1-9]%d*,[1-9]%d*,%d+,%d+,%d+,%d+,%d+,[1-9]%d*,%l*$'}
    for name, rest in string.gmatch(words, '(%u)(%S*)') do
      -- No figure has more than ten digits.
      if shapes[name] and string.find(rest, shapes[name]) and not string.find(rest, string.rep('%d', 11)) then
        strategy[name] = rest
      end
    end
  end
  if strategy.P then
    strategy.most, strategy.half_life, strategy.causes = string.match(strategy.P, '^(%d+),(%d+),(.*)$')
    strategy.most, strategy.half_life = tonumber(strategy.most), tonumber(strategy.half_life)
  end
  scope.strategy = strategy
  return strategy
end
