-- Ask for a job's end. KEYS: job hash, out stream. ARGV: encoded final, ttl seconds.
-- Returns 0 if the job is unknown or has ended, 1 if a worker runs it and will end it, 2 if it was queued and ends here.
-- A job may wait in the queue with tokens that it had before: its end comes after them.
local row = redis.call('HMGET', KEYS[1], 'state', 'n')
if row[1] ~= 'queued' and row[1] ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'cancel', 1)
if row[1] == 'running' then return 1 end
redis.call('XADD', KEYS[2], row[2] .. '-1', 'm', ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'cancelled')
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 2
