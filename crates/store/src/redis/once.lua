-- One act on one key, atomically. Source: SPEC 8.1; the rules are those of sqlite/once.rs, held to the same claims.
--
-- KEYS: 1 entry, 2 epoch, 3 count of writes, 4 expiries of the tenant's keys, 5 bytes of each of them ('' the sum)
-- ARGV: 1 epoch, 2 writes seen, 3 now in microseconds ('': this server's clock), 4 member of KEYS[4] and [5],
--       5 most entries, 6 most bytes, 7 entries to sweep, 8 act, then its own
-- Answers {writes, word, ...}.

local epoch = redis.call('GET', KEYS[2])
if epoch ~= ARGV[1] then return {'0', 'lost', epoch or ''} end
local writes = tonumber(redis.call('GET', KEYS[3]) or '0')
if writes < tonumber(ARGV[2]) then return {'0', 'lost', ''} end

-- Doubles hold microseconds exactly until the year 2255; written in full, not as 1.7e+15.
local function text(number) return string.format('%.0f', number) end

local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function wrote() writes = redis.call('INCR', KEYS[3]) end

local function let_bytes_go(member)
  local bytes = redis.call('HGET', KEYS[5], member)
  if bytes then
    redis.call('HDEL', KEYS[5], member)
    redis.call('HINCRBY', KEYS[5], '', '-' .. bytes)
  end
end

local function let_go(member)
  redis.call('ZREM', KEYS[4], member)
  let_bytes_go(member)
end

local function remove()
  redis.call('DEL', KEYS[1])
  let_go(ARGV[4])
  wrote()
end

-- Entries go by themselves; what counts them must be told.
local function sweep(count)
  local over = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', text(now), 'LIMIT', 0, count)
  for _, member in ipairs(over) do
    if member ~= ARGV[4] then let_go(member) end
  end
  return #over
end

local act = ARGV[8]
if act == 'sweep' then return {text(writes), 'swept', tostring(sweep(tonumber(ARGV[7])))} end

local fields = {'s', 'h', 'l', 'o', 'u', 'c', 'e', 'r', 'x'}
local got = redis.call('HMGET', KEYS[1], unpack(fields))
local entry = nil
if got[1] then
  entry = {}
  for i, name in ipairs(fields) do entry[name] = got[i] or '' end
  if tonumber(entry.e) <= now then
    remove()
    entry = nil
  end
end

-- Alive a second longer than it counts, so that this script and not Redis decides what is over.
local function expire()
  redis.call('PEXPIREAT', KEYS[1], text(math.ceil(tonumber(entry.e) / 1000) + 1000))
  redis.call('ZADD', KEYS[4], entry.e, ARGV[4])
end

local function shown(word)
  local said = {text(writes), word}
  for _, name in ipairs(fields) do said[#said + 1] = entry[name] end
  said[#said + 1] = text(redis.call('HSTRLEN', KEYS[1], 'p'))
  return said
end

if act == 'read' then
  if not entry then return {text(writes), 'unknown'} end
  return shown('entry')
end

if act == 'payload' then
  return {text(writes), 'payload', entry and redis.call('HGET', KEYS[1], 'p') or ''}
end

if act == 'forget' then
  if not entry or entry.s ~= 'c' or entry.r ~= ARGV[9] then return {text(writes), 'unknown'} end
  entry.h, entry.l, entry.r = '', '', ''
  redis.call('HSET', KEYS[1], 'h', '', 'l', '', 'r', '')
  redis.call('HDEL', KEYS[1], 'p')
  let_bytes_go(ARGV[4])
  wrote()
  return shown('done')
end

if act == 'delete' then
  if entry then remove() end
  return {text(writes), 'deleted'}
end

if act == 'check' then
  local hash, label, ttl, life, lease = ARGV[9], ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
  local previous = ''
  if entry then
    if entry.s == 'f' then
      previous = 'failed'
    elseif entry.s == 'p' and tonumber(entry.u) <= now then
      previous = 'expired'
    elseif hash ~= '' and entry.h ~= '' and hash ~= entry.h then
      return shown('conflict')
    else
      return shown('known')
    end
    remove()
  end
  sweep(tonumber(ARGV[7]))
  if redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[5]) then return {text(writes), 'full'} end
  local expires = now + ttl * 1000000
  local alive = math.min(now + life * 1000000, expires)
  entry = {s = 'p', h = hash, l = label, o = lease, u = text(alive), c = text(now), e = text(expires), r = '', x = ''}
  local set = {}
  for _, name in ipairs(fields) do
    set[#set + 1] = name
    set[#set + 1] = entry[name]
  end
  redis.call('HSET', KEYS[1], unpack(set))
  expire()
  wrote()
  return {text(writes), 'new', previous, entry.u, entry.e}
end

-- What is left is for the holder.
if not entry then return {text(writes), 'unknown'} end
if entry.o ~= ARGV[9] then return {text(writes), 'lease_lost'} end

if act == 'renew' then
  if entry.s ~= 'p' then return {text(writes), 'lease_lost'} end
  entry.u = text(math.min(now + tonumber(ARGV[10]) * 1000000, tonumber(entry.e)))
  redis.call('HSET', KEYS[1], 'u', entry.u)
  wrote()
  return shown('done')
end

if act == 'complete' then
  local label, result, payload = ARGV[10], ARGV[11], ARGV[12]
  if entry.s == 'c' and entry.r == result then return shown('done') end
  if entry.s ~= 'p' then return {text(writes), 'lease_lost'} end
  entry.s, entry.r = 'c', result
  if label ~= '' then entry.l = label end
  redis.call('HSET', KEYS[1], 's', 'c', 'r', result, 'l', entry.l)
  -- Never done twice, even if what came of it finds no room.
  if payload ~= '' then
    local held = tonumber(redis.call('HGET', KEYS[5], '') or '0')
    if held + #payload <= tonumber(ARGV[6]) then
      redis.call('HSET', KEYS[1], 'p', payload)
      redis.call('HSET', KEYS[5], ARGV[4], #payload)
      redis.call('HINCRBY', KEYS[5], '', #payload)
    end
  end
  wrote()
  return shown('done')
end

if act == 'fail' then
  if entry.s == 'f' and entry.x == ARGV[10] then return shown('done') end
  if entry.s ~= 'p' then return {text(writes), 'lease_lost'} end
  entry.s, entry.x, entry.e = 'f', ARGV[10], text(now + tonumber(ARGV[11]) * 1000000)
  redis.call('HSET', KEYS[1], 's', 'f', 'x', entry.x, 'e', entry.e)
  expire()
  wrote()
  return shown('done')
end

return redis.error_reply('no such act')
