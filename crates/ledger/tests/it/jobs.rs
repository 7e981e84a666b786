//! Jobs: their life, attempt by attempt, and who may follow it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use evidence::canonical::{Finite, Limits, Value, parse};
use evidence::job::{ProgressUpdate, Stage};
use evidence::record::{GovernanceContract, GovernanceSignal, JobEvent, SignalDecision};
use evidence::{TimesGiven, Timestamp};
use ledger::{JobAct, JobDone, JobError, Moment, NewJob, SubmitError, Tenant};
use store::{FacetQuery, Fault, LeafKey};

use crate::bed::{TestLedger, system, tamper, time};

pub fn new_id(_: Timestamp) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("id-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn json(text: &str) -> Value {
    parse(text.as_bytes(), Limits::default()).unwrap()
}

/// A tenant with a contract over `search` and `export`, open for hours around now.
pub struct Bed {
    pub bed: TestLedger,
    pub tenant: Arc<Tenant>,
}

impl Bed {
    pub fn new() -> Self {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let bed = Self { bed, tenant };
        bed.contract("c1").unwrap();
        bed
    }

    pub fn reopen(self) -> Self {
        let bed = self.bed.reopen();
        let tenant = bed.ledger.tenant("acme").unwrap();
        Self { bed, tenant }
    }

    pub fn moment(&self) -> Moment {
        Moment {
            at: self.bed.now(),
            draw: 0.5,
            new_id,
        }
    }

    pub fn contract(&self, contract_id: &str) -> Result<ledger::Placed, JobError> {
        let contract = contract(contract_id);
        self.bed
            .ledger
            .contract_record(&self.tenant, &contract, &self.moment())
    }

    pub fn create(&self, new: &NewJob) -> Result<JobDone, JobError> {
        self.act(&new.job_id, JobAct::Create(new.clone()))
    }

    pub fn act(&self, job_id: &str, act: JobAct) -> Result<JobDone, JobError> {
        self.bed
            .ledger
            .job_act(&self.tenant, job_id, &act, &self.moment())
    }

    /// A started job under the contract.
    pub fn started(&self, job_id: &str) {
        self.create(&under_contract(job_id)).unwrap();
        self.start(job_id).unwrap();
    }

    pub fn start(&self, job_id: &str) -> Result<JobDone, JobError> {
        self.act(job_id, JobAct::Start)
    }

    pub fn step(&self, job_id: &str, index: u32, target: &str) -> Result<JobDone, JobError> {
        let output = json(&format!(r#"{{"target":"{target}","rollback_action":"restore"}}"#));
        let step = JobAct::Step {
            step_index: index,
            status: "COMPLETED".into(),
            output,
        };
        self.act(job_id, step)
    }

    pub fn health(&self, job_id: &str, before: &str, after: &str) -> Result<JobDone, JobError> {
        let health = JobAct::Health {
            before: json(before),
            after: json(after),
        };
        self.act(job_id, health)
    }

    pub fn progress(&self, job_id: &str, percentage: f64) -> Result<JobDone, JobError> {
        let update = ProgressUpdate {
            percentage: Finite::new(percentage),
            ..ProgressUpdate::default()
        };
        self.act(job_id, JobAct::Progress(update))
    }

    pub fn complete(&self, job_id: &str) -> Result<JobDone, JobError> {
        self.act(job_id, JobAct::Complete(json(r#"{"ok":true}"#)))
    }

    pub fn fail(&self, job_id: &str, error: &str) -> Result<JobDone, JobError> {
        self.act(job_id, JobAct::Fail(error.into()))
    }

    pub fn signal(&self, scope: &str, decision: SignalDecision, at: Timestamp) {
        let signal = GovernanceSignal {
            signal_id: new_id(at),
            signal_type: "freeze".into(),
            scope: scope.into(),
            decision,
            at,
        };
        self.bed
            .ledger
            .signal_record(&self.tenant, &signal, &TimesGiven::default(), &self.moment())
            .unwrap();
    }

    /// A job that keeps to its contract, ended.
    pub fn good(&self, job_id: &str) -> JobDone {
        self.started(job_id);
        self.step(job_id, 0, "search").unwrap();
        self.health(job_id, r#"{"search":"HEALTHY"}"#, r#"{"search":"HEALTHY"}"#)
            .unwrap();
        self.complete(job_id).unwrap()
    }

    pub fn verdict(&self, job_id: &str) -> String {
        let audit = self.bed.ledger.job_audit(&self.tenant, job_id).unwrap().unwrap();
        audit.verdict().to_owned()
    }

    pub fn action(&self, job_id: &str) -> &'static str {
        self.bed.ledger.rollout(&self.tenant, job_id).unwrap().action
    }

    pub fn count(&self, facet: &str) -> u64 {
        let query = FacetQuery {
            facets: vec![facet.to_owned()],
            ..FacetQuery::default()
        };
        let store = self.bed.ledger.store();
        store.facet_count(self.tenant.tenant_no, &query, 100).unwrap().0
    }

    /// The words of the job's events, in ledger order.
    pub fn events(&self, job_id: &str) -> Vec<JobEvent> {
        let query = FacetQuery {
            facets: vec![format!("job={job_id}"), "kind=job.event".to_owned()],
            limit: 1_000,
            ..FacetQuery::default()
        };
        let found = self.bed.ledger.records(&self.tenant).find(&query).unwrap();
        found
            .records
            .iter()
            .map(|record| JobEvent::read(record.body.bytes().unwrap()).unwrap().0)
            .collect()
    }
}

pub fn contract(contract_id: &str) -> GovernanceContract {
    GovernanceContract {
        contract_id: contract_id.into(),
        scope: vec!["search".into(), "export".into()],
        proposed_changes: json(r#"{"capability_name":"search"}"#),
        activation_window_start: Some(time("2026-11-21T00:00:00Z")),
        activation_window_end: Some(time("2026-11-22T00:00:00Z")),
    }
}

pub fn under_contract(job_id: &str) -> NewJob {
    NewJob {
        job_id: job_id.into(),
        handler: "deploy".into(),
        contract_id: Some("c1".into()),
        ..NewJob::default()
    }
}

pub fn retrying(job_id: &str, retry: &str) -> NewJob {
    NewJob {
        retry: json(retry),
        ..under_contract(job_id)
    }
}

pub fn types(events: &[JobEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event_type.as_str()).collect()
}

#[test]
fn a_job_inside_its_contract_passes_and_its_events_are_a_chain() {
    let bed = Bed::new();
    let done = bed.good("j1");
    let verdict = done.verdict.unwrap();
    assert_eq!((verdict.verdict, verdict.incident_id), ("PASS", None));
    // The verdict stands next to the event that ended the job.
    assert_eq!(verdict.receipt.leaf_index, done.placed.receipt.leaf_index + 1);
    assert_eq!(done.job.progress.stage, Stage::Completed);
    let events = bed.events("j1");
    assert_eq!(
        types(&events),
        [
            "job_created",
            "job_started",
            "job_progress",
            "job_progress",
            "job_completed"
        ]
    );
    for pair in events.windows(2) {
        assert_eq!(pair[1].previous_event_hash, Some(pair[0].integrity_hash()));
    }
    assert!(events[4].result_hash.is_some() && events[4].metadata.get("stage").is_some());
    assert_eq!(bed.action("j1"), "proceed");
    bed.bed.check();
}

#[test]
fn a_failed_attempt_is_made_again_while_one_is_left_and_its_history_stays() {
    let bed = Bed::new();
    let retry = r#"{"strategy":"linear","base_delay_seconds":10,"max_retries":2,"jitter_factor":0.5}"#;
    bed.create(&retrying("j1", retry)).unwrap();
    bed.start("j1").unwrap();
    bed.step("j1", 0, "search").unwrap();
    bed.progress("j1", 60.0).unwrap();
    let failed = bed.fail("j1", "timeout").unwrap();
    assert_eq!((failed.job.progress.stage, failed.verdict), (Stage::Queued, None));
    assert_eq!(failed.job.attempt_number, 2);
    // 10 s and half of a half more.
    assert_eq!(
        failed.job.history[0].delay_seconds.get().to_bits(),
        12.0_f64.to_bits()
    );
    assert_eq!(bed.action("j1"), "wait");
    let started = bed.start("j1").unwrap().job;
    assert_eq!(started.progress.percentage.to_bits(), 0.0_f64.to_bits());
    // The same index in another attempt is another step.
    bed.step("j1", 0, "export").unwrap();
    let ended = bed.fail("j1", "again").unwrap();
    assert_eq!(ended.job.progress.stage, Stage::Failed);
    assert!(ended.verdict.is_some());
    assert_eq!(
        types(&bed.events("j1")),
        [
            "job_created",
            "job_started",
            "job_progress",
            "job_progress",
            "job_failed",
            "job_retried",
            "job_started",
            "job_progress",
            "job_failed",
            "job_dead_lettered"
        ]
    );
    let bed = bed.reopen();
    let job = bed.bed.ledger.job(&bed.tenant, "j1").unwrap();
    let history: Vec<_> = job
        .history
        .iter()
        .map(|attempt| {
            (
                attempt.attempt_number,
                attempt.will_retry,
                attempt.next_attempt_at.is_some(),
            )
        })
        .collect();
    assert_eq!(history, [(1, true, true), (2, false, false)]);
    assert_eq!(job.steps_recorded, 2);
    let audit = bed.bed.ledger.job_audit(&bed.tenant, "j1").unwrap().unwrap();
    let targets = audit
        .result
        .get("evidence_summary")
        .unwrap()
        .get("executed_targets");
    assert_eq!(targets, Some(&json(r#"["export","search"]"#)));
    bed.bed.check();
}

/// An attempt that begins forgets the snapshot after the one before it.
#[test]
fn a_snapshot_after_is_taken_of_an_attempt_that_is_under_way() {
    let bed = Bed::new();
    bed.create(&retrying("j1", r#"{"max_retries":2}"#)).unwrap();
    let healthy = r#"{"search":"HEALTHY"}"#;
    let early = |before| {
        let refused = bed.health("j1", before, r#"{"search":"DEGRADED"}"#);
        assert!(
            matches!(refused, Err(JobError::Stage(Stage::Queued))),
            "{refused:?}"
        );
    };
    early("null");
    early(healthy);
    bed.health("j1", healthy, "null").unwrap();
    bed.start("j1").unwrap();
    let first = bed.health("j1", "null", healthy).unwrap().placed;
    bed.fail("j1", "timeout").unwrap();
    let again = bed.health("j1", "null", healthy).unwrap().placed;
    assert_eq!((again.receipt, again.fresh), (first.receipt, false));
    bed.start("j1").unwrap();
    bed.step("j1", 0, "search").unwrap();
    assert!(bed.health("j1", "null", healthy).unwrap().placed.fresh);
    assert_eq!(bed.complete("j1").unwrap().verdict.unwrap().verdict, "PASS");
}

#[test]
fn an_error_that_is_not_worth_it_ends_the_job_at_once() {
    let bed = Bed::new();
    bed.create(&retrying("j1", r#"{"retryable_errors":["timeout"]}"#))
        .unwrap();
    bed.start("j1").unwrap();
    assert_eq!(
        bed.fail("j1", "disk full").unwrap().job.progress.stage,
        Stage::Failed
    );
}

#[test]
fn of_two_who_complete_a_job_at_once_one_is_told_that_it_is_done() {
    let bed = Bed::new();
    for round in 0..20 {
        let job_id = format!("j{round}");
        bed.started(&job_id);
        let barrier = Barrier::new(4);
        let won: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        match bed.complete(&job_id) {
                            Ok(done) => {
                                assert!(done.verdict.is_some());
                                1
                            }
                            Err(JobError::Stage(Stage::Completed)) => 0,
                            Err(error) => panic!("{error}"),
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(won, 1);
        assert_eq!(bed.count(&format!("job.audit={job_id}")), 1);
    }
    bed.bed.check();
}

#[test]
fn what_may_not_follow_is_refused_and_writes_nothing() {
    let bed = Bed::new();
    let stage = |result: Result<JobDone, JobError>| match result {
        Err(JobError::Stage(stage)) => stage,
        other => panic!("{other:?}"),
    };
    assert!(matches!(bed.start("nobody"), Err(JobError::Unknown)));
    assert!(matches!(bed.step("nobody", 0, "search"), Err(JobError::Unknown)));
    bed.create(&under_contract("j1")).unwrap();
    let size = bed.bed.size(&bed.tenant);
    assert_eq!(stage(bed.complete("j1")), Stage::Queued);
    assert_eq!(stage(bed.fail("j1", "x")), Stage::Queued);
    assert_eq!(stage(bed.progress("j1", 5.0)), Stage::Queued);
    assert_eq!(stage(bed.step("j1", 0, "search")), Stage::Queued);
    assert_eq!(bed.bed.size(&bed.tenant), size);
    bed.start("j1").unwrap();
    assert_eq!(stage(bed.start("j1")), Stage::Starting);
    bed.complete("j1").unwrap();
    let size = bed.bed.size(&bed.tenant);
    let cancelled = bed.act("j1", JobAct::Cancel("late".into()));
    for result in [
        bed.complete("j1"),
        bed.fail("j1", "x"),
        bed.start("j1"),
        bed.progress("j1", 5.0),
        bed.step("j1", 0, "search"),
        bed.health("j1", "{}", "{}"),
        cancelled,
    ] {
        assert_eq!(stage(result), Stage::Completed);
    }
    assert_eq!(bed.bed.size(&bed.tenant), size);
    bed.bed.check();
}

#[test]
fn the_same_again_is_the_first_receipt_and_other_content_a_conflict() {
    let bed = Bed::new();
    let contract = bed.contract("c2").unwrap();
    assert_eq!(
        bed.contract("c2").unwrap().receipt.leaf_index,
        contract.receipt.leaf_index
    );
    let other = GovernanceContract {
        contract_id: "c2".into(),
        scope: vec!["everything".into()],
        proposed_changes: Value::Null,
        activation_window_start: None,
        activation_window_end: None,
    };
    let changed = bed.bed.ledger.contract_record(&bed.tenant, &other, &bed.moment());
    assert!(matches!(changed, Err(JobError::Conflict(_))));
    let job = bed.create(&under_contract("j1")).unwrap().placed;
    assert!(job.fresh);
    bed.start("j1").unwrap();
    let step = bed.step("j1", 0, "search").unwrap().placed;
    bed.health("j1", "{}", "null").unwrap();
    let bed = bed.reopen();
    let size = bed.bed.size(&bed.tenant);
    let again = bed.create(&under_contract("j1")).unwrap().placed;
    assert_eq!(
        (again.receipt.leaf_index, again.fresh),
        (job.receipt.leaf_index, false)
    );
    let again = bed.step("j1", 0, "search").unwrap().placed;
    assert_eq!(
        (again.receipt.leaf_index, again.fresh),
        (step.receipt.leaf_index, false)
    );
    assert!(!bed.health("j1", "{}", "null").unwrap().placed.fresh);
    assert!(matches!(bed.step("j1", 0, "export"), Err(JobError::Conflict(_))));
    assert!(matches!(
        bed.health("j1", r#"{"search":"DEGRADED"}"#, "null"),
        Err(JobError::Conflict(_))
    ));
    assert!(matches!(
        bed.create(&retrying("j1", r#"{"max_retries":1}"#)),
        Err(JobError::Conflict(_))
    ));
    assert_eq!(bed.bed.size(&bed.tenant), size);
}

#[test]
fn rules_are_kept_before_anything_is_written() {
    let bed = Bed::new();
    let field = |result: Result<JobDone, JobError>| match result {
        Err(JobError::Rule(rule)) => rule.field,
        Err(JobError::Input(field, _)) => field,
        other => panic!("{other:?}"),
    };
    let nameless = NewJob {
        job_id: String::new(),
        ..under_contract("")
    };
    let lost = NewJob {
        contract_id: Some("nobody".into()),
        ..under_contract("j1")
    };
    assert_eq!(field(bed.create(&nameless)), "job_id");
    assert_eq!(field(bed.create(&lost)), "contract_id");
    for retry in [
        "[]",
        r#"{"strategy":"never"}"#,
        r#"{"max_retries":1001}"#,
        r#"{"colour":1}"#,
        r#"{"jitter_factor":2}"#,
    ] {
        assert_eq!(field(bed.create(&retrying("j1", retry))), "retry", "{retry}");
    }
    bed.started("j1");
    for (before, named) in [("[]", "before"), ("7", "before"), (r#""HEALTHY""#, "before")] {
        assert_eq!(field(bed.health("j1", before, "null")), named);
    }
    assert_eq!(field(bed.health("j1", "null", "null")), "before");
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(ledger::HEALTH_BYTES_MAX));
    assert_eq!(field(bed.health("j1", "null", &large)), "after");
    let ended = ProgressUpdate {
        stage: Some(Stage::Completed),
        ..ProgressUpdate::default()
    };
    let progress = |update| bed.act("j1", JobAct::Progress(update));
    assert_eq!(field(progress(ended)), "stage");
    let metadata = ProgressUpdate {
        metadata: Some(json(&format!(r#"{{"x":"{}"}}"#, "x".repeat(70_000)))),
        ..ProgressUpdate::default()
    };
    assert_eq!(field(progress(metadata)), "metadata");
    assert_eq!(field(bed.fail("j1", &"x".repeat(5_000))), "error");
    let step = |status: &str, output: &str| {
        let step = JobAct::Step {
            step_index: 0,
            status: status.into(),
            output: json(output),
        };
        bed.act("j1", step)
    };
    assert_eq!(field(step("DONE", "null")), "status");
    assert_eq!(field(step("COMPLETED", "[]")), "output");
    let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(ledger::STEP_BYTES_MAX));
    assert_eq!(field(step("COMPLETED", &long)), "output");
    assert_eq!(bed.events("j1").len(), 2);
}

#[test]
fn a_commit_that_is_lost_leaves_the_job_as_it_was_and_one_that_is_not_has_one_verdict() {
    for fault in [Fault::AppendLost, Fault::AppendUnacknowledged] {
        let bed = Bed::new();
        bed.started("j1");
        bed.bed.fault.arm(fault);
        // The sequencer looks whether it happened, and answers.
        bed.complete("j1").unwrap();
        assert!(matches!(
            bed.complete("j1"),
            Err(JobError::Stage(Stage::Completed))
        ));
        assert_eq!(bed.count("job.audit=j1"), 1, "{fault:?}");
        bed.bed.check();
    }
    for (fault, expected) in [(Fault::AppendRefused, 0), (Fault::AppendUnsynced, 1)] {
        let bed = Bed::new();
        bed.started("j1");
        bed.bed.fault.arm(fault);
        assert!(matches!(
            bed.complete("j1"),
            Err(JobError::Submit(
                SubmitError::Stopped(_) | SubmitError::Unknown(_)
            ))
        ));
        let bed = bed.reopen();
        let ended = bed.bed.ledger.job(&bed.tenant, "j1").unwrap().ended_at.is_some();
        assert_eq!(
            (bed.count("job.audit=j1"), ended),
            (expected, expected == 1),
            "{fault:?}"
        );
        if !ended {
            bed.complete("j1").unwrap();
        }
        assert_eq!(bed.count("job.audit=j1"), 1);
        bed.bed.check();
    }
}

#[test]
fn a_slow_subscriber_never_holds_the_job_and_sees_its_end() {
    let bed = Bed::new();
    bed.started("j1");
    let mut watch = bed.bed.ledger.progress_subscribe(&bed.tenant, "j1").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(watch.next()).unwrap().stage, Stage::Starting);
    for n in 1..50 {
        bed.progress("j1", f64::from(n)).unwrap();
    }
    let seen = runtime.block_on(watch.next()).unwrap();
    assert_eq!(seen.percentage.to_bits(), 49.0_f64.to_bits());
    bed.complete("j1").unwrap();
    assert_eq!(runtime.block_on(watch.next()).unwrap().stage, Stage::Completed);
    assert!(runtime.block_on(watch.next()).is_none());
    let mut late = bed.bed.ledger.progress_subscribe(&bed.tenant, "j1").unwrap();
    assert_eq!(runtime.block_on(late.next()).unwrap().stage, Stage::Completed);
    assert!(runtime.block_on(late.next()).is_none());
    assert!(matches!(
        bed.bed.ledger.progress_subscribe(&bed.tenant, "nobody"),
        Err(JobError::Unknown)
    ));
}

/// What a process knew of a job before its ledger lost leaves is not what the next epoch goes on from.
#[test]
fn a_job_whose_start_was_lost_is_what_the_ledger_has_of_it_after_a_recovery() {
    let bed = Bed::new();
    bed.create(&under_contract("j1")).unwrap();
    let ledger_no = bed.tenant.ledger().row.ledger_no;
    let there = bed.bed.size(&bed.tenant);
    bed.start("j1").unwrap();
    bed.bed.sign();
    let leaf = LeafKey::new(ledger_no, there).as_i64();
    tamper(
        bed.bed.path(),
        &format!(
            "DELETE FROM leaf_blocks WHERE first_leaf >= {leaf};
             DELETE FROM bodies WHERE leaf >= {leaf};
             DELETE FROM facets WHERE leaf >= {leaf};
             DELETE FROM checkpoints WHERE ledger_no = {ledger_no} AND tree_size > {there}"
        ),
    );
    assert!(bed.bed.try_submit(&bed.tenant, vec![system("x")]).is_err());
    bed.bed
        .ledger
        .recover("acme", "leaves were lost", bed.bed.now())
        .unwrap();
    bed.start("j1").unwrap();
}
