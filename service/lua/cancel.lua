-- Ask for a job's end. KEYS: job hash. Returns 1 if it may still run, 0 if it is unknown or has ended.
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'cancel', 1)
return 1
