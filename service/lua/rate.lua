-- Let a request of a tenant pass, if it does not come too soon after those before it (GCRA). KEYS: one string.
-- ARGV: microseconds per request, requests that may come at once.
-- Returns 0 if it may pass, else the microseconds after which it may; one that may not costs nothing.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local wait = due - now - ARGV[1] * (ARGV[2] - 1)
if wait > 0 then return math.ceil(wait) end
due = due + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
return 0
