//! Seals: what they stand on, and what keeps runs from being sealed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use evidence::canonical::{self, Limits, Value};
use evidence::record::{CaptureFailure, EnvironmentEvidence};
use evidence::redact::RedactionSettings;
use evidence::{ActorType, Timestamp};
use ledger::{Changer, EraseAsked, EraseError, Erasure, IntegrityError, Placed, Tenant};
use store::{Fault, LeafKey};

use crate::bed::{Span, TestLedger, run, step, tamper};

fn failure() -> CaptureFailure {
    CaptureFailure::of_words("traces", "capture_failed", Some("permanent"), None).unwrap()
}

/// A run that has ended.
fn ended(t: &TestLedger, tenant: &Arc<Tenant>, run_id: &str) {
    t.all(tenant, vec![run(run_id), step(run_id, 0)]);
    t.complete(tenant, run_id);
}

fn is_sealed(t: &TestLedger, tenant: &Arc<Tenant>, run_id: &str) -> bool {
    t.ledger.run_integrity(tenant, run_id).unwrap().seal.is_some()
}

/// A minute later all that has ended is due.
fn due(t: &TestLedger) -> Timestamp {
    t.later(60_000)
}

#[test]
fn a_seal_stands_on_the_records_that_it_judges() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    ended(&t, &tenant, "r");
    // After they were judged and before they are counted there is one more.
    let (ledger, to, at) = (t.ledger.clone(), Arc::clone(&tenant), t.now());
    t.fault.before("run_records", 2, move || {
        ledger.capture_failure(&to, "r", &failure(), at).unwrap();
    });
    let (placed, answer) = t
        .ledger
        .run_seal(&tenant, "r", (ActorType::System, None), t.now())
        .unwrap();
    assert!(placed.fresh);
    let failures = answer.get("capture_failures").and_then(Value::as_array).unwrap();
    assert_eq!(
        (failures.len(), answer.get("records_count")),
        (1, Some(&Value::Int(5)))
    );

    ended(&t, &tenant, "by itself");
    let (ledger, to, at) = (t.ledger.clone(), Arc::clone(&tenant), t.now());
    t.fault.before("run_records", 2, move || {
        ledger.capture_failure(&to, "by itself", &failure(), at).unwrap();
    });
    assert_eq!(t.ledger.seal_due(due(&t)), 0, "it moved");
    assert_eq!(t.ledger.seal_due(due(&t)), 1);
    let sealed = t.ledger.run_integrity(&tenant, "by itself").unwrap();
    let failures = sealed
        .answer
        .get("capture_failures")
        .and_then(Value::as_array)
        .unwrap();
    assert_eq!(failures.len(), 1);
    t.check();
}

#[test]
fn a_run_that_its_root_ended_is_settled_by_who_seals_it() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let root = Span::default();
    let child = |trace: u8, span: u8| Span {
        trace,
        span,
        parent: Some(1),
        ..Span::default()
    };
    t.all(
        &tenant,
        vec![root.draft(), child(1, 2).draft(), child(2, 2).draft()],
    );
    let seal = |run_id: &str| {
        t.ledger
            .run_seal(&tenant, run_id, (ActorType::System, None), t.now())
    };
    assert!(matches!(
        seal(&child(2, 2).run_id()),
        Err(IntegrityError::RunRunning)
    ));
    // After the run was read to be settled and before its end is placed there is one step more.
    let (ledger, to, at) = (t.ledger.clone(), Arc::clone(&tenant), t.now());
    t.fault.before("run_records", 1, move || {
        let more = child(1, 3).draft();
        ledger
            .submit_blocking(&to, vec![more], at, false)
            .unwrap()
            .remove(0)
            .unwrap();
    });
    let (placed, answer) = seal(&root.run_id()).unwrap();
    assert!(placed.fresh);
    let counts = answer.get("evidence_counts").unwrap();
    assert_eq!(counts.get("trace_steps"), Some(&Value::Int(3)));
    t.one(&tenant, child(1, 4).draft());
    let state = t.run_row(&tenant, &root.run_id()).state;
    assert!(state.settled && state.root_hash.is_some());
    assert_eq!((state.total_steps, state.late_count), (3, 1));
    assert!(matches!(seal(&root.run_id()), Err(IntegrityError::Sealed(_))));
    assert_eq!(t.ledger.settle_due(due(&t)).unwrap(), 0);
    assert_eq!(t.ledger.seal_due(due(&t)), 0);
    t.check();
}

#[test]
fn what_stops_between_settling_and_sealing_leaves_a_run_that_is_due_at_once() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let roots = [1, 2].map(|trace| Span {
        trace,
        ..Span::default()
    });
    t.all(&tenant, roots.iter().map(Span::draft).collect());
    for root in &roots {
        // It is found to be sealed, to be settled, and to be sealed again: then its records cannot be read.
        let fault = Arc::clone(&t.fault);
        t.fault
            .before("run_find", 3, move || fault.arm(Fault::ReadBy("run_records")));
        let stopped = t
            .ledger
            .run_seal(&tenant, &root.run_id(), (ActorType::System, None), t.now());
        assert!(matches!(stopped, Err(IntegrityError::Read(_))));
        assert!(t.run_row(&tenant, &root.run_id()).state.settled);
        assert!(!is_sealed(&t, &tenant, &root.run_id()));
    }
    drop(tenant);
    let t = t.reopen();
    let tenant = t.ledger.tenant("acme").unwrap();
    t.ledger
        .run_seal(&tenant, &roots[0].run_id(), (ActorType::System, None), t.now())
        .unwrap();
    assert_eq!(t.ledger.seal_due(t.now()), 1, "by itself, without a wait");
    assert!(is_sealed(&t, &tenant, &roots[1].run_id()));
    t.check();
}

#[test]
fn of_a_long_run_few_leaves_are_held_at_once() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    // Each may lie ahead of the server's clock, as it began long after the run's first record.
    let spans = (1..=100).map(|span| Span {
        span,
        start: 3_600_000,
        end: 3_600_001,
        ..Span::default()
    });
    t.one(&tenant, Span::default().draft());
    t.all(&tenant, spans.skip(1).map(|span| span.draft()).collect());
    let again = Arc::new(AtomicBool::new(false));
    let read = Arc::clone(&again);
    t.fault
        .before("leaves_get", 2, move || read.store(true, Ordering::Relaxed));
    let answer = t
        .ledger
        .run_integrity(&tenant, &Span::default().run_id())
        .unwrap()
        .answer;
    assert!(again.load(Ordering::Relaxed), "99 leaves are read 64 at once");
    let facts = answer.get("completeness").unwrap();
    assert_eq!(facts.get("clock_sane"), Some(&Value::from("fail")));
}

#[test]
fn a_read_that_fails_once_keeps_no_run_from_being_sealed_later() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    for run_id in ["a", "b", "c"] {
        ended(&t, &tenant, run_id);
    }
    t.fault.arm(Fault::ReadBy("run_records"));
    assert_eq!(t.ledger.seal_due(due(&t)), 2);
    assert_eq!(t.ledger.seal_due(due(&t)), 1);
    assert_eq!(t.ledger.seal_due(due(&t)), 0);
    assert!(is_sealed(&t, &tenant, "a"));
    t.check();
}

#[test]
fn what_keeps_one_tenants_runs_from_being_sealed_keeps_no_others() {
    let t = TestLedger::new();
    let tenants: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|name| t.tenant(name))
        .collect();
    for tenant in &tenants {
        ended(&t, tenant, "r");
    }
    // The instance's own ledger comes first.
    t.fault.arm(Fault::ReadBy("facet_find"));
    t.fault.arm(Fault::ReadBy("facet_find"));
    assert_eq!(t.ledger.seal_due(due(&t)), 2);
    assert_eq!(t.ledger.seal_due(due(&t)), 1);
    assert!(tenants.iter().all(|tenant| is_sealed(&t, tenant, "r")));
    t.check();
}

#[test]
fn a_tenants_patterns_take_nothing_from_a_seal_nor_from_what_is_sent_again() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let settings = canonical::parse(
        br#"{"patterns":[{"name":"hex","pattern":"[0-9a-f]{32,}"},{"name":"words","pattern":"[A-Z]{4,}|[a-z]+_[a-z]+"}]}"#,
        Limits::default(),
    )
    .unwrap();
    let settings = RedactionSettings::read(&settings).unwrap();
    t.ledger
        .redaction_change(&tenant, &settings, &Changer::local(), t.now())
        .unwrap();
    ended(&t, &tenant, "r");
    let environment = EnvironmentEvidence {
        sdk_mode: "inline".into(),
        ..EnvironmentEvidence::default()
    };
    let capture = || {
        t.ledger
            .capture_environment(&tenant, "r", &environment, None, t.now())
            .unwrap()
    };
    let first = capture();
    let again = capture();
    assert_eq!((again.fresh, again.receipt), (false, first.receipt));
    assert_eq!(t.ledger.seal_due(due(&t)), 1);
    let sealed = t.ledger.run_integrity(&tenant, "r").unwrap().answer;
    assert_eq!(sealed.get("state"), Some(&Value::from("SEALED")));
    assert!(
        sealed
            .get("evidence_counts")
            .unwrap()
            .get("trace_steps")
            .is_some()
    );
    t.check();
}

fn erase(t: &TestLedger, tenant: &Arc<Tenant>, placed: &Placed) -> Result<Erasure, EraseError> {
    let asked = EraseAsked {
        record_id: placed.receipt.record_id,
        reason: "asked for".into(),
        only: false,
        principal: "key:admin".into(),
    };
    t.ledger.erase(tenant, &asked, t.now())
}

#[test]
fn a_failure_is_not_erased_to_better_a_grade() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let steps = t.all(&tenant, vec![run("r"), step("r", 0), step("r", 1)]);
    let failure = t
        .ledger
        .capture_failure(&tenant, "r", &failure(), t.now())
        .unwrap();
    t.complete(&tenant, "r");
    let grade = |t: &TestLedger| {
        let answer = t.ledger.run_integrity(&tenant, "r").unwrap().answer;
        ["grade", "has_capture_failures", "score"].map(|name| answer.get(name).cloned().unwrap())
    };
    let before = grade(&t);
    assert!(matches!(
        erase(&t, &tenant, &failure),
        Err(EraseError::Kept("evidence.capture_failure"))
    ));
    erase(&t, &tenant, &steps[1]).unwrap();
    assert_eq!(grade(&t), before);
    t.ledger
        .run_seal(&tenant, "r", (ActorType::System, None), t.now())
        .unwrap();
    assert_eq!((grade(&t), &before[1]), (before.clone(), &Value::Bool(true)));
    t.check();
}

/// One that is permanent is the whole grade, and one of which nothing is known is not.
#[test]
fn no_run_is_sealed_over_a_failure_that_was_taken_away() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    t.all(&tenant, vec![run("r"), step("r", 0)]);
    let placed = t
        .ledger
        .capture_failure(&tenant, "r", &failure(), t.now())
        .unwrap();
    t.complete(&tenant, "r");
    let leaf = LeafKey::new(tenant.ledger().row.ledger_no, placed.receipt.leaf_index);
    let delete = format!("DELETE FROM bodies WHERE leaf = {}", leaf.as_i64());
    tamper(t.path(), &delete);
    let refused = t
        .ledger
        .run_seal(&tenant, "r", (ActorType::System, None), t.now());
    assert!(
        matches!(&refused, Err(IntegrityError::Read(error)) if error.to_string().contains("it is missing")),
        "{refused:?}"
    );
    assert_eq!(t.ledger.seal_due(due(&t)), 0);
    assert!(t.ledger.run_integrity(&tenant, "r").is_err());
}

#[test]
fn what_an_erased_step_could_decide_is_unknown() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let root = Span::default();
    let child = |span: u8, start: u64, end: u64| Span {
        span,
        parent: Some(1),
        start,
        end,
        ..Span::default()
    };
    let spans = [root.clone(), child(2, 11, 12), child(3, 15, 13)];
    let placed = t.all(&tenant, spans.iter().map(Span::draft).collect());
    let facts = |t: &TestLedger| {
        let answer = t.ledger.run_integrity(&tenant, &root.run_id()).unwrap().answer;
        let facts = answer.get("completeness").unwrap().clone();
        [
            "root_present",
            "no_orphan_parents",
            "nothing_dropped",
            "clock_sane",
        ]
        .map(|name| facts.get(name).and_then(Value::as_str).unwrap().to_owned())
    };
    assert_eq!(facts(&t), ["pass", "pass", "pass", "fail"]);
    // Another step shows a fault all the same: it stays one.
    erase(&t, &tenant, &placed[1]).unwrap();
    assert_eq!(facts(&t), ["pass", "unknown", "unknown", "fail"]);
    erase(&t, &tenant, &placed[2]).unwrap();
    assert_eq!(facts(&t), ["pass", "unknown", "unknown", "unknown"]);

    // Without its root a run is not said to have none, nor are the root's children said to be orphans.
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let placed = t.all(&tenant, spans[..2].iter().map(Span::draft).collect());
    erase(&t, &tenant, &placed[0]).unwrap();
    let answer = t.ledger.run_integrity(&tenant, &root.run_id()).unwrap().answer;
    let facts = answer.get("completeness").unwrap();
    for name in ["root_present", "no_orphan_parents"] {
        assert_eq!(facts.get(name), Some(&Value::from("unknown")), "{name}");
    }
    t.check();
}
