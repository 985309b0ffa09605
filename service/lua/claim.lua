-- Take a job over. KEYS: job hash. ARGV: worker.
-- Returns {epoch, tokens already streamed, cancel flag, encoded job, claims since the last token, worker before, ms until
-- the deadline or nil}; epoch -1 if the job is unknown or has ended.
local row = redis.call('HMGET', KEYS[1], 'state', 'n', 'cancel', 'job', 'claimed_n', 'owner', 'deadline')
if row[1] ~= 'queued' and row[1] ~= 'running' then return {-1, 0, 0, '', 0, '', false} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
if row[2] ~= row[5] then redis.call('HSET', KEYS[1], 'attempts', 0) end
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1], 'claimed_n', row[2])
local left, deadline = false, tonumber(row[7] or '')
if deadline then
  local time = redis.call('TIME')
  left = deadline - time[1] * 1000 - math.floor(time[2] / 1000)
end
return {epoch, tonumber(row[2]), tonumber(row[3] or 0), row[4], attempts, row[6] or '', left}
