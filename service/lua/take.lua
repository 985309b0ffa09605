-- Count jobs among a tenant's, if there is room for all of them. KEYS: sorted set of job ids by when they were counted.
-- ARGV: the most there may be, ttl seconds, then the ids of the jobs.
-- Returns 0 if they are counted, else how many jobs would be too many.
local over = redis.call('ZCARD', KEYS[1]) + #ARGV - 2 - ARGV[1]
if over > 0 then return over end
local time = redis.call('TIME')
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[i]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 0
