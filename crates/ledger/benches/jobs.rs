//! How many jobs a second end with their verdicts, and how long a job of 10,000 steps takes to be judged, both on
//! disk. `cargo bench -p ledger --bench jobs`
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a benchmark that cannot go on ends; it reads the clock

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evidence::Timestamp;
use evidence::canonical::{Limits, Value, parse};
use evidence::record::GovernanceContract;
use ledger::{JobAct, JobError, Ledger, Moment, NewJob, Options, Tenant};

/// Clients at once: as many as one commit serves.
const CLIENTS: usize = 64;

/// How long jobs are run.
const RUN_TIME: Duration = Duration::from_secs(5);

fn new_id(_: Timestamp) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("id-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn moment() -> Moment {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    Moment {
        at: Timestamp::from_micros(i64::try_from(micros).unwrap()).unwrap(),
        draw: 0.5,
        new_id,
    }
}

fn json(text: &str) -> Value {
    parse(text.as_bytes(), Limits::default()).unwrap()
}

struct Bench {
    ledger: Ledger,
    tenant: Arc<Tenant>,
}

impl Bench {
    fn act(&self, job_id: &str, act: &JobAct) -> Result<(), JobError> {
        self.ledger
            .job_act(&self.tenant, job_id, act, &moment())
            .map(drop)
    }

    fn started(&self, job_id: &str) {
        let new = NewJob {
            job_id: job_id.into(),
            handler: "deploy".into(),
            contract_id: Some("c".into()),
            ..NewJob::default()
        };
        self.act(job_id, &JobAct::Create(new)).unwrap();
        self.act(job_id, &JobAct::Start).unwrap();
    }

    fn step(&self, job_id: &str, step_index: u32) {
        let step = JobAct::Step {
            step_index,
            status: "COMPLETED".into(),
            output: json(r#"{"target":"search","rollback_action":"restore the index of last night"}"#),
        };
        self.act(job_id, &step).unwrap();
    }

    fn healthy(&self, job_id: &str) {
        let snapshot = json(r#"{"search":"HEALTHY"}"#);
        let health = JobAct::Health {
            before: snapshot.clone(),
            after: snapshot,
        };
        self.act(job_id, &health).unwrap();
    }
}

fn main() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let ledger = Ledger::open(Options::new(folder.path()), moment().at).unwrap();
    let tenant = ledger.tenant_create("bench", moment().at).unwrap();
    let bench = Bench { ledger, tenant };
    let contract = GovernanceContract {
        contract_id: "c".into(),
        scope: vec!["search".into()],
        proposed_changes: json(r#"{"capability_name":"search"}"#),
        activation_window_start: Some(Timestamp::UNIX_EPOCH),
        activation_window_end: Some(Timestamp::MAX),
    };
    bench
        .ledger
        .contract_record(&bench.tenant, &contract, &moment())
        .unwrap();
    let (stop, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let job_id = new_id(Timestamp::UNIX_EPOCH);
                    bench.started(&job_id);
                    bench.step(&job_id, 0);
                    bench.healthy(&job_id);
                    bench.act(&job_id, &JobAct::Complete(Value::Null)).unwrap();
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(RUN_TIME);
        stop.store(true, Ordering::Relaxed);
    });
    let jobs = ended.load(Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let records = bench
        .ledger
        .store()
        .head_read(bench.tenant.ledger().row.ledger_no);
    let records = records.unwrap().size.as_u64();
    #[allow(clippy::cast_precision_loss)] // a number for people
    let (per_second, records) = (jobs as f64 / seconds, records as f64 / seconds);
    eprintln!(
        "whole jobs (create, start, step, health, complete with verdict): {per_second:.0}/s, {records:.0} records/s"
    );
    // Completions alone: all that came before is there.
    let ids: Vec<String> = (0..10_000).map(|n| format!("ready-{n}")).collect();
    each(&ids, |id| bench.started(id));
    let began = Instant::now();
    each(&ids, |id| bench.act(id, &JobAct::Complete(Value::Null)).unwrap());
    #[allow(clippy::cast_precision_loss)]
    let per_second = ids.len() as f64 / began.elapsed().as_secs_f64();
    eprintln!("completions with verdicts: {per_second:.0}/s");

    bench.started("long");
    for index in 0..10_000 {
        bench.step("long", index);
    }
    bench.healthy("long");
    let began = Instant::now();
    bench.act("long", &JobAct::Complete(Value::Null)).unwrap();
    eprintln!(
        "a job of 10,000 steps, completed and judged: {:?}",
        began.elapsed()
    );
    let began = Instant::now();
    assert!(
        bench
            .ledger
            .job_audit_evidence(&bench.tenant, "long")
            .unwrap()
            .matches
    );
    eprintln!(
        "its evidence, put together again from records: {:?}",
        began.elapsed()
    );
    bench.ledger.close();
}

/// Does something for each id, by as many clients as there are.
fn each(ids: &[String], act: impl Fn(&str) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(id) = ids.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
                    act(id);
                }
            });
        }
    });
}
