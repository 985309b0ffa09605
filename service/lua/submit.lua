-- Create a job once. KEYS: job hash. ARGV: encoded job, created ms, ttl seconds.
-- Returns 1 if it was created, 0 if the id exists.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'job', ARGV[1], 'state', 'queued', 'epoch', 0, 'n', 0, 'created', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
