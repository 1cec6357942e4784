-- Change one field of what a scope has learned; commit_learned() writes it. nil forgets it.
local function learn(scope, field, value)
  scope.learned[field] = value
  scope.learned.changed[field] = value or false
end
