//! Verdicts over jobs: given once, from what the job did, its window and its signals.

use std::time::Instant;

use evidence::Kind;
use evidence::canonical::{Limits, Value, parse};
use evidence::record::{
    Facts, GovernanceAudit, GovernanceContract, IncidentStatus, ResolutionDecision, SignalDecision,
};
use ledger::{Bind, JobAct, JobError, NewJob, SealedBody};
use store::LeafKey;

use crate::bed::{draft, salt, system, tamper, time};
use crate::jobs::{Bed, contract, retrying, types, under_contract};

#[test]
fn a_step_outside_scope_fails_the_job_and_opens_an_incident_with_its_audit_event() {
    let bed = Bed::new();
    bed.started("j1");
    bed.step("j1", 0, "billing").unwrap();
    bed.health("j1", "{}", "{}").unwrap();
    let verdict = bed.complete("j1").unwrap().verdict.unwrap();
    assert_eq!(verdict.verdict, "FAIL");
    let incident_id = verdict.incident_id.unwrap();
    let incident = bed
        .bed
        .ledger
        .incident(&bed.tenant, &incident_id, None)
        .unwrap()
        .unwrap();
    assert_eq!(incident.status, IncidentStatus::Open);
    let opened = incident.opened.unwrap();
    assert!(opened.summary.contains("A-001"), "{}", opened.summary);
    assert_eq!(bed.count("audit.event_type=LimitBreached"), 1);
    let job = bed.bed.ledger.job(&bed.tenant, "j1").unwrap();
    assert_eq!(job.incident_id, Some(incident_id));
    assert_eq!(bed.action("j1"), "rollback");
    // Nobody overturns it.
    let resolved = bed.bed.ledger.audit_resolve(
        &bed.tenant,
        "j1",
        ResolutionDecision::Proceed,
        "ada",
        "it is fine",
        &bed.moment(),
    );
    assert!(matches!(resolved, Err(JobError::Final(_))));
    bed.bed.check();
}

#[test]
fn an_open_verdict_is_resolved_once_by_a_named_human() {
    let bed = Bed::new();
    bed.started("j1");
    bed.step("j1", 0, "search").unwrap();
    assert_eq!(bed.action("j1"), "wait");
    bed.complete("j1").unwrap();
    assert_eq!(
        (bed.verdict("j1").as_str(), bed.action("j1")),
        ("INCONCLUSIVE", "escalate")
    );
    let resolve = |decision, reason: &str| {
        bed.bed
            .ledger
            .audit_resolve(&bed.tenant, "j1", decision, "ada", reason, &bed.moment())
    };
    let first = resolve(ResolutionDecision::Proceed, "looked at it").unwrap().0;
    let again = resolve(ResolutionDecision::Proceed, "looked at it").unwrap().0;
    assert_eq!(
        (first.receipt, first.fresh, again.fresh),
        (again.receipt, true, false)
    );
    assert!(matches!(
        resolve(ResolutionDecision::Stop, "no"),
        Err(JobError::Conflict(receipt)) if receipt == first.receipt
    ));
    let rollout = bed.bed.ledger.rollout(&bed.tenant, "j1").unwrap();
    assert!(rollout.authorized && rollout.reason.contains("ada"));
    bed.bed.check();
}

#[test]
fn signals_given_while_the_job_ran_decide_and_others_do_not() {
    for (scope, offset_ms, expected) in [
        ("search", 0, "FAIL"),
        ("export", 0, "PASS"),
        ("billing", 0, "PASS"),
        ("search", -3_600_000, "PASS"),
        ("search", 3_600_000, "PASS"),
    ] {
        let bed = Bed::new();
        bed.started("j1");
        bed.step("j1", 0, "search").unwrap();
        bed.health("j1", "{}", "{}").unwrap();
        let at = bed.bed.now().checked_add_micros(offset_ms * 1_000).unwrap();
        bed.signal(scope, SignalDecision::Block, at);
        bed.complete("j1").unwrap();
        assert_eq!(bed.verdict("j1"), expected, "{scope} {offset_ms}");
        // A signal that comes later changes nothing, nor what the verdict rests on.
        bed.signal("search", SignalDecision::Allow, at);
        let evidence = bed.bed.ledger.job_audit_evidence(&bed.tenant, "j1").unwrap();
        assert!(evidence.matches, "{scope} {offset_ms}");
        bed.bed.check();
    }
}

#[test]
fn a_clock_that_steps_back_while_a_job_runs_hides_no_signal_from_its_verdict() {
    for restarts in [false, true] {
        let mut bed = Bed::new();
        bed.started("j1");
        bed.step("j1", 0, "search").unwrap();
        bed.health("j1", "{}", "{}").unwrap();
        bed.bed.later(-3_600_000);
        if restarts {
            bed = bed.reopen();
        }
        // As a signal without a time is given one.
        let at = bed.tenant.now(bed.bed.now());
        bed.signal("search", SignalDecision::Block, at);
        bed.complete("j1").unwrap();
        assert_eq!(bed.verdict("j1"), "FAIL", "restarts: {restarts}");
        assert!(
            bed.bed
                .ledger
                .job_audit_evidence(&bed.tenant, "j1")
                .unwrap()
                .matches
        );
        bed.bed.check();
    }
}

/// The next epoch begins by the clock; what is said of a job that goes on in it does not.
#[test]
fn a_clock_that_was_set_back_hides_no_signal_of_a_job_that_goes_on_after_a_recovery() {
    for restarts in [false, true] {
        let mut bed = Bed::new();
        bed.started("j1");
        bed.step("j1", 0, "search").unwrap();
        bed.health("j1", "{}", "{}").unwrap();
        let ledger_no = bed.tenant.ledger().row.ledger_no;
        let there = bed.bed.size(&bed.tenant);
        bed.bed.one(&bed.tenant, system("lost"));
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
        // As who restored a backup: the process knows nothing of the time before.
        bed = bed.reopen();
        let now = bed.bed.later(-3_600_000);
        bed.bed.ledger.recover("acme", "leaves were lost", now).unwrap();
        if restarts {
            bed = bed.reopen();
        }
        let at = bed.tenant.now(bed.bed.now());
        bed.signal("search", SignalDecision::Block, at);
        bed.complete("j1").unwrap();
        assert_eq!(bed.verdict("j1"), "FAIL", "restarts: {restarts}");
    }
}

#[test]
fn a_signal_on_record_before_the_end_is_of_the_job_though_the_end_was_received_first() {
    let bed = Bed::new();
    bed.started("j1");
    bed.step("j1", 0, "search").unwrap();
    bed.health("j1", "{}", "{}").unwrap();
    let received = bed.moment();
    let at = bed.tenant.now(bed.bed.later(5_000));
    bed.signal("search", SignalDecision::Block, at);
    let end = JobAct::Complete(Value::Null);
    bed.bed
        .ledger
        .job_act(&bed.tenant, "j1", &end, &received)
        .unwrap();
    assert_eq!(bed.verdict("j1"), "FAIL");
    bed.bed.check();
}

#[test]
fn a_clock_that_steps_back_moves_no_job_into_a_window_that_is_over() {
    let bed = Bed::new();
    let over = GovernanceContract {
        activation_window_end: Some(time("2026-11-21T10:00:00Z")),
        ..contract("over")
    };
    bed.bed.later(7_200_000);
    bed.bed
        .ledger
        .contract_record(&bed.tenant, &over, &bed.moment())
        .unwrap();
    // To half past nine.
    bed.bed.later(-5_400_000);
    let new = NewJob {
        contract_id: Some("over".into()),
        ..under_contract("j1")
    };
    bed.create(&new).unwrap();
    bed.start("j1").unwrap();
    bed.step("j1", 0, "search").unwrap();
    bed.health("j1", "{}", "{}").unwrap();
    bed.complete("j1").unwrap();
    assert_eq!(bed.verdict("j1"), "FAIL");
    bed.bed.check();
}

#[test]
fn who_waits_for_the_next_attempt_waits_by_the_clock_that_there_is() {
    let bed = Bed::new();
    let retry = r#"{"strategy":"fixed","base_delay_seconds":30,"jitter_factor":0}"#;
    bed.create(&retrying("j1", retry)).unwrap();
    bed.start("j1").unwrap();
    bed.bed.later(-3_600_000);
    let job = bed.fail("j1", "timeout").unwrap().job;
    let attempt = job.history.last().unwrap();
    let soon = bed.bed.now().checked_add_micros(30_000_000).unwrap();
    assert!(attempt.next_attempt_at.unwrap() <= soon);
    // When it failed is evidence, and not before it began.
    assert!(attempt.timestamp >= job.started_at.unwrap());
    bed.bed.check();
}

#[test]
fn many_signals_are_found_by_day_and_capability() {
    let bed = Bed::new();
    for n in 0..40 {
        bed.signal(&format!("other{n}"), SignalDecision::Block, bed.bed.now());
    }
    bed.started("j1");
    bed.step("j1", 0, "search").unwrap();
    bed.health("j1", "{}", "{}").unwrap();
    bed.signal("search", SignalDecision::Block, bed.bed.now());
    bed.signal("search", SignalDecision::Allow, bed.bed.now());
    bed.complete("j1").unwrap();
    let audit = bed.bed.ledger.job_audit(&bed.tenant, "j1").unwrap().unwrap();
    assert_eq!(audit.verdict(), "FAIL");
    let evidence = bed.bed.ledger.job_audit_evidence(&bed.tenant, "j1").unwrap();
    let input = parse(&evidence.input, Limits::default()).unwrap();
    assert_eq!(input.get("signals").unwrap().as_array().unwrap().len(), 2);
    assert!(evidence.matches);
}

#[test]
fn evidence_is_frozen_and_the_same_after_a_restart() {
    let bed = Bed::new();
    bed.good("j1");
    let before = bed.bed.ledger.job_audit_evidence(&bed.tenant, "j1").unwrap();
    assert!(before.matches);
    let bed = bed.reopen();
    let after = bed.bed.ledger.job_audit_evidence(&bed.tenant, "j1").unwrap();
    assert!(after.matches);
    assert_eq!(
        (after.input, after.evidence_hash),
        (before.input, before.evidence_hash)
    );
}

#[test]
fn a_job_without_contract_or_cancelled_has_no_verdict_and_escalates() {
    let bed = Bed::new();
    let free = NewJob {
        contract_id: None,
        ..under_contract("free")
    };
    bed.create(&free).unwrap();
    assert_eq!(bed.action("free"), "escalate");
    bed.start("free").unwrap();
    assert_eq!(bed.complete("free").unwrap().verdict, None);
    assert_eq!(bed.action("free"), "escalate");
    bed.started("off");
    bed.act("off", JobAct::Cancel("not today".into())).unwrap();
    assert_eq!(bed.action("off"), "escalate");
    assert!(bed.bed.ledger.job_audit(&bed.tenant, "off").unwrap().is_none());
    assert!(matches!(
        bed.bed.ledger.rollout(&bed.tenant, "nobody"),
        Err(JobError::Unknown)
    ));
    bed.bed.check();
}

/// As a tenant's rules left them once. There is one, so nobody is told to wait for it.
#[test]
fn a_verdict_on_record_that_cannot_be_read_escalates() {
    let bed = Bed::new();
    bed.started("j1");
    let body = br#"{"audit_id":"a1","job_id":"j1","verdict":"<REDACTED>"}"#;
    let facts = GovernanceAudit::read(body).unwrap().facts().unwrap();
    let kind = Kind::GovernanceAudit;
    let sealed = SealedBody::seal_clean(kind, salt(), body).unwrap();
    let audit = draft(kind, Bind::None, Facts::GovernanceAudit(facts), sealed);
    bed.bed.one(&bed.tenant, audit);
    let rollout = bed.bed.ledger.rollout(&bed.tenant, "j1").unwrap();
    assert_eq!(
        (rollout.action, rollout.authorized, rollout.verdict),
        ("escalate", false, None)
    );
    bed.bed.check();
}

#[test]
fn a_window_that_is_still_closed_is_said_and_a_job_outside_it_fails() {
    let bed = Bed::new();
    let contract = GovernanceContract {
        contract_id: "later".into(),
        scope: vec!["search".into()],
        proposed_changes: Value::Null,
        activation_window_start: Some(time("2027-01-01T00:00:00Z")),
        activation_window_end: Some(time("2027-01-02T00:00:00Z")),
    };
    bed.bed
        .ledger
        .contract_record(&bed.tenant, &contract, &bed.moment())
        .unwrap();
    let new = NewJob {
        contract_id: Some("later".into()),
        ..under_contract("j1")
    };
    bed.create(&new).unwrap();
    bed.start("j1").unwrap();
    bed.complete("j1").unwrap();
    assert_eq!(bed.verdict("j1"), "FAIL");
    assert_eq!(types(&bed.events("j1"))[..2], ["job_created", "job_scheduled"]);
    bed.bed.check();
}

#[test]
fn a_job_of_thousands_of_steps_recorded_side_by_side_is_judged_whole() {
    let bed = Bed::new();
    bed.started("j1");
    // Recorded side by side, as a runner does that does not wait.
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let bed = &bed;
            scope.spawn(move || {
                for index in (worker..2_000).step_by(8) {
                    bed.step("j1", index, "search").unwrap();
                }
            });
        }
    });
    bed.health("j1", "{}", "{}").unwrap();
    let began = Instant::now();
    bed.complete("j1").unwrap();
    let took = began.elapsed();
    let audit = bed.bed.ledger.job_audit(&bed.tenant, "j1").unwrap().unwrap();
    let steps = audit
        .result
        .get("evidence_summary")
        .unwrap()
        .get("steps_executed");
    assert_eq!((audit.verdict(), steps), ("PASS", Some(&Value::Int(2_000))));
    assert!(took.as_secs() < 30, "{took:?}");
    bed.bed.check();
}
