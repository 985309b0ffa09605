-- Bring back a job that Redis has lost, with the chunks that somebody has read of it. KEYS: job hash, out stream.
-- ARGV: encoded job, created ms, ttl seconds, deadline ms or '', tokens in the chunks, then each chunk's id and itself.
-- Returns 0 if anything of the job is there, else 1.
-- The epoch is the time in milliseconds, above all that claims have counted up to: no worker's old claim fits.
if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then return 0 end
local time = redis.call('TIME')
local epoch = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'job', ARGV[1], 'state', 'queued', 'epoch', epoch, 'n', ARGV[5], 'created', ARGV[2],
  'deadline', ARGV[4], 'restored', epoch)
redis.call('EXPIRE', KEYS[1], ARGV[3])
for at = 6, #ARGV, 2 do redis.call('XADD', KEYS[2], ARGV[at], 'm', ARGV[at + 1]) end
if #ARGV > 5 then redis.call('EXPIRE', KEYS[2], ARGV[3]) end
return 1
