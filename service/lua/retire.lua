-- Forget consumers that hold no entry and were not heard of for long. KEYS: streams. ARGV: group, ms.
-- Returns how many. One that lives after all is made anew when it reads next; what it held would be lost with it, so the
-- look and the deletion are one step.
local retired = 0
for _, stream in ipairs(KEYS) do
  -- Of a stream that is not there comes an error, which has no rows.
  for _, row in ipairs(redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[1])) do
    local told = {}
    for at = 1, #row, 2 do told[row[at]] = row[at + 1] end
    if told.pending == 0 and told.idle >= tonumber(ARGV[2]) then
      redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], told.name)
      retired = retired + 1
    end
  end
end
return retired
