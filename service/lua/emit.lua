-- Append one round's tokens. KEYS: job hash, out stream. ARGV: epoch, tokens before, tokens added, encoded chunk.
-- Returns {status, cancel flag}: 0 appended, -1 another worker owns the job or it has ended, -3 the count differs:
-- this write landed before. The explicit id is the count, so no token can ever stand twice or out of order.
local row = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'n', 'cancel')
if row[1] ~= ARGV[1] or row[2] ~= 'running' then return {-1, 0} end
local cancel = tonumber(row[4] or 0)
if row[3] ~= ARGV[2] then return {-3, cancel} end
local count = tonumber(ARGV[2]) + tonumber(ARGV[3])
redis.call('XADD', KEYS[2], count .. '-0', 'm', ARGV[4])
redis.call('HSET', KEYS[1], 'n', count)
return {0, cancel}
