-- Take a job over. KEYS: job hash. ARGV: worker.
-- Returns {epoch, tokens already streamed, cancel flag, encoded job}; epoch -1 if the job is unknown or has ended.
local state = redis.call('HGET', KEYS[1], 'state')
if not state or (state ~= 'queued' and state ~= 'running') then return {-1, 0, 0, ''} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1])
local row = redis.call('HMGET', KEYS[1], 'n', 'cancel', 'job')
return {epoch, tonumber(row[1]), tonumber(row[2] or 0), row[3]}
