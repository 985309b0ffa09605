-- Create a job once. KEYS: job hash. ARGV: encoded job, created ms, ttl seconds, deadline ms or ''.
-- Returns 1 if it was created, 0 if the id exists, 2 if it exists unclaimed: its entry may never have been written.
local row = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if row[1] then return row[1] == 'queued' and row[2] == '0' and 2 or 0 end
redis.call('HSET', KEYS[1], 'job', ARGV[1], 'state', 'queued', 'epoch', 0, 'n', 0, 'created', ARGV[2], 'deadline', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
