-- End a job, once. KEYS: job hash, out stream. ARGV: epoch, state, encoded final, ttl seconds.
-- An epoch of '' stands for a gateway that refuses a job before it exists.
-- Returns 1 if this call ended it, 0 if it had ended, -1 if it is another's.
local row = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'n')
if row[2] and row[2] ~= 'queued' and row[2] ~= 'running' then return 0 end
if (row[1] or '') ~= ARGV[1] then return -1 end
redis.call('XADD', KEYS[2], (row[3] or '0') .. '-1', 'm', ARGV[3])
redis.call('HSET', KEYS[1], 'state', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
