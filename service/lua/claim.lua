-- Take a job over. KEYS: job hash. ARGV: worker.
-- Returns {epoch, tokens already streamed, cancel flag, encoded job, claims since the last token, worker before}; epoch
-- -1 if the job is unknown or has ended.
local row = redis.call('HMGET', KEYS[1], 'state', 'n', 'cancel', 'job', 'claimed_n', 'owner')
if row[1] ~= 'queued' and row[1] ~= 'running' then return {-1, 0, 0, '', 0, ''} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
if row[2] ~= row[5] then redis.call('HSET', KEYS[1], 'attempts', 0) end
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1], 'claimed_n', row[2])
return {epoch, tonumber(row[2]), tonumber(row[3] or 0), row[4], attempts, row[6] or ''}
