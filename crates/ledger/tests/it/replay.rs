//! Replay around closures: what a store that is away does to it, and what an erasure leaves of stored outputs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evidence::canonical::Value;
use evidence::record::ReplayBehavior;
use evidence::{ActorType, Kind, RecordId, Timestamp};
use ledger::once::{OnOutage, Once, OnceError, OnceOptions, OnceSaid};
use ledger::replay::{
    ReplayEnforcer, ReplayError, ReplayResult, ReplayStep, StepError, forget_outputs, replay_report,
};
use ledger::{Body, EraseAsked, Erasure, Rejection, SubmitError, Tenant};
use store::Gone;
use store::once::{OnceAct, OnceAsk, OnceStore};
use store::sqlite::SqliteOnce;
use tokio::runtime::Runtime;

use crate::bed::{TestLedger, run, step_of, time};

fn now() -> Timestamp {
    time("2026-11-21T10:00:00Z")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A backend that cannot answer what ends or forgets a key, so many times.
struct Away {
    inner: SqliteOnce,
    failing: Arc<AtomicU64>,
}

impl OnceStore for Away {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        let one = |ask: &OnceAsk| {
            let fails = matches!(ask.act, OnceAct::Complete { .. } | OnceAct::Forget { .. })
                && self
                    .failing
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
                    .is_ok();
            if fails {
                return Err(OnceError::Unavailable("pulled out".into()));
            }
            self.inner.apply(std::slice::from_ref(ask)).remove(0)
        };
        asks.iter().map(one).collect()
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        self.inner.sweep(at)
    }
}

/// A ledger with a run `r`, and keys whose store can be away.
struct Bed {
    bed: TestLedger,
    tenant: Arc<Tenant>,
    once: Once,
    enforcer: ReplayEnforcer,
    failing: Arc<AtomicU64>,
    runtime: Runtime,
}

impl Bed {
    fn new(lease_secs: u32) -> Self {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        bed.one(&tenant, run("r"));
        Self::over(bed, lease_secs)
    }

    fn over(bed: TestLedger, lease_secs: u32) -> Self {
        let tenant = bed.ledger.tenant("acme").unwrap();
        let failing = Arc::new(AtomicU64::new(0));
        let backend = Away {
            inner: SqliteOnce::new(&bed.path().join("state.db")),
            failing: Arc::clone(&failing),
        };
        let options = OnceOptions {
            key_file: bed.path().join("keys").join("once.key"),
            key_is_named: false,
            lease_secs,
            on_outage: OnOutage::Refuse,
        };
        let once = Once::new(Box::new(backend), options);
        let enforcer = ReplayEnforcer::new(&bed.ledger, &once, &tenant, now);
        Self {
            bed,
            tenant,
            once,
            enforcer,
            failing,
            runtime: runtime(),
        }
    }

    fn enforce(
        &self,
        behavior: ReplayBehavior,
        output: Result<i64, &'static str>,
    ) -> Result<ReplayResult, StepError<&'static str>> {
        let step = ReplayStep {
            run_id: "r".into(),
            step_index: 0,
            behavior,
            idempotency_key: Some("pay-17".into()),
            input_hash: Some("of the order".into()),
            output_hash: None,
        };
        let execute = || async move { output.map(Value::Int) };
        self.runtime.block_on(self.enforcer.enforce_step(step, execute))
    }

    fn erase(&self, record_id: RecordId) -> Erasure {
        let asked = EraseAsked {
            record_id,
            reason: "asked for by the person".into(),
            only: false,
            principal: "key:dpo".into(),
        };
        let mut erasure = self.bed.ledger.erase(&self.tenant, &asked, now()).unwrap();
        self.runtime
            .block_on(forget_outputs(&self.once, &self.tenant, &mut erasure, now()));
        erasure
    }
}

fn remains(erasure: &Erasure, what: &str) -> bool {
    erasure.remains.iter().any(|remains| remains.what.contains(what))
}

#[test]
fn a_result_whose_store_was_away_for_a_moment_is_stored_and_the_step_ran_once() {
    let bed = Bed::new(60);
    bed.failing.store(3, Ordering::Release);
    let began = Instant::now();
    let result = bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap();
    assert!(result.executed && !result.from_cache);
    assert_eq!(bed.failing.load(Ordering::Acquire), 0);
    assert!(
        began.elapsed() >= Duration::from_millis(700),
        "100, 200 and 400 ms"
    );
    let again = bed.enforce(ReplayBehavior::Skip, Err("must not run")).unwrap();
    assert!(again.skipped && again.output == Value::Int(7));
    bed.bed.check();
}

#[test]
fn a_step_of_a_run_that_is_at_hand_is_decided_without_reading_and_its_end_is_known_all_the_same() {
    let bed = Bed::new(60);
    assert!(bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap().executed);
    let read = Arc::new(AtomicBool::new(false));
    for method in ["run_find", "run_record_find"] {
        let read = Arc::clone(&read);
        bed.bed
            .fault
            .before(method, 1, move || read.store(true, Ordering::Relaxed));
    }
    let again = bed.enforce(ReplayBehavior::Skip, Err("must not run")).unwrap();
    assert!(again.from_cache && !read.load(Ordering::Relaxed));
    bed.bed.complete(&bed.tenant, "r");
    let refused = bed.enforce(ReplayBehavior::Skip, Err("must not run"));
    assert!(
        matches!(
            &refused,
            Err(StepError::Replay(ReplayError::Rejected(Rejection::RunEnded)))
        ),
        "{refused:?}"
    );
    let by = (ActorType::System, None);
    bed.bed.ledger.run_seal(&bed.tenant, "r", by, now()).unwrap();
    let refused = bed.enforce(ReplayBehavior::Skip, Err("must not run"));
    assert!(
        matches!(
            &refused,
            Err(StepError::Replay(ReplayError::Rejected(Rejection::RunSealed)))
        ),
        "{refused:?}"
    );
    bed.bed.check();
}

#[test]
fn a_ledger_that_is_refused_begins_no_step_and_its_key_stays_free() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    bed.sign();
    let bed = bed.reopen_after(|folder| {
        let marks = folder.join("high-water.json");
        let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&marks).unwrap()).unwrap();
        file["ledgers"]["deponent.local/acme"]["tree_size"] = 10_000.into();
        std::fs::write(&marks, file.to_string()).unwrap();
    });
    let bed = Bed::over(bed, 60);
    assert!(bed.tenant.refusal().is_some());
    for behavior in [ReplayBehavior::Skip, ReplayBehavior::Execute] {
        let refused = bed.enforce(behavior, Err("must not run"));
        assert!(
            matches!(
                &refused,
                Err(StepError::Replay(ReplayError::Submit(SubmitError::Refused(_))))
            ),
            "{refused:?}"
        );
    }
    let at = bed.bed.now();
    bed.bed.ledger.recover("acme", "a copy was put back", at).unwrap();
    assert!(bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap().executed);
}

#[test]
fn a_ledger_that_did_not_say_is_told_again_and_has_one_record() {
    let bed = Bed::new(60);
    let size = bed.bed.size(&bed.tenant);
    bed.bed.fault.arm(store::Fault::HeadMoved);
    bed.bed.fault.arm(store::Fault::HeadMoved);
    bed.bed.fault.arm(store::Fault::HeadMoved);
    assert!(bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap().executed);
    assert!(bed.bed.fault.armed().is_empty());
    assert_eq!(bed.bed.size(&bed.tenant), size + 1);
    bed.bed.check();
}

#[test]
fn a_store_that_stays_away_is_not_asked_for_longer_than_a_lease_holds() {
    let bed = Bed::new(1);
    bed.failing.store(u64::MAX, Ordering::Release);
    let began = Instant::now();
    let refused = bed.enforce(ReplayBehavior::Skip, Ok(7));
    assert!(
        matches!(
            &refused,
            Err(StepError::Replay(ReplayError::Store(OnceError::Unavailable(_))))
        ),
        "{refused:?}"
    );
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_mins(1),
        "{took:?}"
    );
}

#[test]
fn the_stored_output_goes_with_the_erased_enforcement_and_the_step_is_not_done_again() {
    let bed = Bed::new(60);
    let done = bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap();
    let erasure = bed.erase(done.placed.receipt.record_id);
    assert_eq!(erasure.erased.len(), 1);
    assert!(
        remains(&erasure, "not done a second time"),
        "{:?}",
        erasure.remains
    );
    assert!(remains(&erasure, "Idempotency-Key"));
    let again = bed.enforce(ReplayBehavior::Skip, Err("must not run"));
    assert!(
        matches!(again, Err(StepError::Replay(ReplayError::OutputLost))),
        "{again:?}"
    );
    assert_eq!(bed.bed.report().flags, ["ERASED 1"]);
    bed.bed.check();
}

#[test]
fn an_erased_step_takes_its_enforcements_and_the_stored_output_with_it() {
    let bed = Bed::new(60);
    let ran = bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap();
    let stood_for = bed.enforce(ReplayBehavior::Skip, Err("must not run")).unwrap();
    let step = step_of("r", 0, |step| {
        step.step.outcome_data = Some(b"7".to_vec());
        step.step.idempotency_key = Some("pay-17".into());
    });
    let step = bed.bed.one(&bed.tenant, step);
    let erasure = bed.erase(step.receipt.record_id);
    let of = |result: &ReplayResult| (result.placed.receipt.record_id, Kind::ReplayEnforced);
    for enforced in [of(&ran), of(&stood_for)] {
        assert!(erasure.erased.contains(&enforced), "{:?}", erasure.erased);
    }
    let again = bed.enforce(ReplayBehavior::Skip, Err("must not run"));
    assert!(
        matches!(again, Err(StepError::Replay(ReplayError::OutputLost))),
        "{again:?}"
    );
    bed.bed.check();
}

#[test]
fn the_stored_output_of_another_record_stays() {
    let bed = Bed::new(60);
    bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap();
    // It runs over the known key; what is stored is the first output.
    let second = bed.enforce(ReplayBehavior::Execute, Ok(8)).unwrap();
    let erasure = bed.erase(second.placed.receipt.record_id);
    assert!(!remains(&erasure, "not done a second time"));
    let again = bed.enforce(ReplayBehavior::Skip, Err("must not run")).unwrap();
    assert_eq!(again.output, Value::Int(7));
}

#[test]
fn an_output_that_could_not_be_taken_away_is_named() {
    let bed = Bed::new(60);
    let done = bed.enforce(ReplayBehavior::Skip, Ok(7)).unwrap();
    bed.failing.store(1, Ordering::Release);
    let erasure = bed.erase(done.placed.receipt.record_id);
    assert!(
        remains(&erasure, "its store cannot answer"),
        "{:?}",
        erasure.remains
    );
    assert!(!remains(&erasure, "not done a second time"));
}

#[test]
fn a_step_that_came_to_something_else_than_is_stored_is_where_its_run_diverged() {
    let t = Bed::new(60);
    let report = || replay_report(t.bed.ledger.store(), &t.bed.run_row(&t.tenant, "r")).unwrap();
    t.enforce(ReplayBehavior::Execute, Ok(1)).unwrap();
    t.enforce(ReplayBehavior::Execute, Ok(1)).unwrap();
    let same = report();
    assert_eq!(
        (same.executed, same.differed, same.first_divergence),
        (2, 0, None)
    );
    let other = t.enforce(ReplayBehavior::Execute, Ok(2)).unwrap();
    let parted = report();
    assert_eq!((parted.executed, parted.differed, parted.mismatched), (3, 1, 0));
    let first = parted.first_divergence.unwrap();
    assert_eq!(first.leaf_index, other.placed.receipt.leaf_index);
    let Body::There(enforced) = first.enforced else {
        panic!("it is on record")
    };
    assert_ne!(enforced.stored_hash, enforced.output_hash);

    // What is erased may have been a divergence: it is counted, not forgotten.
    t.erase(other.placed.receipt.record_id);
    let erased = report();
    assert_eq!((erased.erased, erased.unreadable(), erased.total), (1, 1, 3));
    t.bed.complete(&t.tenant, "r");
    t.bed.check();
}

#[test]
fn enforcements_of_an_archived_run_are_counted_as_archived() {
    let t = Bed::new(60);
    t.enforce(ReplayBehavior::Execute, Ok(1)).unwrap();
    t.enforce(ReplayBehavior::Execute, Ok(2)).unwrap();
    t.bed.complete(&t.tenant, "r");
    t.bed
        .ledger
        .run_seal(&t.tenant, "r", (ActorType::System, None), now())
        .unwrap();
    assert!(
        t.bed
            .ledger
            .retain(t.bed.later(200 * 24 * 3_600 * 1_000))
            .unwrap()
            > 0
    );
    let report = replay_report(t.bed.ledger.store(), &t.bed.run_row(&t.tenant, "r")).unwrap();
    assert_eq!((report.archived, report.erased, report.unreadable()), (2, 0, 2));
    assert_eq!((report.executed, report.first_divergence), (0, None));
    assert_eq!(report.steps[0].enforced, Body::Gone(Gone::Archived));
}
