-- End a job, once. KEYS: job hash, out stream. ARGV: epoch ('' for a gateway that refuses), state, encoded final, ttl s.
-- Returns 1 if this call ended it, 0 if it had ended, -1 if another worker owns it.
local row = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'n')
if row[2] and row[2] ~= 'queued' and row[2] ~= 'running' then return 0 end
if ARGV[1] ~= '' and row[1] ~= ARGV[1] then return -1 end
redis.call('XADD', KEYS[2], (row[3] or '0') .. '-1', 'm', ARGV[3])
redis.call('HSET', KEYS[1], 'state', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
