-- Replace a value only if it is what the caller believes. KEYS: one key. ARGV: expected, new, ttl seconds.
-- '' stands for no value, on both sides. Returns the value held afterwards, '' for none.
local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[1] then return held end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
return ARGV[2]
