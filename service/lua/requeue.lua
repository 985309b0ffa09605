-- Let a job that failed be tried again, from the tokens it has. KEYS: job hash, out stream. ARGV: ttl seconds.
-- Returns 1 if it is queued again and only needs an entry, 0 if it did not fail or is forgotten.
local row = redis.call('HMGET', KEYS[1], 'state', 'n')
if row[1] ~= 'failed' then return 0 end
redis.call('XDEL', KEYS[2], row[2] .. '-1')
redis.call('HSET', KEYS[1], 'state', 'queued', 'attempts', 0)
redis.call('HDEL', KEYS[1], 'cancel')
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return 1
