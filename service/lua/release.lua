-- A worker gives a job back of its own will: that is no attempt that failed. KEYS: job hash. ARGV: epoch.
-- Returns 1 if the claim is no longer counted, 0 if the job is another's or has ended.
local row = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'attempts')
if row[1] ~= ARGV[1] or row[2] ~= 'running' then return 0 end
if tonumber(row[3] or 0) > 0 then redis.call('HINCRBY', KEYS[1], 'attempts', -1) end
return 1
