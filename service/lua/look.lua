-- Take the live jobs that nobody has looked at for a while. KEYS: live jobs. ARGV: ms, how many at most.
-- Returns their ids. All of them are looked at as of now, so that no two gateways look at the same; a new one, whose
-- time is 0, is given its time first.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rows = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local due = {}
for i = 1, #rows, 2 do
  redis.call('ZADD', KEYS[1], now, rows[i])
  if rows[i + 1] ~= '0' then due[#due + 1] = rows[i] end
end
return due
