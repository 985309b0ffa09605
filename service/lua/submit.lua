-- Create a job once, and queue it where its stream is on the same node. KEYS: job hash, stream if it is.
-- ARGV: encoded job, created ms, ttl seconds, deadline ms or '', names and values of the entry.
-- Returns 1 if it was created, 0 if the id exists, 2 if it exists unclaimed: its entry may never have been written.
local row, created = redis.call('HMGET', KEYS[1], 'state', 'epoch'), 1
if row[1] then
  if row[1] ~= 'queued' or row[2] ~= '0' then return 0 end
  created = 2
else
  redis.call('HSET', KEYS[1], 'job', ARGV[1], 'state', 'queued', 'epoch', 0, 'n', 0, 'created', ARGV[2], 'deadline', ARGV[4])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
if KEYS[2] then redis.call('XADD', KEYS[2], '*', unpack(ARGV, 5)) end
return created
