-- Append one round's tokens. KEYS: job hash, out stream. ARGV: epoch, tokens before, tokens added, encoded chunk, ttl s.
-- Returns {status, cancel flag}: 0 appended, -1 another worker owns the job, it has ended, or tokens are missing,
-- -3 this write landed before. The explicit id is the count, so no token can ever stand twice or out of order.
local row = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'n', 'cancel')
if row[1] ~= ARGV[1] or row[2] ~= 'running' then return {-1, 0} end
local cancel = tonumber(row[4] or 0)
local count = tonumber(ARGV[2]) + tonumber(ARGV[3])
if row[3] ~= ARGV[2] then return {tonumber(row[3]) == count and -3 or -1, cancel} end
redis.call('XADD', KEYS[2], count .. '-0', 'm', ARGV[4])
if row[3] == '0' then redis.call('EXPIRE', KEYS[2], ARGV[5]) end
redis.call('HSET', KEYS[1], 'n', count)
return {0, cancel}
