//! Idempotency checks by 64 clients: how many a second, and how long each takes; and a replay decision.
//!
//!     cargo bench -p ledger --bench once
//!
//! The Redis part needs redis-server; without it only the embedded backend is measured. A figure that is missed is
//! marked MISSED.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use evidence::Timestamp;
use evidence::canonical::Value;
use evidence::record::{Facts, ReplayBehavior, RunStarted};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain};
use ledger::once::{Check, OnOutage, Once, OnceKey, OnceOptions, OnceSpace};
use ledger::replay::{Begun, Replay, ReplayStep};
use ledger::{Bind, Draft, Ledger, Options, Salts};
use store::once::OnceStore;
use store::redis::{RedisAof, RedisClock, RedisOnce};
use store::sqlite::{SqliteOnce, StateDb};
use tokio::runtime::Runtime;

const CLIENTS: usize = 64;
const FOR: Duration = Duration::from_secs(5);

/// New keys a second to reach, in the data folder and in Redis.
const EMBEDDED_RATE: f64 = 10_000.0;
const REDIS_RATE: f64 = 20_000.0;
/// p99 of a check, for both.
const CHECK_MILLIS: f64 = 20.0;
/// p50 of a replay decision.
const DECISION_MICROS: u128 = 1_000;

/// A moment in 2200: after Redis's own clock.
fn now() -> Timestamp {
    Timestamp::from_micros(7_258_118_400_000_000).unwrap()
}

fn once(folder: &Path, backend: Box<dyn OnceStore>) -> Once {
    let options = OnceOptions {
        key_file: folder.join("once.key"),
        key_is_named: false,
        lease_secs: 60,
        on_outage: OnOutage::Refuse,
    };
    Once::new(backend, options)
}

async fn client(once: Once, number: usize, until: Instant) -> Vec<u32> {
    let mut took = Vec::new();
    for n in 0_u64.. {
        if Instant::now() >= until {
            break;
        }
        let key = OnceKey {
            space: OnceSpace::Key,
            tenant: "t".into(),
            key: format!("{number}-{n}").into(),
        };
        let check = Check {
            hash: Some([7; 32]),
            label: None,
            ttl_secs: 86_400,
        };
        let began = Instant::now();
        assert!(once.check(&key, check, now()).await.unwrap().is_new());
        took.push(u32::try_from(began.elapsed().as_micros()).unwrap());
    }
    took
}

fn checks(runtime: &Runtime, name: &str, once: &Once, target: f64) {
    let until = Instant::now() + FOR;
    let mut took: Vec<u32> = runtime.block_on(async {
        let mut clients: tokio::task::JoinSet<Vec<u32>> = (0..CLIENTS)
            .map(|number| client(once.clone(), number, until))
            .collect();
        let mut all = Vec::new();
        while let Some(took) = clients.join_next().await {
            all.extend(took.unwrap());
        }
        all
    });
    took.sort_unstable();
    let percent = |part: usize| f64::from(took[(took.len() - 1) * part / 100]) / 1_000.0;
    #[allow(clippy::cast_precision_loss)]
    let rate = took.len() as f64 / FOR.as_secs_f64();
    let missed = if rate < target || percent(99) >= CHECK_MILLIS {
        "  MISSED"
    } else {
        ""
    };
    println!(
        "{name}: {rate:.0} new keys a second by {CLIENTS} clients, p50 {:.2} ms, p99 {:.2} ms  ({target} or more, p99 \
         under {CHECK_MILLIS} ms){missed}",
        percent(50),
        percent(99)
    );
}

fn replays(runtime: &Runtime, folder: &Path) {
    let ledger = Ledger::open(Options::new(folder), now()).unwrap();
    let tenant = ledger.tenant_create("t", now()).unwrap();
    let start = RunStarted::default();
    let draft = Draft {
        kind: Kind::RunStarted,
        bind: Bind::NewRun("r".into()),
        identity: Some(Identity::once(Kind::RunStarted)),
        content: None,
        trace_id: Some("trace_r".into()),
        correlation_id: Some("r".into()),
        actor: (ActorType::Agent, None),
        occurred_at: now(),
        source_domain: SourceDomain::Activity,
        source_component: "bench",
        origin: Origin::Agent,
        body: Salts::default()
            .seal(Kind::RunStarted, &start.encode(None))
            .unwrap(),
        facts: Facts::RunStarted(start.facts("r", "trace_r", Some("r"), now(), false)),
        expect_run_seq: None,
    };
    ledger
        .submit_blocking(&tenant, vec![draft], now(), false)
        .unwrap()[0]
        .as_ref()
        .unwrap();
    let once = once(folder, Box::new(SqliteOnce::new(&folder.join("state.db"))));
    let replay = Replay::new(&ledger, &once, &tenant, None);
    let step = |key: &str| ReplayStep {
        run_id: "r".into(),
        behavior: ReplayBehavior::Skip,
        idempotency_key: Some(key.into()),
        ..ReplayStep::default()
    };
    runtime.block_on(async {
        let Begun::Execute(pass) = replay.begin(step("k"), now()).await.unwrap() else {
            panic!()
        };
        replay.finish(&pass, Value::Int(1), now()).await.unwrap();
        for (name, known) in [("execute", false), ("use_stored, with its record", true)] {
            let mut took: Vec<u128> = Vec::new();
            for n in 0..1_000 {
                let key = if known { "k".to_owned() } else { format!("new-{n}") };
                let began = Instant::now();
                replay.begin(step(&key), now()).await.unwrap();
                took.push(began.elapsed().as_micros());
            }
            took.sort_unstable();
            let missed = if took[500] < DECISION_MICROS {
                ""
            } else {
                "  MISSED"
            };
            println!(
                "replay decision {name}: p50 {} us, p99 {} us  (p50 under {DECISION_MICROS} us){missed}",
                took[500], took[990]
            );
        }
    });
    ledger.close();
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    checks(
        &runtime,
        "embedded",
        &once(folder.path(), Box::new(SqliteOnce::new(&path))),
        EMBEDDED_RATE,
    );
    replays(&runtime, &folder.path().join("data"));
    if Command::new("redis-server").arg("--version").output().is_err() {
        println!("redis: redis-server is not installed");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut redis = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "yes",
            "--dir",
            folder.path().to_str().unwrap(),
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let state = StateDb::open(&path).unwrap();
    let url = format!("redis://127.0.0.1:{port}");
    let backend = RedisOnce::new(&url, RedisClock::Redis, RedisAof::Required, state).unwrap();
    checks(
        &runtime,
        "redis",
        &once(folder.path(), Box::new(backend)),
        REDIS_RATE,
    );
    redis.kill().unwrap();
    redis.wait().unwrap();
}
