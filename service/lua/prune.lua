-- Remove a group's consumers that hold nothing and were not heard of for a while. KEYS: stream. ARGV: group, ms.
-- Returns how many. One script, for a consumer that reads an entry between a look and its removal would take it along.
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
-- No stream or no group: no consumers.
if consumers.err then return 0 end
local count = 0
for _, row in ipairs(consumers) do
  local told = {}
  for i = 1, #row, 2 do told[row[i]] = row[i + 1] end
  if told.pending == 0 and told.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], told.name)
    count = count + 1
  end
end
return count
