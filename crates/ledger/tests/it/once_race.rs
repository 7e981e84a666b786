//! The race: 64 clients for the same 1,000 keys, round after round, while processes are killed between check and
//! complete. Never two live holders, never two results; a dead holder's key is new with `previous: expired`, and the
//! dead one, come back, is refused.
//!
//! The clients are in processes of their own (this test's binary again), which write down what they were told. `serve`
//! lets no second process at its `state.db`; here four are at one, whose own lock then decides. Each key is tried by
//! eight clients, in one round of ten by all 64.
//!
//! Time is made: a process lives in one moment, and the next one a minute later, when every lease of the dead has ended.
//! In one round of ten Redis's own clock decides, and leases of a second: a holder may live longer than his lease, so
//! that who is live is a question of times, which are written down too.
//! `DEPONENT_RACE_ROUNDS` sets another number of rounds than 50.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evidence::Timestamp;
use ledger::once::{
    Check, Checked, KeyRefusal, Lease, OnOutage, Once, OnceKey, OnceOptions, OnceSpace, OnceStatus,
};
use store::once::OnceStore;
use store::redis::{RedisAof, RedisClock, RedisOnce};
use store::sqlite::{SqliteOnce, StateDb};
use tokio::runtime::Runtime;

use crate::redis_server::RedisServer;

const CLIENTS: u64 = 64;
const KEYS: u64 = 1_000;

/// Seconds that a lease has where Redis's clock decides, and milliseconds after which those of the dead have ended.
const SHORT_LEASE_SECS: u32 = 1;
const SHORT_PHASE_MILLIS: u64 = 1_200;

/// How a round goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Time is made, and each key is tried by one client in eight.
    Spread,
    /// Time is made, and each key is tried by all clients.
    All,
    /// Redis's clock decides.
    RealTime,
}

impl Mode {
    fn of(round: u64, redis: Option<&str>) -> Self {
        match round % 10 {
            4 => Self::All,
            9 if redis.is_some() => Self::RealTime,
            _ => Self::Spread,
        }
    }

    /// Each key is tried by one client in so many.
    fn spread(self) -> u64 {
        if self == Self::All { 1 } else { 8 }
    }
}

/// Microseconds by this machine's clock, which all processes share; Redis runs on it too.
#[allow(clippy::disallowed_methods)] // real time is what is tested
fn micros() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_micros()
}

/// Seconds from one moment to the next; a lease has 60.
const PHASE_SECS: i64 = 61;

const CHILD: &str = "DEPONENT_RACE_CHILD";

fn at(round: u64, phase: u64) -> Timestamp {
    let secs = i64::try_from(round * 1_000 + phase).unwrap() * PHASE_SECS;
    // The year 2200: after the clocks of Redis and of this machine, which must not end keys.
    Timestamp::from_micros(7_258_118_400_000_000 + secs * 1_000_000).unwrap()
}

fn key(round: u64, number: u64) -> OnceKey {
    OnceKey {
        space: OnceSpace::Key,
        tenant: "t".into(),
        key: format!("r{round}-{number}").into(),
    }
}

fn once(folder: &Path, redis: Option<&str>, name: &str, mode: Mode) -> Once {
    let backend: Box<dyn OnceStore> = match redis {
        None => Box::new(SqliteOnce::new(&folder.join("state.db"))),
        Some(url) => {
            let state = StateDb::open(&folder.join(format!("{name}.db"))).unwrap();
            let clock = if mode == Mode::RealTime {
                RedisClock::Redis
            } else {
                RedisClock::Asks
            };
            Box::new(RedisOnce::new(url, clock, RedisAof::Required, state).unwrap())
        }
    };
    let options = OnceOptions {
        key_file: folder.join("once.key"),
        key_is_named: false,
        lease_secs: if mode == Mode::RealTime {
            SHORT_LEASE_SECS
        } else {
            60
        },
        on_outage: OnOutage::Refuse,
    };
    Once::new(backend, options)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// What a result is: whose it is.
fn result_of(lease: &Lease) -> [u8; 32] {
    evidence::sha256(lease)
}

fn hex(lease: &Lease) -> String {
    format!("{:032x}", u128::from_be_bytes(*lease))
}

/// A client takes its keys in an order of its own, and writes down each `N`ew and each `C`ompleted, after the fact, and
/// when it asked and was told.
async fn client(once: Once, number: u64, (round, phase): (u64, u64), mode: Mode, log: Arc<Mutex<File>>) {
    let at = at(round, phase);
    let note = |line: String| log.lock().unwrap().write_all(line.as_bytes()).unwrap();
    for step in 0..KEYS {
        // 617 and 1,000 have no common divisor: every key once, neighbours far apart.
        let k = (number * 131 + step * 617) % KEYS;
        if !(k + number).is_multiple_of(mode.spread()) {
            continue;
        }
        let key = key(round, k);
        let check = Check {
            hash: Some([7; 32]),
            label: None,
            ttl_secs: 86_400,
        };
        let asked = micros();
        let Checked::New { lease, previous, .. } = once.check(&key, check, at).await.unwrap() else {
            continue;
        };
        let before = previous.map_or("-", |previous| previous.as_str());
        let told = |what, before| {
            let lease = hex(&lease);
            note(format!(
                "{what} {k} {phase} {lease} {before} {asked} {}\n",
                micros()
            ));
        };
        told("N", before);
        tokio::task::yield_now().await;
        match once
            .complete(&key, lease, None, Some(result_of(&lease)), None, at)
            .await
        {
            Ok(_) => told("C", "-"),
            Err(KeyRefusal::LeaseLost) => told("L", "-"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Not a test by itself: what the race starts.
#[test]
fn racing_clients() {
    let Some(said) = std::env::var_os(CHILD) else {
        return;
    };
    let said = said.into_string().unwrap();
    let mut words = said.split('|');
    let mut word = || words.next().unwrap().to_owned();
    let (folder, redis, name) = (word(), word(), word());
    let mut number = || word().parse::<u64>().unwrap();
    let (round, phase, first, count) = (number(), number(), number(), number());
    let folder = Path::new(&folder);
    let redis = Some(redis).filter(|url| !url.is_empty());
    let log = File::options().append(true).open(folder.join("log")).unwrap();
    let log = Arc::new(Mutex::new(log));
    let mode = Mode::of(round, redis.as_deref());
    let once = once(folder, redis.as_deref(), &name, mode);
    runtime().block_on(async {
        let mut clients: tokio::task::JoinSet<()> = (first..first + count)
            .map(|number| client(once.clone(), number, (round, phase), mode, Arc::clone(&log)))
            .collect();
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    });
}

fn spawn(folder: &Path, redis: Option<&str>, round: u64, phase: u64, first: u64, count: u64) -> Child {
    let redis = redis.unwrap_or_default();
    let said = format!(
        "{}|{redis}|p{first}|{round}|{phase}|{first}|{count}",
        folder.display()
    );
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "once_race::racing_clients", "--nocapture"])
        .env(CHILD, said)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// One line of the log.
struct Told {
    phase: u64,
    lease: String,
    previous: String,
    /// Before the lease was given.
    asked: u128,
    /// After it was.
    told: u128,
}

/// Whether a lease that was given after `asked` may have ended before `told`.
fn may_have_ended(asked: u128, told: u128) -> bool {
    told.saturating_sub(asked) >= u128::from(SHORT_LEASE_SECS) * 1_000_000
}

fn log_bytes(folder: &Path) -> u64 {
    std::fs::metadata(folder.join("log")).unwrap().len()
}

/// Waits until a client has written down that it holds a key, or all have come to their end without.
fn wait_for_holder(folder: &Path, noted: u64, children: &mut [Child]) {
    let began = Instant::now();
    while log_bytes(folder) == noted
        && children
            .iter_mut()
            .any(|child| child.try_wait().unwrap().is_none())
    {
        assert!(began.elapsed() < Duration::from_mins(2), "nobody holds a key");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn race(folder: &Path, redis: Option<&str>, processes: u64) {
    let rounds = std::env::var_os("DEPONENT_RACE_ROUNDS")
        .and_then(|text| text.into_string().ok()?.parse().ok())
        .unwrap_or(50);
    let (mut died, mut stale, mut holders, mut slow) = (0, 0, 0, 0);
    let each = CLIENTS / processes;
    for round in 0..rounds {
        let mode = Mode::of(round, redis);
        File::create(folder.join("log")).unwrap();
        // Twice a part of the processes dies at its work; then all come to their end.
        for phase in 0..3 {
            if phase > 0 && mode == Mode::RealTime {
                std::thread::sleep(Duration::from_millis(SHORT_PHASE_MILLIS));
            }
            let noted = log_bytes(folder);
            let mut children: Vec<Child> = (0..processes)
                .map(|process| spawn(folder, redis, round, phase, process * each, each))
                .collect();
            if phase < 2 {
                let dying = children.len().div_ceil(2);
                // By turns: on a slow machine nobody holds a key yet when the moment below has passed.
                if round % 2 == 1 {
                    wait_for_holder(folder, noted, &mut children);
                }
                // From before the first check to the middle of the keys, another moment each round.
                std::thread::sleep(Duration::from_millis(5 + (round * 7 + phase * 13) % 60));
                for child in children.iter_mut().take(dying) {
                    child.kill().unwrap();
                    child.wait().unwrap();
                }
                children.drain(..dying);
            }
            for child in &mut children {
                assert!(
                    child.wait().unwrap().success(),
                    "a client failed in round {round}"
                );
            }
        }
        let (mut new, mut completed) = (
            HashMap::<u64, Vec<Told>>::new(),
            HashMap::<u64, Vec<String>>::new(),
        );
        for line in std::fs::read_to_string(folder.join("log")).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            // A process may be killed in the middle of its last line.
            let [what, k, phase, lease, previous, asked, told] = words[..] else {
                continue;
            };
            let (asked, told) = (asked.parse().unwrap(), told.parse().unwrap());
            let k: u64 = k.parse().unwrap();
            match what {
                "N" => new.entry(k).or_default().push(Told {
                    phase: phase.parse().unwrap(),
                    lease: lease.into(),
                    previous: previous.into(),
                    asked,
                    told,
                }),
                "C" => completed.entry(k).or_default().push(lease.into()),
                "L" if mode == Mode::RealTime && may_have_ended(asked, told) => slow += 1,
                other => panic!("a holder lost its lease while it lived: {other} {line}"),
            }
        }
        let once = once(folder, redis, "judge", mode);
        runtime().block_on(async {
            for k in 0..KEYS {
                let entry = once.read(&key(round, k), at(round, 3)).await.unwrap().unwrap();
                assert_eq!(entry.status, OnceStatus::Completed, "key {k} of round {round}");
                let results = completed.remove(&k).unwrap_or_default();
                assert!(
                    results.len() <= 1,
                    "key {k} of round {round} was completed twice: {results:?}"
                );
                let mut told = new.remove(&k).unwrap_or_default();
                told.sort_by_key(|told| told.asked);
                holders += told.len();
                for pair in told.windows(2) {
                    let ended = match mode {
                        Mode::RealTime => may_have_ended(pair[0].asked, pair[1].told),
                        Mode::Spread | Mode::All => pair[0].phase < pair[1].phase,
                    };
                    assert!(ended, "two live holders of key {k} in round {round}");
                    assert_eq!(pair[1].previous, "expired", "key {k} of round {round}");
                }
                for told in told {
                    let lease = u128::from_str_radix(&told.lease, 16).unwrap().to_be_bytes();
                    if lease == entry.lease {
                        assert_eq!(entry.response_hash, Some(result_of(&lease)));
                        continue;
                    }
                    died += 1;
                    assert!(!results.contains(&told.lease), "a result of key {k} was replaced");
                    // It comes back from the dead.
                    let (place, result) = (key(round, k), Some(result_of(&lease)));
                    let back = once
                        .complete(&place, lease, None, result, None, at(round, 3))
                        .await;
                    assert!(
                        matches!(back, Err(KeyRefusal::LeaseLost)),
                        "key {k} of round {round}"
                    );
                    stale += 1;
                }
            }
        });
    }
    assert!(
        rounds < 10 || died > 0,
        "nobody died between check and complete: {rounds} rounds, {holders} holders, {stale} stale ones refused, {slow} outlived their lease"
    );
}

#[test]
fn in_state_db_a_key_has_one_live_holder_and_one_result() {
    let folder = tempfile::tempdir().unwrap();
    // Made before four would make it at once.
    let made = once(folder.path(), None, "judge", Mode::Spread);
    let nothing = runtime().block_on(made.read(&key(0, 0), at(0, 0)));
    assert!(nothing.unwrap().is_none());
    drop(made);
    race(folder.path(), None, 4);
}

#[test]
fn in_redis_a_key_has_one_live_holder_and_one_result() {
    // It is not killed here; synced, it would answer nobody while the disk is busy for a second.
    let Some(redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "no"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    race(folder.path(), Some(&redis.url()), 4);
}
