//! How long it takes to judge a run of 10,000 steps, to find provenance logs by the hash of an input, and to erase a
//! step of that run, all on disk. `cargo bench -p ledger --bench evidence [-- LOGS]` (1,000,000 logs unless given, of
//! which the figure to reach speaks). A figure that is missed is marked MISSED.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a benchmark that cannot go on ends; it reads the clock

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evidence::canonical::{Finite, Value};
use evidence::record::{Facts, ProvenanceLog, RunCompleted, RunStarted, Step, StepStatus, TraceStep};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp, sha256};
use ledger::provenance::ProvenanceQuery;
use ledger::{Bind, Draft, EndRun, EraseAsked, Ledger, Options, Salts, SealedBody, Tenant};

const STEPS: u32 = 10_000;
const LOGS: u64 = 1_000_000;

/// Integrity of a run of 10,000 steps, every time.
const INTEGRITY_MILLIS: f64 = 50.0;
/// Logs found by the hash of their input, of a million, p99.
const QUERY_MILLIS: f64 = 10.0;
const QUERIES: u64 = 2_000;
const BATCH: u64 = 2_000;

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    Timestamp::from_micros(i64::try_from(micros).unwrap()).unwrap()
}

fn draft(kind: Kind, bind: Bind, identity: Option<Identity>, facts: Facts, body: SealedBody) -> Draft {
    Draft {
        kind,
        bind,
        identity,
        content: None,
        trace_id: Some("trace_r".into()),
        correlation_id: None,
        actor: (ActorType::Agent, None),
        occurred_at: now(),
        source_domain: SourceDomain::Activity,
        source_component: "api",
        origin: Origin::Agent,
        body,
        facts,
        expect_run_seq: None,
    }
}

fn run(salts: &mut Salts) -> Draft {
    let start = RunStarted {
        source: "SDK".into(),
        ..RunStarted::default()
    };
    let facts = start.facts("r", "trace_r", None, now(), false);
    let body = salts.seal(Kind::RunStarted, &start.encode(None)).unwrap();
    let identity = Some(Identity::once(Kind::RunStarted));
    draft(
        Kind::RunStarted,
        Bind::NewRun("r".into()),
        identity,
        Facts::RunStarted(facts),
        body,
    )
}

fn step(index: u32, salts: &mut Salts) -> Draft {
    let step = TraceStep {
        step: Step {
            step_index: Some(index),
            skill_name: "search".into(),
            skill_id: None,
            params: format!("{{\"query\":\"what is known of {index}\"}}").into_bytes(),
            status: StepStatus::Success,
            outcome_category: "SUCCESS".into(),
            outcome_code: None,
            outcome_data: Some(format!("{{\"rows\":{index}}}").into_bytes()),
            cost_cents: Finite::new(0.5).unwrap(),
            duration_ms: Finite::new(12.5).unwrap(),
            retry_count: 0,
            source: "engine".into(),
            idempotency_key: None,
            replay_behavior: None,
            input_hash: None,
            output_hash: None,
            rng_state_before: None,
            tokens: None,
            inference: false,
            agent: None,
        },
        activity: None,
        provider: None,
        policy: None,
        otel: None,
    };
    let mut body = Vec::new();
    step.encode(&[0; 32], &mut body);
    let facts = step.facts(now());
    let body = salts.seal(Kind::TraceStep, &body).unwrap();
    draft(
        Kind::TraceStep,
        Bind::Run("r".into()),
        Some(facts.identity()),
        Facts::Step(facts),
        body,
    )
}

fn log(n: u64, salts: &mut Salts) -> Draft {
    let log = ProvenanceLog::new(
        Value::object([("prompt", Value::String(format!("question {n}")))]),
        Value::object([("answer", Value::String(format!("answer {n}")))]),
    );
    let body = salts.seal(Kind::ProvenanceLog, &log.encode()).unwrap();
    draft(
        Kind::ProvenanceLog,
        Bind::None,
        None,
        Facts::Provenance(log.facts()),
        body,
    )
}

fn submit(ledger: &Ledger, tenant: &Arc<Tenant>, drafts: Vec<Draft>) {
    for outcome in ledger.submit_blocking(tenant, drafts, now(), false).unwrap() {
        outcome.unwrap();
    }
}

/// Prints how long something took; `target`: a percentile, and the milliseconds it is to stay under.
fn told(what: &str, mut took: Vec<Duration>, target: Option<(usize, f64)>) {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let figure = target.map_or(String::new(), |(percent, millis)| {
        let missed = if at(percent) < millis { "" } else { "  MISSED" };
        let name = if percent == 100 {
            "max".to_owned()
        } else {
            format!("p{percent}")
        };
        format!("  ({name} under {millis} ms){missed}")
    });
    eprintln!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms{figure}",
        at(50),
        at(99),
        at(100)
    );
}

fn main() {
    let logs = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(LOGS);
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(Options::new(folder.path()), now()).unwrap();
    let tenant = ledger.tenant_create("acme", now()).unwrap();
    let mut salts = Salts::default();
    submit(&ledger, &tenant, vec![run(&mut salts)]);
    for first in (0..STEPS).step_by(2_000) {
        let steps = (first..first + 2_000)
            .map(|index| step(index, &mut salts))
            .collect();
        submit(&ledger, &tenant, steps);
    }
    let judged = (0..50).map(|_| {
        let begun = Instant::now();
        ledger.run_integrity(&tenant, "r").unwrap();
        begun.elapsed()
    });
    let target = Some((100, INTEGRITY_MILLIS));
    told("integrity of a run of 10,000 steps", judged.collect(), target);
    let begun = Instant::now();
    for first in (0..logs).step_by(usize::try_from(BATCH).unwrap()) {
        let batch = (first..first + BATCH).map(|n| log(n, &mut salts)).collect();
        submit(&ledger, &tenant, batch);
    }
    eprintln!(
        "{logs} provenance logs written in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let records = ledger.records(&tenant);
    let found = (0..QUERIES).map(|n| {
        let n = n * 7_919 % logs;
        let hash = log(n, &mut salts).facts;
        let Facts::Provenance(facts) = hash else {
            unreachable!()
        };
        let query = ProvenanceQuery {
            input_hash: Some(facts.input_hash),
            limit: 100,
            ..ProvenanceQuery::default()
        };
        let begun = Instant::now();
        let page = ledger.provenance_find(&tenant, &query).unwrap();
        assert_eq!(page.records.len(), 1);
        begun.elapsed()
    });
    let target = Some((99, QUERY_MILLIS));
    told(&format!("by input_hash, of {logs} logs"), found.collect(), target);
    let end = EndRun::Completed(RunCompleted::default(), sha256(b"end"));
    ledger.end_run(&tenant, "r", &end, now()).unwrap();
    let row = ledger.store().run_find(tenant.tenant_no, "r").unwrap().unwrap();
    let rows = ledger.store().run_records(row.key, 1, 5).unwrap();
    let erased = rows.iter().map(|row| {
        let record_id = records.read(&[row.leaf]).unwrap()[0].header().unwrap().id;
        let asked = EraseAsked {
            record_id,
            reason: "a benchmark".into(),
            only: false,
            principal: "bench".into(),
        };
        let begun = Instant::now();
        ledger.erase(&tenant, &asked, now()).unwrap();
        begun.elapsed()
    });
    let megabytes = ledger.store().disk_bytes() / (1 << 20);
    told(
        &format!("erasing a step of it, database of {megabytes} MiB"),
        erased.collect(),
        None,
    );
    ledger.close();
}
