-- Append one round's tokens to each of some jobs. KEYS: per job its hash and its out stream.
-- ARGV: ttl seconds, then per job: epoch, tokens before, tokens added, encoded chunk.
-- Returns a list with one entry per job: an error where Redis refuses the job's keys, else status + 2 * cancel flag, with
-- status 0 appended or landed before, 1 another worker owns the job, it has ended, or tokens are missing.
-- The explicit id is the count, so no token can ever stand twice or out of order.
local answers = {}
for i = 1, #KEYS / 2 do
  local job, out, at = KEYS[2 * i - 1], KEYS[2 * i], 4 * i - 2
  local epoch, before, chunk = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local row = redis.pcall('HMGET', job, 'epoch', 'state', 'n', 'cancel')
  if row.err then
    answers[i] = row
  elseif row[1] ~= epoch or row[2] ~= 'running' then
    answers[i] = 1
  else
    local count = tonumber(before) + tonumber(ARGV[at + 2])
    local answer = 2 * tonumber(row[4] or 0)
    if row[3] == before then
      local added = redis.pcall('XADD', out, count .. '-0', 'm', chunk)
      if type(added) == 'table' and added.err then
        answer = added
      else
        if before == '0' then redis.call('EXPIRE', out, ARGV[1]) end
        redis.call('HSET', job, 'n', count)
      end
    elseif tonumber(row[3]) ~= count then
      answer = answer + 1
    end
    answers[i] = answer
  end
end
return answers
