-- Forget a job. KEYS: job hash, out stream. ARGV: encoded final, seconds for which the stream is kept.
-- Those who follow a job that has not ended read its end; a worker that runs it finds it is no longer its own.
local row = redis.call('HMGET', KEYS[1], 'state', 'n')
if row[1] == 'queued' or row[1] == 'running' then redis.call('XADD', KEYS[2], row[2] .. '-1', 'm', ARGV[1]) end
redis.call('DEL', KEYS[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
