-- Read new entries for a worker. KEYS: the queue's streams, most urgent first. ARGV: group, worker, then pass by pass the
-- order of the streams, as digits, and how many entries to take at most.
-- Returns a list of {stream, counted from 0; entry id; job id}.
local entries = {}
for at = 3, #ARGV, 2 do
  local left = tonumber(ARGV[at + 1])
  for digit in ARGV[at]:gmatch('%d') do
    if left > 0 then
      local stream = KEYS[digit + 1]
      local answer = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', stream, '>')
      for _, row in ipairs(answer and answer[1][2] or {}) do
        entries[#entries + 1] = {tonumber(digit), row[1], row[2][2]}
        left = left - 1
      end
    end
  end
end
return entries
