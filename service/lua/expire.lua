-- End a job whose deadline has passed and that no worker ends. KEYS: job hash, out stream.
-- ARGV: epoch, tokens streamed, encoded final, ttl seconds, ms that the worker which runs it may be late.
-- Returns 0 if the job is unknown or has ended, 1 if it is not to be ended yet or has changed, 2 if it ends here.
local row = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'n', 'deadline')
if row[1] ~= 'queued' and row[1] ~= 'running' then return 0 end
local time, due = redis.call('TIME'), tonumber(row[4])
if row[1] == 'running' then due = due + ARGV[5] end
if time[1] * 1000 + math.floor(time[2] / 1000) < due or row[2] ~= ARGV[1] or row[3] ~= ARGV[2] then return 1 end
redis.call('XADD', KEYS[2], row[3] .. '-1', 'm', ARGV[3])
redis.call('HSET', KEYS[1], 'state', 'expired')
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 2
