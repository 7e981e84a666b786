//! The Redis backend of idempotency keys against a real Redis, which is killed, paused, emptied and cut off.
//!
//! Without `redis-server` on the path these tests say so and end; `scripts/test` installs it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evidence::Timestamp;
use store::once::{OnceAct, OnceAsk, OnceError, OnceKey, OnceSaid, OnceSpace, OnceStore};
use store::once_conformance::ONCE_CLAIMS;
use store::redis::{RedisAof, RedisClock, RedisOnce};
use store::sqlite::StateDb;

use crate::redis_server::RedisServer;

impl RedisServer {
    fn restart(&mut self) {
        self.kill();
        self.restart_after_kill();
    }

    /// One command, by hand.
    fn tell(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let words_sent = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let text = format!("*{}\r\n{}", words.len(), words_sent.collect::<String>());
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let n = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..n]).into_owned()
    }
}

/// A node: its own `state.db`.
fn node(url: &str, folder: &Path, name: &str, clock: RedisClock) -> RedisOnce {
    let state = StateDb::open(&folder.join(format!("{name}.db"))).unwrap();
    // Most of what is shown here has nothing to do with what Redis writes down.
    RedisOnce::new(url, clock, RedisAof::Optional, state).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_micros(7_258_118_400_000_000).unwrap()
}

fn key(name: &str) -> OnceKey {
    OnceKey {
        space: OnceSpace::Key,
        tenant: "t".into(),
        key: name.into(),
    }
}

fn check(name: &str, lease: u8) -> OnceAsk {
    OnceAsk {
        key: key(name),
        act: OnceAct::Check {
            hash: Some([7; 32]),
            label: None,
            ttl_secs: 600,
            lease_secs: 60,
            lease: [lease; 16],
        },
        at: now(),
    }
}

fn said(store: &mut RedisOnce, ask: OnceAsk) -> Result<OnceSaid, OnceError> {
    store.apply(&[ask]).remove(0)
}

#[track_caller]
fn is_new(store: &mut RedisOnce, name: &str, lease: u8) {
    let said = said(store, check(name, lease));
    assert!(matches!(said, Ok(OnceSaid::New { .. })), "{said:?}");
}

#[track_caller]
fn is_known(store: &mut RedisOnce, name: &str, of: u8) {
    let said = said(store, check(name, 99));
    assert!(
        matches!(&said, Ok(OnceSaid::Known { entry, .. }) if entry.lease == [of; 16]),
        "{said:?}"
    );
}

#[track_caller]
fn is_unavailable(store: &mut RedisOnce, name: &str) {
    let said = said(store, check(name, 99));
    assert!(matches!(said, Err(OnceError::Unavailable(_))), "{said:?}");
}

#[track_caller]
fn is_lost(store: &mut RedisOnce, name: &str) {
    let said = said(store, check(name, 99));
    assert!(matches!(said, Err(OnceError::Lost)), "{said:?}");
}

#[test]
fn redis_keeps_every_claim() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    for (name, claim) in ONCE_CLAIMS {
        println!("{name}");
        redis.tell(&["FLUSHALL"]);
        let folder = tempfile::tempdir().unwrap();
        claim(&mut node(&redis.url(), folder.path(), "n", RedisClock::Asks));
        // What was counted is what is there.
        let sum = redis.tell(&["EVAL", SUMS_AGREE, "0"]);
        assert_eq!(sum, ":1\r\n", "{name}");
    }
}

/// 1 when every list of expiries and every sum of bytes is about entries that are there.
const SUMS_AGREE: &str = r"
for _, list in ipairs(redis.call('KEYS', 'deponent:once:x:*')) do
  local of = string.sub(list, 17)
  for _, member in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    if redis.call('EXISTS', 'deponent:once:e:' .. of .. ':' .. member) == 0 then return 'no entry ' .. member end
  end
end
for _, held in ipairs(redis.call('KEYS', 'deponent:once:b:*')) do
  local of, sum = string.sub(held, 17), 0
  for _, member in ipairs(redis.call('HKEYS', held)) do
    if member ~= '' then
      local bytes = redis.call('HSTRLEN', 'deponent:once:e:' .. of .. ':' .. member, 'p')
      if tonumber(redis.call('HGET', held, member)) ~= bytes then return 'bytes of ' .. member end
      sum = sum + bytes
    end
  end
  if tonumber(redis.call('HGET', held, '')) ~= sum then return 'sum of ' .. held end
end
return 1";

#[test]
fn by_its_own_clock_a_lease_ends_for_all_nodes() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut one = node(&redis.url(), folder.path(), "one", RedisClock::Redis);
    let mut other = node(&redis.url(), folder.path(), "other", RedisClock::Redis);
    let mut short = check("k", 1);
    if let OnceAct::Check { lease_secs, .. } = &mut short.act {
        *lease_secs = 1;
    }
    assert!(matches!(
        said(&mut one, short),
        Ok(OnceSaid::New { previous: None, .. })
    ));
    // Another's, for a minute: on a slow machine a second has passed before the next question.
    is_new(&mut one, "l", 1);
    is_known(&mut other, "l", 1);
    std::thread::sleep(Duration::from_millis(1_100));
    // The node's own time says 2200 all along.
    is_new(&mut other, "k", 2);
    is_known(&mut other, "l", 1);
    let complete = OnceAct::Complete {
        lease: [1; 16],
        label: None,
        response_hash: None,
        payload: None,
    };
    let stale = OnceAsk {
        act: complete,
        ..check("k", 1)
    };
    assert_eq!(said(&mut one, stale).unwrap(), OnceSaid::LeaseLost);
}

#[test]
fn a_script_that_redis_lost_is_loaded_again() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = node(&redis.url(), folder.path(), "n", RedisClock::Asks);
    is_new(&mut store, "k", 1);
    assert_eq!(redis.tell(&["SCRIPT", "FLUSH"]), "+OK\r\n");
    is_known(&mut store, "k", 1);
    redis.tell(&["SCRIPT", "FLUSH"]);
    is_new(&mut store, "l", 2);
}

#[test]
fn without_its_data_redis_is_not_believed_until_it_is_reset() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut one = node(&redis.url(), folder.path(), "one", RedisClock::Asks);
    let mut other = node(&redis.url(), folder.path(), "other", RedisClock::Asks);
    is_new(&mut one, "k", 1);
    is_known(&mut other, "k", 1);
    assert_eq!(redis.tell(&["FLUSHALL"]), "+OK\r\n");
    is_lost(&mut one, "k");
    is_lost(&mut one, "l");
    is_lost(&mut other, "l");
    // Neither does a new start make it forget that there was something.
    drop(other);
    let mut other = node(&redis.url(), folder.path(), "other", RedisClock::Asks);
    is_lost(&mut other, "k");
    // Another command, beside the nodes, which take it up.
    node(&redis.url(), folder.path(), "other", RedisClock::Asks)
        .reset(now().checked_add_micros(1).unwrap(), 5)
        .unwrap();
    is_new(&mut one, "k", 3);
    is_known(&mut other, "k", 3);
    // And a node whose own `state.db` the command has written, while it was at work.
    is_new(&mut other, "m", 4);
    redis.tell(&["FLUSHALL"]);
    is_lost(&mut other, "m");
    let later = now().checked_add_micros(2).unwrap();
    node(&redis.url(), folder.path(), "other", RedisClock::Asks)
        .reset(later, 6)
        .unwrap();
    is_new(&mut other, "m", 5);
    is_new(&mut one, "n", 6);
}

#[test]
fn a_node_that_knows_nothing_does_not_make_others_believe() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut one = node(&redis.url(), folder.path(), "one", RedisClock::Asks);
    is_new(&mut one, "k", 1);
    redis.tell(&["FLUSHALL"]);
    let mut new = node(&redis.url(), folder.path(), "new", RedisClock::Asks);
    is_new(&mut new, "k", 2);
    is_lost(&mut one, "k");
}

#[test]
fn killed_and_started_again_it_goes_on_if_it_kept_its_data() {
    let Some(mut redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = node(&redis.url(), folder.path(), "n", RedisClock::Asks);
    is_new(&mut store, "k", 1);
    redis.kill();
    is_unavailable(&mut store, "k");
    is_unavailable(&mut store, "l");
    redis.restart_after_kill();
    is_known(&mut store, "k", 1);
    is_new(&mut store, "l", 2);
}

#[test]
fn killed_and_started_again_without_its_data_it_is_not_believed() {
    let Some(mut redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = node(&redis.url(), folder.path(), "n", RedisClock::Asks);
    is_new(&mut store, "k", 1);
    redis.restart();
    // The first question may find the old connection cut.
    let _ = said(&mut store, check("k", 2));
    is_lost(&mut store, "k");
}

#[test]
fn a_redis_of_an_earlier_day_is_not_believed() {
    let Some(mut redis) = RedisServer::start(&["--dbfilename", "dump.rdb"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = node(&redis.url(), folder.path(), "n", RedisClock::Asks);
    is_new(&mut store, "k", 1);
    assert_eq!(redis.tell(&["SAVE"]), "+OK\r\n");
    is_new(&mut store, "later", 2);
    redis.restart();
    let _ = said(&mut store, check("k", 2));
    // Its epoch is there, its last write is not.
    is_lost(&mut store, "later");
}

#[test]
fn while_it_is_paused_nothing_is_answered_and_nothing_mixed_up_after() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = node(&redis.url(), folder.path(), "n", RedisClock::Asks);
    is_new(&mut store, "k", 1);
    redis.signal("-STOP");
    let began = Instant::now();
    is_unavailable(&mut store, "paused");
    // It waits for a second or two, of which a slow machine makes more.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    redis.signal("-CONT");
    // What was asked then may have been done; its answer must not be taken for that of another question.
    is_known(&mut store, "k", 1);
    is_new(&mut store, "l", 2);
    is_known(&mut store, "l", 2);
}

#[test]
fn cut_off_by_the_network_nothing_is_answered() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(redis.port);
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let mut store = node(&url, folder.path(), "n", RedisClock::Asks);
    is_new(&mut store, "k", 1);
    proxy.drops.store(true, Ordering::SeqCst);
    let began = Instant::now();
    is_unavailable(&mut store, "l");
    is_unavailable(&mut store, "l");
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    proxy.drops.store(false, Ordering::SeqCst);
    is_known(&mut store, "k", 1);
    is_new(&mut store, "m", 2);
}

/// Forwards to Redis, or swallows what is sent, as a network does that drops packets.
struct Proxy {
    port: u16,
    drops: Arc<AtomicBool>,
}

impl Proxy {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let drops = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&drops);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(client), Ok(server)) = (stream, TcpStream::connect(("127.0.0.1", to))) else {
                    return;
                };
                for (mut from, mut onto) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                ] {
                    let drops = Arc::clone(&switch);
                    std::thread::spawn(move || {
                        let mut part = vec![0; 65536];
                        while let Ok(n) = from.read(&mut part) {
                            if n == 0 {
                                break;
                            }
                            if !drops.load(Ordering::SeqCst) && onto.write_all(&part[..n]).is_err() {
                                break;
                            }
                        }
                        let _ = onto.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { port, drops }
    }
}

#[test]
fn a_key_of_another_type_is_refused_alone() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = node(&redis.url(), folder.path(), "n", RedisClock::Asks);
    redis.tell(&["SET", "deponent:once:e:1:1:t:k", "x"]);
    let mut all = store.apply(&[check("k", 1), check("l", 2)]);
    assert!(matches!(all.remove(1), Ok(OnceSaid::New { .. })));
    assert!(matches!(all.remove(0), Err(OnceError::Unavailable(_))));
}

#[test]
fn one_that_throws_keys_away_is_refused() {
    let Some(redis) = RedisServer::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"])
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = node(&redis.url(), folder.path(), "n", RedisClock::Asks);
    is_unavailable(&mut store, "k");
    redis.tell(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    is_new(&mut store, "k", 1);
}

#[test]
fn one_without_an_append_only_file_is_refused_unless_that_is_accepted() {
    let Some(redis) = RedisServer::start(&[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, aof| {
        let state = StateDb::open(&folder.path().join(name)).unwrap();
        RedisOnce::new(&redis.url(), RedisClock::Asks, aof, state).unwrap()
    };
    let mut strict = of("strict.db", RedisAof::Required);
    let said_to_it = said(&mut strict, check("k", 1));
    let Err(OnceError::Unavailable(why)) = said_to_it else {
        panic!("{said_to_it:?}");
    };
    assert!(why.contains("appendonly") && why.contains("redis_aof"), "{why}");
    is_new(&mut of("lenient.db", RedisAof::Optional), "k", 1);
    // It is looked at anew with each try: nobody starts the server again for it.
    assert_eq!(redis.tell(&["CONFIG", "SET", "appendonly", "yes"]), "+OK\r\n");
    is_known(&mut strict, "k", 1);
    is_new(&mut strict, "l", 2);
}

#[test]
fn with_a_file_that_is_always_synced_a_killed_redis_has_every_key_that_was_answered() {
    let Some(mut redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let state = StateDb::open(&folder.path().join("n.db")).unwrap();
    let mut store = RedisOnce::new(&redis.url(), RedisClock::Asks, RedisAof::Required, state).unwrap();
    for i in 0..100 {
        is_new(&mut store, &format!("k{i}"), 1);
    }
    // At once. Synced each second, it might still hold back what came while the disk was busy syncing.
    redis.kill();
    redis.restart_after_kill();
    let _ = said(&mut store, check("k0", 2));
    for i in 0..100 {
        is_known(&mut store, &format!("k{i}"), 1);
    }
}

#[test]
fn killed_and_started_again_under_load_no_key_has_two_holders() {
    const CLIENTS: u8 = 8;
    const KEYS: u32 = 3_000;
    let Some(mut redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (url, folder) = (redis.url(), folder.path());
    let (held, failed) = std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|client| {
                let url = &url;
                scope.spawn(move || {
                    let mut store = node(url, folder, &format!("n{client}"), RedisClock::Asks);
                    let (mut held, mut failed) = (Vec::new(), 0_u32);
                    for number in 0..KEYS {
                        match said(&mut store, check(&format!("k{number}"), client)) {
                            Ok(OnceSaid::New { .. }) => held.push(number),
                            Ok(OnceSaid::Known { .. }) => {}
                            Err(OnceError::Unavailable(_)) => {
                                failed += 1;
                                std::thread::sleep(Duration::from_millis(5));
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    (held, failed)
                })
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(150));
            redis.kill();
            redis.restart_after_kill();
        }
        let of: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        let failed: u32 = of.iter().map(|(_, failed)| failed).sum();
        let held: Vec<u32> = of.into_iter().flat_map(|(held, _)| held).collect();
        (held, failed)
    });
    let mut each = held.clone();
    each.sort_unstable();
    each.dedup();
    assert_eq!(
        each.len(),
        held.len(),
        "two were told that they hold the same key"
    );
    assert!(failed > 0, "nobody noticed that it was killed");
    assert!(!held.is_empty());
}
